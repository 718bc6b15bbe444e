"""A model's address in, a folder that an engine can open out.

In S3: listed, its headers checked before the first gigabyte moves, fetched in parallel ranges into the
cache, verified, published whole. On a mounted file system: checked and used in place.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import mmap
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from weights.backing import Counter, MappedBacking
from weights.cache import Cache
from weights.errors import CacheError, IntegrityError, ObjectChangedError
from weights.listing import Listing, inspect, list_model, read_headers
from weights.manifest import FileEntry, Manifest, SafetensorsHeader
from weights.plan import PART_BYTES, Part, parts_of_file, parts_of_weights
from weights.ranged import ReaderClosedError, RetryPolicy
from weights.source import LocalSource, Source, open_source
from weights.through_cache import FillingBacking, WriteThrough

_VERSIONS_TRIED = 3
_REPORT_EVERY = 0.1


def default_concurrency() -> int:
    """Ranged reads at a time: eight for each processor, between 16 and 64."""
    return min(64, max(16, 8 * (os.cpu_count() or 1)))


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
class PulledModel:
    """A model that is ready to be opened.

    `path` is a folder with the model's files. `bytes_read` came from the source. `from_cache` says that
    nothing had to. A model on a mounted file system stays where it is: `bytes_read` is 0 and `from_cache`
    False.

    A model in the cache is safe from eviction until `release` is called or the process ends.
    """

    path: Path
    manifest: Manifest
    bytes_read: int
    from_cache: bool
    seconds: float
    release: Callable[[], None] = dataclasses.field(default=lambda: None, repr=False, compare=False)


async def pull(
    uri: str | os.PathLike[str],
    *,
    cache_dir: Path,
    patterns: Sequence[str] | None = None,
    with_weights: bool = True,
    progress: Callable[[Progress], None] | None = None,
    quota_bytes: int | None = None,
    retry: RetryPolicy | None = None,
) -> PulledModel:
    """Bring a model here, or find it here.

    Args:
        uri: `s3://bucket/prefix`, `file:///folder` or a path.
        cache_dir: made if need be; shared between processes and hosts. Not used for a mounted model.
        patterns: `fnmatch` patterns of the files wanted; without them, all that serving needs.
        with_weights: False leaves the tensors where they are, for an engine that streams them itself
            (`--load-format pilotlight` finds them by the folder).
        progress: called on the event loop, about ten times a second and at the end.
        quota_bytes: of the cache; room is made before files come in. No limit when None.
        retry: patience with the source.

    Raises:
        InvalidURIError: `uri` is no address.
        SourceError: the source does not deliver; the kinds are in `weights.errors`.
        RefusedError: a file must not be loaded.
        IntegrityError: bytes are not the promised ones.
        CacheError: the cache has no room or is read-only.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def report(state: Progress) -> None:
        if progress is not None:
            loop.call_soon_threadsafe(progress, state)

    work = loop.run_in_executor(
        None,
        lambda: pull_blocking(
            uri,
            cache_dir=cache_dir,
            patterns=patterns,
            with_weights=with_weights,
            progress=report,
            quota_bytes=quota_bytes,
            retry=retry,
            stop=stop,
        ),
    )
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(Exception):  # whatever it ended with: nobody waits for it any more
            await work
        raise


def pull_blocking(
    uri: str | os.PathLike[str],
    *,
    cache_dir: Path,
    patterns: Sequence[str] | None = None,
    with_weights: bool = True,
    progress: Callable[[Progress], None] | None = None,
    quota_bytes: int | None = None,
    retry: RetryPolicy | None = None,
    stop: threading.Event | None = None,
) -> PulledModel:
    """`pull` for callers without an event loop. `progress` is called on this thread; `stop` gives up."""
    started = time.monotonic()
    request = _Request(patterns, with_weights, progress, stop or threading.Event(), started)
    for attempt in range(1, _VERSIONS_TRIED + 1):
        source = open_source(uri, retry=retry)
        try:
            if isinstance(source, LocalSource):
                manifest = inspect(source, patterns)
                return PulledModel(source.path, manifest, 0, from_cache=False, seconds=request.seconds)
            cache = Cache(cache_dir, quota_bytes=quota_bytes)
            try:
                return _Pull(source, cache, request).run()
            except BaseException:
                cache.close()
                raise
        except ObjectChangedError:
            # Someone uploads a new version right now: begin again with that one, mix nothing.
            if attempt == _VERSIONS_TRIED:
                raise
        finally:
            source.close()
    raise AssertionError("unreachable")


@dataclasses.dataclass(frozen=True)
class _Request:
    """What the caller asked for, through all attempts."""

    patterns: Sequence[str] | None
    with_weights: bool
    progress: Callable[[Progress], None] | None
    stop: threading.Event
    started: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


@dataclasses.dataclass
class _Arrival:
    """A file that is being fetched."""

    backing: FillingBacking
    left: int = 0
    again: bool = False


class _Pull:
    """One attempt at one version."""

    def __init__(self, source: Source, cache: Cache, request: _Request) -> None:
        self._source = source
        self._cache = cache
        self._request = request
        self._counter = Counter()
        self._stop = threading.Event()  # ends this attempt; the request's ends all of them
        self._total = 0
        self._present = 0
        self._digests: dict[str, str] = {}
        self._buffers: queue.LifoQueue[memoryview] = queue.LifoQueue()

    def run(self) -> PulledModel:
        source, cache, whole = self._source, self._cache, self._request.with_weights
        listing = list_model(source, self._request.patterns)
        known = cache.model(source.identity, listing.files, whole=whole)
        headers = read_headers(source, listing, instead=self._cached)
        wanted = listing.files if whole else tuple(e for e in listing.files if not e.is_weights)
        self._total = sum(entry.size for entry in wanted)
        missing = self._check_present(wanted)
        self._fetch(missing, {header.file: header for header in headers})
        if known is not None and not missing:
            path, manifest = known
            manifest = dataclasses.replace(manifest, headers=headers)
        else:
            path, manifest = self._publish(listing, headers)
        self._report()
        fetched = self._counter.source
        return PulledModel(
            path,
            manifest,
            fetched,
            from_cache=fetched == 0,
            seconds=self._request.seconds,
            release=cache.close,
        )

    def _publish(self, listing: Listing, headers: tuple[SafetensorsHeader, ...]) -> tuple[Path, Manifest]:
        files = tuple(
            dataclasses.replace(entry, sha256=self._digests.get(entry.path, entry.sha256))
            for entry in listing.files
        )
        manifest = Manifest(self._source.uri, files, headers, listing.skipped)
        whole = self._request.with_weights
        path = self._cache.publish_model(self._source.identity, listing.files, manifest, whole=whole)
        return path, manifest

    def _cached(self, entry: FileEntry) -> Source | None:
        blob = self._cache.blob(self._source.identity, entry)
        return None if blob is None else blob.as_source()

    def _check_present(self, wanted: Iterable[FileEntry]) -> list[FileEntry]:
        """Check what is here, part by part; damaged parts are put right. Returns what is not here."""
        missing = []
        present = []
        for entry in wanted:
            blob = self._cache.blob(self._source.identity, entry)
            if blob is None:
                missing.append(entry)
            else:
                present.append((entry, blob))
                self._digests[entry.path] = blob.sha256
        self._cache.use(list(self._digests.values()))
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

    def _fetch(self, missing: Sequence[FileEntry], headers: dict[str, SafetensorsHeader]) -> None:
        arrivals = []
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
            self._run([(self._verify, arrival) for arrival in arrivals])
            wrong = [arrival for arrival in arrivals if arrival.again]
            self._run([(self._bring, arrival, part) for arrival in wrong for part in arrival.backing.parts])
            self._run([(self._verify, arrival) for arrival in wrong])
            for arrival in arrivals:
                assert arrival.backing.published is not None
                self._digests[arrival.backing.entry.path] = arrival.backing.published
        finally:
            for arrival in arrivals:
                arrival.backing.close()
        self._cache.use(list(self._digests.values()))

    def _bring(self, arrival: _Arrival, part: Part) -> None:
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

    def _run(self, jobs: Sequence[tuple[Callable[..., None], *tuple[object, ...]]]) -> None:
        """Do jobs on many threads, report meanwhile, and end all of them at the first failure."""
        if not jobs:
            return
        with concurrent.futures.ThreadPoolExecutor(default_concurrency(), "weights-pull") as pool:
            running = {pool.submit(self._unless_stopped, *job) for job in jobs}
            try:
                while running:
                    finished, running = concurrent.futures.wait(
                        running, _REPORT_EVERY, concurrent.futures.FIRST_EXCEPTION
                    )
                    for future in finished:
                        future.result()
                    self._report()
                    self._give_up_if_asked()
            except BaseException:
                self._stop.set()
                self._source.close()
                pool.shutdown(cancel_futures=True)
                raise

    def _unless_stopped(self, job: Callable[..., None], *arguments: object) -> None:
        if self._stop.is_set():
            raise ReaderClosedError
        job(*arguments)

    def _give_up_if_asked(self) -> None:
        if self._request.stop.is_set():
            raise ReaderClosedError

    def _report(self) -> None:
        if self._request.progress is not None:
            done = min(self._total, self._counter.source + self._counter.cache)
            self._request.progress(Progress(done, self._total, self._request.seconds))
