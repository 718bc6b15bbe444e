"""How parts that have arrived get into the cache: at once, or in the background of a load."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from typing import Protocol

from weights.cache.partial_file import PartialFile
from weights.plan import Part

_LOWEST_PRIORITY = 19
"""Niceness of the thread that writes behind: it takes what the load leaves of the processors."""


class PartWriter(Protocol):
    """Writes parts into the cache."""

    def pending(self) -> int:
        """Parts that are yet to be written."""
        ...

    def put(self, partial: PartialFile, part: Part, view: memoryview, digest: bytes) -> None:
        """Write a part."""
        ...

    def drain(self) -> None:
        """Wait until everything is written. Raises the OSError that ended writing, if one did."""
        ...


class WriteThrough:
    """Writes at once, for callers that do nothing else with the bytes. OSErrors pass through."""

    def pending(self) -> int:
        """None."""
        return 0

    def put(self, partial: PartialFile, part: Part, view: memoryview, digest: bytes) -> None:
        """Write a part."""
        partial.write_part(part, view, digest)

    def drain(self) -> None:
        """Return: everything is written."""


class WriteBehind:
    """Writes parts into the cache while the engine already uses them.

    A load never waits for the cache. The views that wait to be written keep their buffers from being reused,
    so only so many may wait; further parts are dropped unwritten. They stay missing in the cache and are
    fetched once more after the load.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Start the writing thread.

        Args:
            limit_bytes: of the buffers that waiting views keep busy. One buffer may always wait.
        """
        self._limit = limit_bytes
        self._jobs: queue.SimpleQueue[tuple[PartialFile, Part, memoryview, bytes] | None] = (
            queue.SimpleQueue()
        )
        self._pending = 0
        # A view of a few bytes keeps the whole buffer from being reused, so buffers are what is counted.
        self._views_of: dict[int, int] = {}
        self._busy_bytes = 0
        self._change = threading.Condition()
        self.error: OSError | None = None
        """The error that ended writing, if one did."""
        self._thread = threading.Thread(target=self._run, name="weights-writer", daemon=True)
        self._thread.start()

    def pending(self) -> int:
        """Parts that are yet to be written."""
        return self._pending

    def put(self, partial: PartialFile, part: Part, view: memoryview, digest: bytes) -> None:
        """Write a part later, unless too many wait or writing has failed."""
        if self.error is not None:
            return
        buffer, size = id(view.obj), memoryview(view.obj).nbytes
        with self._change:
            if buffer not in self._views_of:
                if self._pending and self._busy_bytes + size > self._limit:
                    return
                self._busy_bytes += size
            self._views_of[buffer] = self._views_of.get(buffer, 0) + 1
            self._pending += 1
        self._jobs.put((partial, part, view, digest))

    def drain(self) -> None:
        """Wait until everything is written. Raises the OSError that ended writing, if one did."""
        with self._change:
            self._change.wait_for(lambda: self._pending == 0)
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Write what waits, then end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        # The engine waits for tensors; nobody waits for the cache.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while (job := self._jobs.get()) is not None:
            partial, part, view, digest = job
            try:
                if self.error is None:
                    partial.write_part(part, view, digest)
            except OSError as error:
                # The load goes on without the cache; its report names the error.
                self.error = error
            buffer, size = id(view.obj), memoryview(view.obj).nbytes
            del job, view  # the buffer is free from here on, not only from the next job on
            with self._change:
                self._pending -= 1
                self._views_of[buffer] -= 1
                if not self._views_of[buffer]:
                    del self._views_of[buffer]
                    self._busy_bytes -= size
                self._change.notify_all()
