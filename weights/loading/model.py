"""A model opened for loading: its tensors one after the other, from wherever they are quickest to be had.

    with open_model("s3://models/llama", cache_dir=Path("/var/cache/pilotlight")) as model:
        for tensor, data in model:
            ...

In the cache: mapped. On a mounted file system: mapped. In S3: streamed, and written to the cache meanwhile;
without a usable cache, streamed all the same, which `report().cache_error` then says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from weights.cache.cache import MANIFEST, Blob, Cache, read_identity, read_manifest
from weights.cache.caching_reader import FillingBacking, WriteBehind
from weights.cache.downloader import default_concurrency
from weights.cache.mapped_file import Backing, Counter, DirectBacking, MappedBacking
from weights.errors import CacheError
from weights.loading.stream import TensorStream
from weights.manifest import FileEntry, Manifest, SafetensorsHeader, TensorEntry
from weights.plan import (
    EXTENT_BYTES,
    MAPPED_EXTENT_BYTES,
    Extent,
    extents,
    in_decoder_order,
    parts_of_weights,
)
from weights.sources.factory import open_source
from weights.sources.listing import Listing, list_model, read_headers
from weights.sources.local import LocalSource
from weights.sources.retry_policy import RetryPolicy
from weights.sources.source import Arrived, Source

LIMIT_BYTES = 1 << 30
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """How a load went. Bytes by where they came from; `cache_error` says why nothing was cached."""

    bytes_from_source: int
    bytes_from_cache: int
    peak_buffer_bytes: int
    repaired_parts: int
    seconds: float
    cache_error: str | None


class OpenModel:
    """A model whose tensors can be iterated over once. Close it, or use it in a with statement."""

    def __init__(
        self,
        source: Source,
        cache: Cache | None,
        listing: Listing,
        *,
        identity: str,
        wanted: Callable[[str], bool] | None,
        limit_bytes: int,
        concurrency: int,
    ) -> None:
        self._started = time.monotonic()
        self._source = source
        self._cache = cache
        self._identity = identity
        self._limit_bytes = limit_bytes
        self._counter = Counter()
        self._writer: WriteBehind | None = None
        self._stop = threading.Event()
        self._cache_error: str | None = None if cache is None or not cache.read_only else str(cache.read_only)
        self._backings: dict[str, Backing] = {}
        self._blobs: dict[str, Blob] = {}
        self._stream: TensorStream | None = None
        try:
            headers = read_headers(source, listing, instead=self._cached)
            self.manifest = Manifest(source.uri, listing.files, headers, listing.skipped)
            plan = self._plan(listing, headers, wanted)
            self._empty = [
                tensor
                for header in headers
                for tensor in header.tensors
                if not tensor.nbytes and (wanted is None or wanted(tensor.name))
            ]
            self._whole = wanted is None
            self._stream = TensorStream(
                plan, self._backings, limit_bytes=limit_bytes, concurrency=concurrency
            )
        except BaseException:
            self.close()
            raise
        if self._cache_error is not None:
            _log.warning("%s: streaming without caching: %s", source.uri, self._cache_error)

    def __iter__(self) -> Iterator[tuple[TensorEntry, memoryview]]:
        """Each tensor with its bytes, as `weights.loading.stream.TensorStream` describes."""
        assert self._stream is not None
        for tensor in self._empty:
            yield tensor, memoryview(b"")
        yield from self._stream

    def finish(self) -> None:
        """Wait until what was streamed is published in the cache, for the next start to find it.

        Nothing happens where there is nothing to publish. A cache that fails now only leaves the next start
        without its help: `report` says so, and nothing is raised.
        """
        published: list[str] = []
        for backing in self._backings.values():
            # Where tensors were left out, others may have asked for them; if not, the next load continues.
            if isinstance(backing, FillingBacking) and (self._whole or backing.complete()):
                try:
                    backing.verify()
                except CacheError as error:
                    self._cache_error = str(error)
                    _log.warning("%s: not cached: %s", self._source.uri, error)
                else:
                    published += [backing.published] if backing.published else []
        if published and self._cache is not None:
            self._cache.use(published)

    def report(self) -> LoadReport:
        """How it went so far."""
        writing_error = self._writer.error if self._writer is not None else None
        repaired = sum(backing.repaired for backing in self._backings.values())
        return LoadReport(
            bytes_from_source=self._counter.source,
            bytes_from_cache=self._counter.cache,
            peak_buffer_bytes=self._stream.peak_buffer_bytes if self._stream else 0,
            repaired_parts=repaired,
            seconds=time.monotonic() - self._started,
            cache_error=self._cache_error or (str(writing_error) if writing_error else None),
        )

    def close(self) -> None:
        """Stop what is under way and let go of everything. Tensors that are still referred to stay valid."""
        self._stop.set()
        self._source.close()
        if self._stream is not None:
            self._stream.close()
        if self._writer is not None:
            self._writer.close()
        for backing in self._backings.values():
            backing.close()
        if self._cache is not None:
            self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self.close()

    def _cached(self, entry: FileEntry) -> Source | None:
        blob = self._blob(entry)
        return None if blob is None else blob.as_source()

    def _blob(self, entry: FileEntry) -> Blob | None:
        """What the cache has of a file; what it has not is looked for again, another process may bring it."""
        blob = self._blobs.get(entry.path)
        if blob is None and self._cache is not None:
            blob = self._cache.blob(self._identity, entry)
            if blob is not None:
                self._blobs[entry.path] = blob
        return blob

    def _plan(
        self,
        listing: Listing,
        headers: Sequence[SafetensorsHeader],
        wanted: Callable[[str], bool] | None,
    ) -> tuple[Extent, ...]:
        entries = {entry.path: entry for entry in listing.weights}
        found: list[Extent] = []
        used: list[str] = []
        in_file_order = False
        for header in headers:
            entry = entries[header.file]
            backing = self._backing(entry, header, used)
            self._backings[header.file] = backing
            # A checksum of the whole file, with nothing kept, can only be computed from front to back.
            in_file_order |= isinstance(backing, DirectBacking) and backing.must_verify
            size = EXTENT_BYTES if backing.mapped() is None else MAPPED_EXTENT_BYTES
            found += extents(header, backing.parts, wanted=wanted, extent_bytes=size)
        if used and self._cache is not None:
            with contextlib.suppress(CacheError):  # a mapped file stays readable even if it is evicted
                self._cache.use(used)
        return tuple(found) if in_file_order else in_decoder_order(found)

    def _backing(self, entry: FileEntry, header: SafetensorsHeader, used: list[str]) -> Backing:
        if isinstance(self._source, LocalSource):
            path = self._source.path / entry.path
            return MappedBacking(path, parts_of_weights(header), self._counter)
        if self._cache is not None:
            blob = self._blob(entry)
            if blob is not None:
                used.append(blob.sha256)
                repair = (self._cache, self._source, entry)
                return MappedBacking(blob.path, blob.parts, self._counter, blob=blob, repair=repair)
            if self._cache.read_only is None:
                try:
                    return self._filling(entry, header, self._cache)
                except CacheError as error:
                    self._cache_error = str(error)
        return DirectBacking(self._source, entry, parts_of_weights(header), self._counter)

    def _filling(self, entry: FileEntry, header: SafetensorsHeader, cache: Cache) -> Backing:
        filling = cache.fill(self._identity, entry, parts_of_weights(header))
        if self._writer is None:
            self._writer = WriteBehind(self._limit_bytes // 8)
        return FillingBacking(
            self._source, cache, filling, writer=self._writer, counter=self._counter, stop=self._stop
        )


def open_model(
    model: str | os.PathLike[str],
    *,
    cache_dir: Path | None = None,
    own_cache: bool = True,
    wanted: Callable[[str], bool] | None = None,
    limit_bytes: int = LIMIT_BYTES,
    concurrency: int | None = None,
    quota_bytes: int | None = None,
    retry: RetryPolicy | None = None,
) -> OpenModel:
    """Open a model for loading.

    Args:
        model: an address, or a folder that `weights.pull` returned (it remembers address and version).
        cache_dir: where to keep what is fetched; nothing is kept when None.
        own_cache: a folder from `weights.pull` brings its own cache, which is used instead.
        wanted: by tensor name; all when None.
        limit_bytes: of memory for tensors on their way. A single larger tensor exceeds it.
        concurrency: ranged reads at a time; by number of processors when None.
        quota_bytes: of the cache; no limit when None.
        retry: patience with the source.

    Raises:
        WeightsError: of the kinds in `weights.errors`.
    """
    folder = Path(model) if "://" not in os.fspath(model) else None
    cache: Cache | None = None
    if folder is not None and (folder / MANIFEST).exists():
        manifest, identity = read_manifest(folder), read_identity(folder)
        own = folder.resolve().parent.parent
        if own_cache and (own / "blobs").is_dir():
            cache_dir = own
        cache = None if cache_dir is None else Cache(cache_dir, allow_read_only=True, quota_bytes=quota_bytes)
        source: Source = _Later(manifest.uri, identity, retry)
        listing = Listing(manifest.files, manifest.skipped, None)
    else:
        source = open_source(model, retry=retry)
        listing = list_model(source)
        identity = source.identity
        if cache_dir is not None and not isinstance(source, LocalSource):
            cache = Cache(cache_dir, allow_read_only=True, quota_bytes=quota_bytes)
    return OpenModel(
        source,
        cache,
        listing,
        identity=identity,
        wanted=wanted,
        limit_bytes=limit_bytes,
        concurrency=concurrency or default_concurrency(),
    )


class _Later:
    """A source that is opened when first needed: a start from the cache needs neither client nor network."""

    def __init__(self, uri: str, identity: str, retry: RetryPolicy | None) -> None:
        self.uri = uri
        self.identity = identity
        self._retry = retry
        self._source: Source | None = None
        self._lock = threading.Lock()

    def list(self) -> tuple[FileEntry, ...]:
        return self._opened().list()

    def head(self, entry: FileEntry) -> FileEntry:
        return self._opened().head(entry)

    def read_into(
        self, entry: FileEntry, offset: int, view: memoryview, arrived: Arrived | None = None
    ) -> None:
        self._opened().read_into(entry, offset, view, arrived)

    def close(self) -> None:
        with self._lock:
            if self._source is not None:
                self._source.close()

    def _opened(self) -> Source:
        with self._lock:
            if self._source is None:
                self._source = open_source(self.uri, retry=self._retry)
            return self._source
