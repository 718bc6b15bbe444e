"""Memory that tensors pass through on their way to the engine: bounded, reused, never taken back too early.

Fresh memory costs more than the copy that fills it (the kernel clears each page on first touch), so buffers
are kept and handed out again. A buffer is handed out again only once nothing refers to its bytes any more:
the lease on it is a Python object that every view, array and tensor over the bytes keeps alive, and its end
is what returns the buffer. An engine that holds on to a tensor therefore never sees it change; it just costs
the memory it holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import queue
import threading
import weakref
from collections.abc import Callable

BUFFER_BYTES = 64 << 20
_GRANULE = 2 << 20
"""Buffers are whole huge pages."""
_LOOK_AGAIN = 0.02
"""Seconds between two looks at the conditions that nobody announces."""


class BufferPool:
    """Hands out memory, `limit` bytes at most in all while that is possible."""

    def __init__(self, limit: int) -> None:
        if limit < _GRANULE:
            raise ValueError(f"limit = {limit}, must be at least {_GRANULE} bytes")
        self._limit = limit
        # SimpleQueue, because its put may be called from a finalizer at any point of any thread.
        self._returned: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        self._idle: list[mmap.mmap] = []
        self._lock = threading.Lock()
        self.total_bytes = 0
        """Held at present, handed out or idle."""
        self.peak_bytes = 0

    def acquire(
        self,
        size: int,
        *,
        stop: threading.Event,
        may_exceed: Callable[[], bool],
    ) -> memoryview | None:
        """A writable view of `size` bytes of unspecified content; waits until the limit allows it.

        Args:
            size: at least 1.
            stop: gives up when set.
            may_exceed: asked while waiting; True when no buffer can come back before this one is there
                (the consumer keeps what it got and waits for more).

        Returns:
            The view, or None when `stop` was set.
        """
        wanted = -(-max(size, min(BUFFER_BYTES, self._limit)) // _GRANULE) * _GRANULE
        while not stop.is_set():
            with self._lock:
                self._collect()
                buffer = self._take_idle(size)
                if buffer is None and (self._make_room(wanted) or self.total_bytes == 0 or may_exceed()):
                    buffer = self._allocate(wanted)
            if buffer is not None:
                return self._lease(buffer, size)
            with contextlib.suppress(queue.Empty):
                self._idle.append(self._returned.get(timeout=_LOOK_AGAIN))
        return None

    def close(self) -> None:
        """Give idle buffers back to the system; leased ones follow when their last reference goes."""
        with self._lock:
            self._limit = 0
            self._collect()
            self._make_room(1)

    def _collect(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.append(self._returned.get_nowait())

    def _take_idle(self, size: int) -> mmap.mmap | None:
        # The one that came back last is the one whose bytes the processor's cache may still know.
        for position in reversed(range(len(self._idle))):
            if len(self._idle[position]) >= size:
                return self._idle.pop(position)
        return None

    def _make_room(self, size: int) -> bool:
        """Free idle buffers, all too small, until `size` more bytes fit. Whether they do."""
        while self._idle and self.total_bytes + size > self._limit:
            buffer = self._idle.pop(0)
            self.total_bytes -= len(buffer)
            buffer.close()
        return self.total_bytes + size <= self._limit

    def _allocate(self, size: int) -> mmap.mmap:
        # Private: Python's default, shared, is a file to the kernel and gets no huge pages.
        buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages serves small ones
            buffer.madvise(mmap.MADV_HUGEPAGE)
        self.total_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.total_bytes)
        return buffer

    def _lease(self, buffer: mmap.mmap, size: int) -> memoryview:
        lease = (ctypes.c_char * size).from_buffer(buffer)
        weakref.finalize(lease, self._returned.put, buffer).atexit = False
        return memoryview(lease).cast("B")
