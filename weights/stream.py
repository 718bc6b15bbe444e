"""Tensors in the order an engine wants them, while later ones are still on the wire.

    feeder     opens extents in order, each with a buffer (or a mapping), and queues their parts
    workers    fill parts; the interpreter lock is free while they do
    consumer   iterates: waits for the next extent, gets its tensors as views, copies or keeps them

The feeder stops when the pool's limit is reached and goes on when the consumer has let go of tensors, so
memory is bounded by the limit and not by the model.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from weights.backing import Backing
from weights.buffers import BufferPool
from weights.errors import IntegrityError
from weights.manifest import TensorEntry
from weights.plan import Extent, Part
from weights.ranged import ReaderClosedError

_LOOK_AGAIN = 0.1
_LOOK_SOON = 0.0005
_FIRST_WORKERS = 4
_RAMP_SECONDS = 0.05
_BUSY = 0.5
"""Share of all processors' time that this process wants, above which more workers would not help."""
_JOBS_QUEUED = 8
_WAITING_SHARE = 0.125
"""How much of the limit may wait for the consumer before reading pauses."""
_CHECKED_AHEAD = 20 << 20
"""How much of mapped files may: beyond that it has left the processor's cache when it is used."""


class _Opened:
    """An extent whose bytes are arriving."""

    def __init__(self, extent: Extent, view: memoryview) -> None:
        self.extent = extent
        self.view: memoryview | None = view
        self.left = len(extent.parts)
        self.done = threading.Event()


class TensorStream:
    """One pass over the tensors of a model. Close it, or use it in a with statement."""

    def __init__(
        self,
        extents: Sequence[Extent],
        backings: Mapping[str, Backing],
        *,
        limit_bytes: int,
        concurrency: int,
    ) -> None:
        """Start reading.

        Args:
            extents: what, in order.
            backings: by file.
            limit_bytes: of memory for tensors on their way.
            concurrency: parts read at the same time.
        """
        self._extents = extents
        self._backings = backings
        self._limit = limit_bytes
        self._pool = BufferPool(limit_bytes)
        self._all_mapped = all(backing.mapped() is not None for backing in backings.values())
        self._waiting = 0
        """Bytes that have arrived and that the consumer has not taken yet."""
        self._stop = threading.Event()
        self._starving = False
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._opened: queue.SimpleQueue[_Opened | None] = queue.SimpleQueue()
        self._jobs: queue.Queue[tuple[_Opened, Part]] = queue.Queue(_JOBS_QUEUED)
        self._again: queue.SimpleQueue[Sequence[Extent] | None] = queue.SimpleQueue()
        self._workers: list[threading.Thread] = []
        self._threads = [threading.Thread(target=self._feed, name="weights-feeder", daemon=True)]
        self._threads.append(threading.Thread(target=self._hire, args=(concurrency,), name="weights-ramp"))
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    @property
    def peak_buffer_bytes(self) -> int:
        """The most memory that buffers took at once."""
        return self._pool.peak_bytes

    def __iter__(self) -> Iterator[tuple[TensorEntry, memoryview]]:
        """Each tensor with its bytes.

        The bytes stay what they are for as long as something refers to them. When a file turns out not to
        have the checksum that its source declares, its tensors are fetched and delivered once more, and the
        later ones count; the iteration only ends well when all that has been delivered is right.

        Raises:
            IntegrityError: wrong again.
            SourceError: the source does not deliver.
        """
        yield from self._deliver(len(self._extents))
        wrong = self._unverified()
        again = [extent for extent in self._extents if extent.file in wrong]
        if again:
            self._again.put(again)
            yield from self._deliver(len(again))
            still = self._unverified(wrong)
            if still:
                raise next(iter(still.values()))
        self._again.put(None)

    def close(self) -> None:
        """Stop reading and give memory back. Views that are still referred to stay valid."""
        self._stop.set()
        self._again.put(None)
        for thread in self._threads:
            thread.join()
        for thread in self._workers:  # complete now: who hires has ended
            thread.join()
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _deliver(self, count: int) -> Iterator[tuple[TensorEntry, memoryview]]:
        for _ in range(count):
            opened = self._next_opened()
            while not opened.done.wait(_LOOK_AGAIN):
                self._raise_error()
            self._raise_error()
            view, opened.view = opened.view, None
            assert view is not None
            extent = opened.extent
            with self._lock:
                self._waiting -= extent.nbytes
            self._backings[extent.file].delivered(extent.parts, view)
            for tensor in extent.tensors:
                start = tensor.begin - extent.begin
                yield tensor, view[start : start + tensor.nbytes]
            del view, opened

    def _next_opened(self) -> _Opened:
        while True:
            try:
                opened = self._opened.get_nowait()
            except queue.Empty:
                # Everything opened so far is with the consumer.
                self._starving = True
                try:
                    opened = self._opened.get(timeout=_LOOK_AGAIN)
                except queue.Empty:
                    self._raise_error()
                    continue
                finally:
                    self._starving = False
            assert opened is not None
            return opened

    def _unverified(self, files: Mapping[str, object] | None = None) -> dict[str, IntegrityError]:
        wrong: dict[str, IntegrityError] = {}
        for file in dict.fromkeys(extent.file for extent in self._extents):
            backing = self._backings[file]
            if backing.must_verify and (files is None or file in files):
                try:
                    backing.verify()
                except IntegrityError as error:
                    wrong[file] = error
        return wrong

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
        if self._stop.is_set():
            raise ReaderClosedError

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
        self._stop.set()

    def _hire(self, most: int) -> None:
        """Start workers: few, and twice as many as long as the processors are not busy with them.

        A far store needs dozens of connections to fill the wire, a near one is at its best with a few:
        more only push each other, and the consumer, from the processors.
        """
        processors = os.cpu_count() or 1
        while not self._stop.is_set():
            # One checks mapped bytes faster than most consumers take them.
            first = 1 if self._all_mapped else _FIRST_WORKERS
            for _ in range(min(most - len(self._workers), len(self._workers) or first)):
                worker = threading.Thread(
                    target=self._work, name=f"weights-reader-{len(self._workers)}", daemon=True
                )
                self._workers.append(worker)
                worker.start()
            if len(self._workers) >= most:
                return
            began, wanted = time.monotonic(), _processor_seconds_wanted()
            if self._stop.wait(_RAMP_SECONDS):
                return
            # Without a queue it is not the workers that are too few.
            while self._jobs.empty() or _processor_seconds_wanted() - wanted > _BUSY * processors * (
                time.monotonic() - began
            ):
                began, wanted = time.monotonic(), _processor_seconds_wanted()
                if self._stop.wait(_RAMP_SECONDS):
                    return

    def _feed(self) -> None:
        try:
            extents: Sequence[Extent] | None = self._extents
            while extents is not None:
                for extent in extents:
                    if not self._open(extent):
                        return
                extents = self._again.get()
        except BaseException as error:  # noqa: BLE001 - the consumer's thread raises it
            self._fail(error)

    def _open(self, extent: Extent) -> bool:
        # A consumer that is slower than the wire gains nothing from more bytes that wait for it, and touching
        # fresh memory (or, for a mapping, pushing out everybody's page cache) has its price.
        whole = self._backings[extent.file].mapped()
        ahead = self._limit * _WAITING_SHARE if whole is None else min(self._limit, _CHECKED_AHEAD)
        while self._waiting >= ahead:
            if self._stop.wait(_LOOK_AGAIN / 20 if whole is None else _LOOK_SOON):
                return False
        if whole is not None:
            view: memoryview | None = whole[extent.begin : extent.begin + extent.nbytes]
        else:
            view = self._pool.acquire(extent.nbytes, stop=self._stop, may_exceed=self._stuck)
        if view is None:
            return False
        opened = _Opened(extent, view)
        del view
        self._opened.put(opened)
        for part in extent.parts:
            while True:
                if self._stop.is_set():
                    return False
                try:
                    self._jobs.put((opened, part), timeout=_LOOK_AGAIN)
                    break
                except queue.Full:
                    continue
        return True

    def _stuck(self) -> bool:
        """Whether the consumer keeps every buffer and waits for more."""
        return self._starving and not any(backing.pending() for backing in self._backings.values())

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                opened, part = self._jobs.get(timeout=_LOOK_AGAIN)
            except queue.Empty:
                continue
            try:
                self._fill(opened, part)
            except BaseException as error:  # noqa: BLE001 - the consumer's thread raises it
                self._fail(error)
                return
            del opened

    def _fill(self, opened: _Opened, part: Part) -> None:
        backing = self._backings[opened.extent.file]
        if backing.mapped() is not None:
            backing.check(part)
        else:
            assert opened.view is not None
            start = part.begin - opened.extent.begin
            backing.read(part, opened.view[start : start + part.nbytes])
        with self._lock:
            opened.left -= 1
            finished = opened.left == 0
            if finished:
                self._waiting += opened.extent.nbytes
        if finished:
            opened.done.set()


def _processor_seconds_wanted() -> float:
    """Processor time that this process' threads had or waited for, in seconds.

    The waiting counts: on a machine that others keep busy, more threads are no help either.
    """
    total = 0
    try:
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                had, waited, _ = (task / "schedstat").read_text().split()
                total += int(had) + int(waited)
    except (OSError, ValueError):
        return time.process_time()
    return total / 1e9
