"""Tensors in the order an engine wants them, while later ones are still on the wire.

    workers    take turns to open extents in order, each with a buffer (or a mapping), and fill their parts;
               the interpreter lock is free while they do
    consumer   iterates: waits for the next extent, gets its tensors as views, copies or keeps them

Of a mapped file the consumer waits for nothing: it copies an extent while a worker checks it, so that one
reading from memory serves both. What turns out damaged is put right and delivered once more.

No extent is opened while the pool's limit is reached; when the consumer has let go of tensors it goes on, so
memory is bounded by the limit and not by the model. Who takes tensors wakes nobody who has something to do:
where processors are few, a thread that is woken takes the one of the consumer.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from weights import processors
from weights.cache.mapped_file import Backing
from weights.errors import IntegrityError
from weights.loading.buffers import BufferPool
from weights.manifest import TensorEntry
from weights.plan import Extent, Part
from weights.sources.ranged_reader import ReaderClosedError

_LOOK_AGAIN = 0.1
_FIRST_WORKERS = 4
_RAMP_SECONDS = 0.05
_BUSY = 0.5
"""Share of all processors' time that this process wants, above which more workers would not help."""
_WAITING_SHARE = 0.125
"""How much of the limit may wait for the consumer before reading pauses."""
_CHECKED_AHEAD = 20 << 20
"""How much of mapped files may: beyond that it has left the processor's cache when it is used."""


class _Arrival:
    """An extent on its way."""

    def __init__(self, extent: Extent) -> None:
        self.extent = extent
        self.view: memoryview | None = None
        """The buffer that its bytes arrive in, from when it has one until it is delivered; none if mapped."""
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
        """Bytes that have arrived and that the consumer has not taken yet, less what it took unchecked."""
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._taken = threading.Condition(self._lock)
        self._arrivals = [_Arrival(extent) for extent in extents]
        self._again: queue.SimpleQueue[Sequence[_Arrival] | None] = queue.SimpleQueue()
        self._missed: _Arrival | None = None
        """What the consumer waits for."""
        self._jobs = self._in_order()
        self._turn = threading.Lock()
        """Of who may take the next job."""
        self._held_back = False
        """Whether the next job waits for the consumer."""
        self._damaged: set[_Arrival] = set()
        """Mapped ones that were not right when they may have been delivered, and are now."""
        self._workers: list[threading.Thread] = []
        self._ramp = threading.Thread(
            target=self._hire, args=(concurrency,), name="weights-ramp", daemon=True
        )
        self._ramp.start()

    @property
    def peak_buffer_bytes(self) -> int:
        """The most memory that buffers took at once."""
        return self._pool.peak_bytes

    def __iter__(self) -> Iterator[tuple[TensorEntry, memoryview]]:
        """Each tensor with its bytes.

        The bytes stay what they are for as long as something refers to them. When a file turns out not to
        have the checksum that its source declares, or a part of a cached one not to have its digest, the
        tensors are fetched and delivered once more, and the later ones count; the iteration only ends well
        when all that has been delivered is right.

        Raises:
            IntegrityError: wrong again.
            SourceError: the source does not deliver.
        """
        yield from self._deliver(self._arrivals)
        for arrival in self._arrivals:
            self._wait_for(arrival)  # a mapped one may have been delivered before
        yield from self._deliver([arrival for arrival in self._arrivals if arrival in self._damaged])
        wrong = self._unverified()
        again = [_Arrival(extent) for extent in self._extents if extent.file in wrong]
        if again:
            self._again.put(again)
            yield from self._deliver(again)
            still = self._unverified(wrong)
            if still:
                raise next(iter(still.values()))
        self._again.put(None)

    def close(self) -> None:
        """Stop reading and give memory back. Views that are still referred to stay valid."""
        self._stop.set()
        self._again.put(None)
        with self._lock:
            self._taken.notify_all()
        self._ramp.join()
        for worker in self._workers:  # complete now: who hires has ended
            worker.join()
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _deliver(self, arrivals: Sequence[_Arrival]) -> Iterator[tuple[TensorEntry, memoryview]]:
        for arrival in arrivals:
            extent = arrival.extent
            whole = self._backings[extent.file].mapped()
            if whole is not None:
                self._raise_error()
                view = whole[extent.begin : extent.begin + extent.nbytes]
            else:
                self._wait_for(arrival)
                assert arrival.view is not None
                view, arrival.view = arrival.view, None
            with self._lock:
                self._waiting -= extent.nbytes
                self._taken.notify_all()
            self._backings[extent.file].delivered(extent.parts, view)
            for tensor in extent.tensors:
                start = tensor.begin - extent.begin
                yield tensor, view[start : start + tensor.nbytes]
            del view, whole

    def _wait_for(self, arrival: _Arrival) -> None:
        self._missed = arrival
        while not arrival.done.wait(_LOOK_AGAIN):
            self._raise_error()
        self._missed = None
        self._raise_error()

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
        granted = processors.available()
        while not self._stop.is_set():
            # One checks mapped bytes faster than most consumers take them.
            first = 1 if self._all_mapped else _FIRST_WORKERS
            for _ in range(min(most - len(self._workers), len(self._workers) or first)):
                worker = threading.Thread(
                    target=self._work, name=f"weights-reader-{len(self._workers)}", daemon=True
                )
                try:
                    worker.start()
                except RuntimeError as error:  # the system gives no more threads: fewer will do
                    if not self._workers:
                        self._fail(error)
                    return
                self._workers.append(worker)
            if len(self._workers) >= most:
                return
            began, wanted = time.monotonic(), _processor_seconds_wanted()
            if self._stop.wait(_RAMP_SECONDS):
                return
            # Where the next part waits for the consumer it is not the workers that are too few.
            while self._held_back or _processor_seconds_wanted() - wanted > _BUSY * granted * (
                time.monotonic() - began
            ):
                began, wanted = time.monotonic(), _processor_seconds_wanted()
                if self._stop.wait(_RAMP_SECONDS):
                    return

    def _in_order(self) -> Iterator[tuple[_Arrival, Part]]:
        """All parts to fill, each when it is time for its extent; ends early when told to stop."""
        arrivals: Sequence[_Arrival] | None = self._arrivals
        while arrivals is not None:
            for arrival in arrivals:
                if not self._open(arrival):
                    return
                for part in arrival.extent.parts:
                    yield arrival, part
            self._held_back = True
            arrivals = self._again.get()
            self._held_back = False

    def _open(self, arrival: _Arrival) -> bool:
        """Wait until it is time for an extent, and give it the buffer it needs; False when told to stop."""
        extent = arrival.extent
        mapped = self._backings[extent.file].mapped() is not None
        if not self._is_time(mapped=mapped):
            return False
        if mapped:
            return True
        self._held_back = True
        arrival.view = self._pool.acquire(extent.nbytes, stop=self._stop, may_exceed=self._stuck)
        self._held_back = False
        return arrival.view is not None

    def _is_time(self, *, mapped: bool) -> bool:
        # A consumer that is slower than the wire gains nothing from more bytes that wait for it, and touching
        # fresh memory (or, for a mapping, pushing out everybody's page cache) has its price.
        ahead = min(self._limit, _CHECKED_AHEAD) if mapped else self._limit * _WAITING_SHARE
        with self._lock:
            while self._waiting >= ahead and not self._stop.is_set():
                self._held_back = True
                self._taken.wait(_LOOK_AGAIN)
            self._held_back = False
        return not self._stop.is_set()

    def _stuck(self) -> bool:
        """Whether the consumer keeps every buffer and waits for an extent that has none yet."""
        missed = self._missed
        starving = missed is not None and missed.view is None
        return starving and not any(backing.pending() for backing in self._backings.values())

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                with self._turn:
                    job = next(self._jobs, None)
                if job is None:
                    return
                self._fill(*job)
                del job
        except BaseException as error:  # noqa: BLE001 - the consumer's thread raises it
            self._fail(error)

    def _fill(self, arrival: _Arrival, part: Part) -> None:
        extent = arrival.extent
        backing = self._backings[extent.file]
        right = True
        if arrival.view is None:
            right = backing.check(part)
        else:
            start = part.begin - extent.begin
            backing.read(part, arrival.view[start : start + part.nbytes])
        with self._lock:
            if not right:
                self._damaged.add(arrival)
            arrival.left -= 1
            finished = arrival.left == 0
            if finished:
                self._waiting += extent.nbytes
        if finished:
            arrival.done.set()


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
