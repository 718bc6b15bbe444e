"""Memory that tensors pass through on their way to the engine: bounded, and reused only when it is free.

Fresh memory costs more than the copy that fills it (the kernel clears each page on first touch), so buffers
are kept and handed out again, but only once nothing refers to their bytes any more: every view, array and
tensor over the bytes keeps one Python object alive, and its finalizer returns the buffer. An engine that
keeps a tensor therefore never sees it change; it only costs the memory that it keeps.
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
"""Buffers consist of whole huge pages."""
_POLL_SECONDS = 0.02
"""Time between two checks of `stop` and `may_exceed` while waiting for a buffer."""


class BufferPool:
    """Hands out buffers, of `limit` bytes in all unless a caller could not go on otherwise."""

    def __init__(self, limit: int) -> None:
        if limit < _GRANULE:
            raise ValueError(f"limit = {limit}, must be at least {_GRANULE} bytes")
        self._limit = limit
        # SimpleQueue, because its put may be called from a finalizer at any point of any thread.
        self._returned: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        self._idle: list[mmap.mmap] = []
        self._lock = threading.Lock()
        self.total_bytes = 0
        """Bytes of all buffers at present, in use or idle."""
        self.peak_bytes = 0
        """The most that `total_bytes` has been."""

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
            may_exceed: called while waiting; True allows more than the limit, because no buffer can come
                back before this one is filled (the consumer keeps what it got and waits for more).

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
                return self._view_of(buffer, size)
            with contextlib.suppress(queue.Empty):
                self._idle.append(self._returned.get(timeout=_POLL_SECONDS))
        return None

    def close(self) -> None:
        """Give idle buffers back to the system; buffers in use follow with the last reference to them."""
        with self._lock:
            self._limit = 0
            self._collect()
            self._make_room(1)

    def _collect(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.append(self._returned.get_nowait())

    def _take_idle(self, size: int) -> mmap.mmap | None:
        # The buffer that came back last is the one most likely to be in the processor's cache.
        for position in reversed(range(len(self._idle))):
            if len(self._idle[position]) >= size:
                return self._idle.pop(position)
        return None

    def _make_room(self, size: int) -> bool:
        """Free idle buffers, which are all too small, until `size` more bytes fit; False if they do not."""
        while self._idle and self.total_bytes + size > self._limit:
            buffer = self._idle.pop(0)
            self.total_bytes -= len(buffer)
            buffer.close()
        return self.total_bytes + size <= self._limit

    def _allocate(self, size: int) -> mmap.mmap:
        # Private, because shared memory (Python's default) gets no huge pages.
        buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages uses small ones
            buffer.madvise(mmap.MADV_HUGEPAGE)
        self.total_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.total_bytes)
        return buffer

    def _view_of(self, buffer: mmap.mmap, size: int) -> memoryview:
        owner = (ctypes.c_char * size).from_buffer(buffer)
        weakref.finalize(owner, self._returned.put, buffer).atexit = False
        return memoryview(owner).cast("B")
