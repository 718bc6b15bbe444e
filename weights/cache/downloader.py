"""Bringing files whole into the cache: many ranged reads at a time, every file verified before it counts."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import mmap
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from weights import processors
from weights.cache.cache import Cache
from weights.cache.caching_reader import FillingBacking, WriteThrough
from weights.cache.mapped_file import Counter, MappedBacking
from weights.errors import CacheError, IntegrityError
from weights.manifest import FileEntry, SafetensorsHeader
from weights.plan import PART_BYTES, Part, parts_of_file, parts_of_weights
from weights.sources.ranged_reader import ReaderClosedError
from weights.sources.source import Source

_REPORT_EVERY = 0.1


def default_concurrency() -> int:
    """Ranged reads at a time: eight for each processor that may be used, between 16 and 64."""
    return min(64, max(16, int(8 * processors.available())))


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a pull is, in bytes and seconds."""

    done_bytes: int
    total_bytes: int
    seconds: float

    @property
    def bytes_per_second(self) -> float | None:
        """Mean rate so far; None before the first byte."""
        return self.done_bytes / self.seconds if self.done_bytes and self.seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """At that rate; None when there is none yet."""
        rate = self.bytes_per_second
        return None if rate is None else (self.total_bytes - self.done_bytes) / rate


@dataclasses.dataclass(frozen=True)
class Request:
    """What the caller asked for, through all attempts."""

    progress: Callable[[Progress], None] | None = None
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    """Gives up at once."""
    enough: threading.Event = dataclasses.field(default_factory=threading.Event)
    """Fetches nothing more; what has arrived whole by then is still verified and published."""
    started: float = dataclasses.field(default_factory=time.monotonic)
    concurrency: int = dataclasses.field(default_factory=default_concurrency)

    @property
    def seconds(self) -> float:
        """Since the request was made."""
        return time.monotonic() - self.started


@dataclasses.dataclass
class _Arrival:
    """A file that is being fetched."""

    backing: FillingBacking
    again: bool = False


class Fetching:
    """Files of one source at one version, on their way into a cache.

    Args:
        source: of the files.
        cache: for them; stays open.
        request: whom to report to and when to stop.
    """

    def __init__(self, source: Source, cache: Cache, request: Request) -> None:
        self._source = source
        self._cache = cache
        self._request = request
        self._counter = Counter()
        self._stop = threading.Event()  # ends this attempt; the request's ends all of them
        self._total = 0
        self.digests: dict[str, str] = {}
        """SHA-256 of the files that are in the cache, by path."""
        self._buffers: queue.LifoQueue[memoryview] = queue.LifoQueue()

    @property
    def bytes_read(self) -> int:
        """Bytes that came from the source so far."""
        return self._counter.source

    def expect(self, wanted: Iterable[FileEntry]) -> None:
        """Progress counts to the end of these files."""
        self._total = sum(entry.size for entry in wanted)

    def check_present(self, wanted: Iterable[FileEntry]) -> list[FileEntry]:
        """Check what is here, part by part; damaged parts are put right. Returns what is not here."""
        missing = []
        present = []
        for entry in wanted:
            blob = self._cache.blob(self._source.identity, entry)
            if blob is None:
                missing.append(entry)
            else:
                present.append((entry, blob))
                self.digests[entry.path] = blob.sha256
        self._cache.use(list(self.digests.values()))
        jobs = []
        backings = []
        for entry, blob in present:
            if entry.size:
                repair = (self._cache, self._source, entry)
                backing = MappedBacking(blob.path, blob.parts, self._counter, blob=blob, repair=repair)
                backings.append(backing)
                jobs += [(backing.check, part) for part in blob.parts]
        try:
            self._run(jobs)
        finally:
            for backing in backings:
                backing.close()
        return missing

    def fetch(self, missing: Sequence[FileEntry], headers: Mapping[str, SafetensorsHeader]) -> None:
        """Bring files here, verify and publish them; only those that are complete when `enough` is set.

        Raises:
            WeightsError: of the kinds in `weights.errors`.
            ReaderClosedError: the request was stopped.
        """
        arrivals: list[_Arrival] = []
        try:
            for entry in missing:
                header = headers.get(entry.path)
                parts = parts_of_file(entry.size) if header is None else parts_of_weights(header)
                filling = self._cache.fill(self._source.identity, entry, parts)
                backing = FillingBacking(
                    self._source,
                    self._cache,
                    filling,
                    writer=WriteThrough(),
                    counter=self._counter,
                    stop=self._stop,
                )
                arrivals.append(_Arrival(backing))
            self._run(
                [(self._bring, arrival, part) for arrival in arrivals for part in arrival.backing.parts]
            )
            if self._request.enough.is_set():
                for arrival in [one for one in arrivals if not one.backing.complete()]:
                    arrivals.remove(arrival)
                    arrival.backing.close()  # the lease goes with it: whoever wants the rest may fetch it
            self._run([(self._verify, arrival) for arrival in arrivals])
            wrong = [arrival for arrival in arrivals if arrival.again]
            self._run([(self._bring, arrival, part) for arrival in wrong for part in arrival.backing.parts])
            self._run([(self._verify, arrival) for arrival in wrong])
            for arrival in arrivals:
                assert arrival.backing.published is not None
                self.digests[arrival.backing.entry.path] = arrival.backing.published
        finally:
            for arrival in arrivals:
                arrival.backing.close()
        self._cache.use(list(self.digests.values()))

    def _bring(self, arrival: _Arrival, part: Part) -> None:
        if self._request.enough.is_set():
            return
        try:
            buffer = self._buffers.get_nowait()
        except queue.Empty:
            # Of the largest size that a part has: a page-aligned buffer that is used for many parts.
            buffer = memoryview(mmap.mmap(-1, PART_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        if part.nbytes > len(buffer):  # a header may be larger
            buffer = memoryview(mmap.mmap(-1, part.nbytes))
        try:
            arrival.backing.read(part, buffer[: part.nbytes])
        except OSError as error:
            with self._cache.writing(arrival.backing.entry.size):
                raise
            raise CacheError(str(error)) from error
        self._buffers.put(buffer)

    def _verify(self, arrival: _Arrival) -> None:
        try:
            arrival.backing.verify()
        except IntegrityError:
            if arrival.again:
                raise
            arrival.again = True

    def _run(self, jobs: Sequence[tuple[Callable[..., object], *tuple[object, ...]]]) -> None:
        """Do jobs on many threads, report meanwhile, and end all of them at the first failure."""
        if not jobs:
            return
        with concurrent.futures.ThreadPoolExecutor(self._request.concurrency, "weights-pull") as pool:
            running = {pool.submit(self._unless_stopped, *job) for job in jobs}
            try:
                while running:
                    finished, running = concurrent.futures.wait(
                        running, _REPORT_EVERY, concurrent.futures.FIRST_EXCEPTION
                    )
                    for future in finished:
                        future.result()
                    self.report()
                    self._give_up_if_asked()
            except BaseException:
                self._stop.set()
                self._source.close()
                pool.shutdown(cancel_futures=True)
                raise

    def _unless_stopped(self, job: Callable[..., object], *arguments: object) -> None:
        if self._stop.is_set():
            raise ReaderClosedError
        job(*arguments)

    def _give_up_if_asked(self) -> None:
        if self._request.stop.is_set():
            raise ReaderClosedError

    def report(self) -> None:
        """Tell how far it is."""
        if self._request.progress is not None:
            done = min(self._total, self._counter.source + self._counter.cache)
            self._request.progress(Progress(done, self._total, self._request.seconds))
