"""Tensors in the order in which an engine uses them, while later ones are still being read.

    workers    take turns to open extents in order, each with a buffer or a mapping, and fill their parts;
               the interpreter lock is free while they do
    consumer   iterates: waits for the next extent, gets its tensors as views, copies or keeps them

The consumer does not wait for a mapped file: it copies an extent while a worker checks it, so that one pass
over memory serves both. An extent that turns out damaged is repaired and delivered again.

No extent is opened while the buffers' limit is reached or too many bytes wait for the consumer, so memory is
bounded by the limit and not by the model. A consumer that takes a tensor wakes no thread without need: where
processors are few, a thread that wakes takes the processor of the consumer.
"""

from __future__ import annotations

import concurrent.futures
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Self, TypeAlias

from weights import processors
from weights.cache.file_readers import BufferedReader
from weights.cache.mapped_file import MappedFile
from weights.errors import IntegrityError
from weights.loading.buffers import BufferPool
from weights.loading.worker_ramp import WorkerRamp
from weights.manifest import TensorEntry
from weights.plan import Extent, Part
from weights.sources.ranged_reader import ReaderClosedError

FileReader: TypeAlias = BufferedReader | MappedFile

_POLL_SECONDS = 0.1
"""Time between two checks for an error while waiting."""
_FIRST_WORKERS = 4
_WAITING_SHARE = 0.125
"""Share of the limit that may wait for the consumer before reading pauses."""
_CHECKED_AHEAD_BYTES = 20 << 20
"""Bytes of mapped files that may: further ones would leave the processor's cache before they are used."""


class _PendingExtent:
    """An extent that is yet to be delivered."""

    def __init__(self, extent: Extent) -> None:
        self.extent = extent
        self.view: memoryview | None = None
        """The buffer that it is read into, until it is delivered; None for a mapped file."""
        self.missing = len(extent.parts)
        """How many of its parts have not been read or checked."""
        self.done = threading.Event()


class TensorStream:
    """One pass over the tensors of a model. Close it, or use it in a with statement."""

    def __init__(
        self,
        extents: Sequence[Extent],
        readers: Mapping[str, FileReader],
        *,
        limit_bytes: int,
        concurrency: int,
    ) -> None:
        """Start reading.

        Args:
            extents: what to read, in order.
            readers: by file.
            limit_bytes: of memory for tensors on their way.
            concurrency: parts read at the same time.
        """
        self._extents = extents
        self._readers = readers
        self._limit = limit_bytes
        self._pool = BufferPool(limit_bytes)
        self._waiting = 0
        """Bytes that have been read and not been taken by the consumer, less what it took unchecked."""
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._taken = threading.Condition(self._lock)
        self._pending = [_PendingExtent(extent) for extent in extents]
        self._repeats: queue.SimpleQueue[Sequence[_PendingExtent] | None] = queue.SimpleQueue()
        """Extents to read again; None ends the workers."""
        self._awaited: _PendingExtent | None = None
        """What the consumer waits for."""
        self._jobs = self._in_order()
        self._jobs_lock = threading.Lock()
        self._held_back = False
        """Whether the next job waits for the consumer."""
        self._damaged: set[_PendingExtent] = set()
        """Mapped extents that may have been delivered damaged, and are repaired now."""
        all_mapped = all(isinstance(reader, MappedFile) for reader in readers.values())
        self._ramp = WorkerRamp(
            self._work,
            # One thread checks mapped bytes faster than most consumers take them.
            first=1 if all_mapped else _FIRST_WORKERS,
            limit=concurrency,
            stop=self._stop,
            held_back=lambda: self._held_back,
            failed=self._fail,
        )

    @property
    def peak_buffer_bytes(self) -> int:
        """The most memory that buffers took at once."""
        return self._pool.peak_bytes

    def __iter__(self) -> Iterator[tuple[TensorEntry, memoryview]]:
        """Each tensor with its bytes.

        The bytes do not change for as long as anything refers to them. When a file does not have the checksum
        that its source declares, or a part of a cached one not its digest, its tensors are delivered once
        more, and the later delivery counts. The iteration ends without an exception only when everything that
        counts is right.

        Raises:
            IntegrityError: a file was wrong again.
            SourceError: the source does not deliver.
        """
        yield from self._deliver(self._pending)
        for pending in self._pending:
            self._wait_for(pending)  # a mapped one may have been delivered before it was checked
        yield from self._deliver([pending for pending in self._pending if pending in self._damaged])
        wrong = self._unverified()
        repeats = [_PendingExtent(extent) for extent in self._extents if extent.file in wrong]
        if repeats:
            self._repeats.put(repeats)
            yield from self._deliver(repeats)
            still_wrong = self._unverified(wrong)
            if still_wrong:
                raise next(iter(still_wrong.values()))
        self._repeats.put(None)

    def close(self) -> None:
        """Stop reading and free the buffers. Views that are still referred to stay valid."""
        self._stop.set()
        self._repeats.put(None)
        with self._lock:
            self._taken.notify_all()
        self._ramp.join()
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _deliver(self, pending_extents: Sequence[_PendingExtent]) -> Iterator[tuple[TensorEntry, memoryview]]:
        for pending in pending_extents:
            extent = pending.extent
            reader = self._readers[extent.file]
            if isinstance(reader, MappedFile):
                self._raise_error()
                view = reader.view[extent.begin : extent.begin + extent.nbytes]
            else:
                self._wait_for(pending)
                assert pending.view is not None
                view, pending.view = pending.view, None
            with self._lock:
                self._waiting -= extent.nbytes
                self._taken.notify_all()
            if not isinstance(reader, MappedFile):
                reader.delivered(extent.parts, view)
            for tensor in extent.tensors:
                start = tensor.begin - extent.begin
                yield tensor, view[start : start + tensor.nbytes]
            del view  # the buffer is free as soon as the consumer lets go of its tensors

    def _wait_for(self, pending: _PendingExtent) -> None:
        self._awaited = pending
        while not pending.done.wait(_POLL_SECONDS):
            self._raise_error()
        self._awaited = None
        self._raise_error()

    def _unverified(self, files: Mapping[str, object] | None = None) -> dict[str, IntegrityError]:
        """The files that are not what their source declared, of `files` or of all."""
        readers = {
            file: reader
            for file in dict.fromkeys(extent.file for extent in self._extents)
            if not isinstance(reader := self._readers[file], MappedFile)
            and reader.must_verify
            and (files is None or file in files)
        }
        if not readers:
            return {}
        # The engine waits for this: hash as many files at a time as there are processors.
        at_a_time = min(len(readers), max(1, int(processors.available())))
        with concurrent.futures.ThreadPoolExecutor(at_a_time, "weights-verify") as pool:
            errors = pool.map(_problem, readers.values())
            return {file: error for file, error in zip(readers, errors, strict=True) if error is not None}

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

    def _in_order(self) -> Iterator[tuple[_PendingExtent, Part]]:
        """All parts to read, each when its extent may be opened; ends early when told to stop."""
        pending_extents: Sequence[_PendingExtent] | None = self._pending
        while pending_extents is not None:
            for pending in pending_extents:
                if not self._open(pending):
                    return
                for part in pending.extent.parts:
                    yield pending, part
            self._held_back = True
            pending_extents = self._repeats.get()
            self._held_back = False

    def _open(self, pending: _PendingExtent) -> bool:
        """Wait until an extent may be opened, and give it the buffer it needs; False when told to stop."""
        extent = pending.extent
        mapped = isinstance(self._readers[extent.file], MappedFile)
        if not self._wait_for_consumer(mapped=mapped):
            return False
        if mapped:
            return True
        self._held_back = True
        pending.view = self._pool.acquire(extent.nbytes, stop=self._stop, may_exceed=self._is_starving)
        self._held_back = False
        return pending.view is not None

    def _wait_for_consumer(self, *, mapped: bool) -> bool:
        """Wait until few enough bytes wait for the consumer; False when told to stop.

        A consumer that is slower than the source gains nothing from more bytes, and each costs fresh memory
        or, for a mapping, the page cache of others.
        """
        ahead = min(self._limit, _CHECKED_AHEAD_BYTES) if mapped else self._limit * _WAITING_SHARE
        with self._lock:
            while self._waiting >= ahead and not self._stop.is_set():
                self._held_back = True
                self._taken.wait(_POLL_SECONDS)
            self._held_back = False
        return not self._stop.is_set()

    def _is_starving(self) -> bool:
        """Whether the consumer keeps every buffer and waits for an extent that has none yet."""
        awaited = self._awaited
        return (
            awaited is not None
            and awaited.view is None
            and not any(
                reader.pending() for reader in self._readers.values() if not isinstance(reader, MappedFile)
            )
        )

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                with self._jobs_lock:
                    job = next(self._jobs, None)
                if job is None:
                    return
                self._fill(*job)
                del job
        except BaseException as error:  # noqa: BLE001 - raised again on the consumer's thread
            self._fail(error)

    def _fill(self, pending: _PendingExtent, part: Part) -> None:
        extent = pending.extent
        reader = self._readers[extent.file]
        right = True
        if isinstance(reader, MappedFile):
            right = reader.check(part)
        else:
            assert pending.view is not None
            start = part.begin - extent.begin
            reader.read(part, pending.view[start : start + part.nbytes])
        with self._lock:
            if not right:
                self._damaged.add(pending)
            pending.missing -= 1
            finished = pending.missing == 0
            if finished:
                self._waiting += extent.nbytes
        if finished:
            pending.done.set()


def _problem(reader: BufferedReader) -> IntegrityError | None:
    try:
        reader.verify()
    except IntegrityError as error:
        return error
    return None
