"""A model's address in, a folder that an engine can open out.

In S3: listed, its headers checked before the first gigabyte moves, fetched in parallel ranges into the
cache, verified, published whole. On a mounted file system: checked and used in place.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from weights import manifest as manifests
from weights.cache import Cache
from weights.errors import ObjectChangedError
from weights.manifest import FileEntry, Manifest, SafetensorsHeader
from weights.ranged import ReaderClosedError, RetryPolicy
from weights.source import LocalSource, Source, open_source

PART_BYTES = 8 << 20
CONCURRENCY = 16
_VERSIONS_TRIED = 3
_HEADER_GUESS = 256 << 10
"""First read of a weights file, in bytes: most headers fit."""
_REPORT_EVERY = 0.1


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
    """

    path: Path
    manifest: Manifest
    bytes_read: int
    from_cache: bool
    seconds: float


async def pull(
    uri: str | os.PathLike[str],
    *,
    cache_dir: Path,
    patterns: Sequence[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
    retry: RetryPolicy | None = None,
) -> PulledModel:
    """Bring a model here, or find it here.

    Args:
        uri: `s3://bucket/prefix`, `file:///folder` or a path.
        cache_dir: made if need be; shared between processes and hosts. Not used for a mounted model.
        patterns: `fnmatch` patterns of the files wanted; without them, all that serving needs.
        progress: called on the event loop, about ten times a second and at the end.
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
            uri, cache_dir=cache_dir, patterns=patterns, progress=report, retry=retry, stop=stop
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
    progress: Callable[[Progress], None] | None = None,
    retry: RetryPolicy | None = None,
    stop: threading.Event | None = None,
) -> PulledModel:
    """`pull` for callers without an event loop. `progress` is called on this thread; `stop` gives up."""
    started = time.monotonic()
    request = _Request(patterns, progress, stop or threading.Event(), started)
    for attempt in range(1, _VERSIONS_TRIED + 1):
        source = open_source(uri, retry=retry)
        try:
            if isinstance(source, LocalSource):
                manifest = inspect(source, patterns)
                return PulledModel(source.path, manifest, 0, from_cache=False, seconds=request.seconds)
            return _Pull(source, Cache(cache_dir), request).run()
        except ObjectChangedError:
            # Someone uploads a new version right now: begin again with that one, mix nothing.
            if attempt == _VERSIONS_TRIED:
                raise
        finally:
            source.close()
    raise AssertionError("unreachable")


def inspect(source: Source, patterns: Sequence[str] | None = None) -> Manifest:
    """List a model and check everything that can be checked without reading its tensors.

    Raises:
        SourceError: it cannot be listed or read.
        RefusedError: a file must not be loaded.
    """
    selection, index = choose(source, patterns)
    headers = read_headers(source, [entry for entry in selection.files if entry.is_weights])
    check(headers, index)
    return Manifest(source.uri, selection.files, headers, selection.skipped)


def choose(
    source: Source, patterns: Sequence[str] | None
) -> tuple[manifests.Selection, dict[str, str] | None]:
    """List a source and select its model's files; also the index, where there is one."""
    listed = source.list()
    index = None
    for entry in listed:
        if entry.path == manifests.INDEX:
            index = manifests.parse_index(read(source, entry))
    return manifests.select(listed, patterns, uri=source.uri, index=index), index


def check(headers: Sequence[SafetensorsHeader], index: dict[str, str] | None) -> None:
    """Check headers against each other and against the index, if its weights were selected."""
    manifests.check_duplicates(headers)
    if index is not None and headers:
        manifests.check_index(index, headers)


def read(source: Source, entry: FileEntry, length: int | None = None) -> bytes:
    """The first `length` bytes of a file, or all of it."""
    buffer = bytearray(entry.size if length is None else min(length, entry.size))
    if buffer:
        source.read_into(entry, 0, memoryview(buffer))
    return bytes(buffer)


def read_headers(source: Source, entries: Sequence[FileEntry]) -> tuple[SafetensorsHeader, ...]:
    """The checked headers of weights files, read at the same time."""

    def header(entry: FileEntry) -> SafetensorsHeader:
        head = read(source, entry, _HEADER_GUESS)
        length = manifests.header_length(entry.path, head, entry.size)
        if 8 + length > len(head):
            head = read(source, entry, 8 + length)
        return manifests.parse_header(entry.path, head, entry.size)

    if not entries:
        return ()
    with concurrent.futures.ThreadPoolExecutor(min(CONCURRENCY, len(entries))) as pool:
        return tuple(pool.map(header, entries))


@dataclasses.dataclass(frozen=True)
class _Request:
    """What the caller asked for, through all attempts."""

    patterns: Sequence[str] | None
    progress: Callable[[Progress], None] | None
    stop: threading.Event
    started: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class _Pull:
    """One attempt at one version."""

    def __init__(self, source: Source, cache: Cache, request: _Request) -> None:
        self._source = source
        self._cache = cache
        self._request = request
        self._total = 0
        # Below: shared between the threads that fetch, under the lock.
        self._lock = threading.Lock()
        self._done = 0
        self._parts_left: dict[str, int] = {}
        self._digests: dict[str, str] = {}

    def run(self) -> PulledModel:
        source, cache = self._source, self._cache
        selection, index = choose(source, self._request.patterns)
        self._total = sum(entry.size for entry in selection.files)
        known = cache.model(source.identity, selection.files)
        if known is not None:
            path, manifest = known
            headers = read_headers(LocalSource(path), _local_entries(path, manifest))
            self._done = self._total
            return self._finish(path, dataclasses.replace(manifest, headers=headers), 0)
        headers = read_headers(source, [entry for entry in selection.files if entry.is_weights])
        check(headers, index)
        fetched = self._fetch(selection.files)
        files = tuple(
            dataclasses.replace(entry, sha256=self._digests[entry.path]) for entry in selection.files
        )
        manifest = Manifest(source.uri, files, headers, selection.skipped)
        path = cache.publish_model(source.identity, selection.files, manifest)
        return self._finish(path, manifest, fetched)

    def _finish(self, path: Path, manifest: Manifest, fetched: int) -> PulledModel:
        self._report()
        return PulledModel(path, manifest, fetched, from_cache=fetched == 0, seconds=self._request.seconds)

    def _fetch(self, files: Iterable[FileEntry]) -> int:
        """Fetch the files that are not in the cache. Returns how many bytes that took."""
        missing = []
        for entry in files:
            sha256 = self._cache.blob_of(self._source.identity, entry)
            if sha256 is None:
                missing.append(entry)
                self._parts_left[entry.path] = len(_parts(entry))
            else:
                self._digests[entry.path] = sha256
                self._done += entry.size
        with contextlib.ExitStack() as scratch, concurrent.futures.ThreadPoolExecutor(CONCURRENCY) as pool:
            running = set()
            for entry in missing:
                path = scratch.enter_context(self._cache.new_file(entry.size))
                running |= {pool.submit(self._part, entry, start, path) for start in _parts(entry)}
            try:
                while running:
                    finished, running = concurrent.futures.wait(
                        running, _REPORT_EVERY, concurrent.futures.FIRST_COMPLETED
                    )
                    for future in finished:
                        future.result()
                    self._report()
            except BaseException:
                # The first failure ends the rest at once instead of after its retries.
                self._request.stop.set()
                self._source.close()
                pool.shutdown(cancel_futures=True)
                raise
        return sum(entry.size for entry in missing)

    def _part(self, entry: FileEntry, start: int, path: Path) -> None:
        """Fetch one part; whoever fetches a file's last one publishes it."""
        if self._request.stop.is_set():
            raise ReaderClosedError
        buffer = bytearray(min(PART_BYTES, entry.size - start))
        if buffer:
            self._source.read_into(entry, start, memoryview(buffer))
            with path.open("rb+", buffering=0) as file:
                os.pwrite(file.fileno(), buffer, start)
        with self._lock:
            self._done += len(buffer)
            self._parts_left[entry.path] -= 1
            last = self._parts_left[entry.path] == 0
        if last:
            self._digests[entry.path] = self._cache.publish_blob(self._source.identity, entry, path)

    def _report(self) -> None:
        if self._request.progress is not None:
            self._request.progress(Progress(self._done, self._total, self._request.seconds))


def _parts(entry: FileEntry) -> range:
    """Where the parts of a file begin; an empty file has one, empty."""
    return range(0, max(1, entry.size), PART_BYTES)


def _local_entries(path: Path, manifest: Manifest) -> list[FileEntry]:
    source = LocalSource(path)
    return [source.head(entry) for entry in manifest.files if entry.is_weights]
