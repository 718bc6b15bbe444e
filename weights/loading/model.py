"""A model opened for loading: its tensors one after the other, from wherever they are read fastest.

    with open_model("s3://models/llama", cache_dir=Path("/var/cache/pilotlight")) as model:
        for tensor, data in model:
            ...

Cached files and those on a mounted file system are mapped. What is in S3 is streamed, and written to the
cache meanwhile; without a usable cache it is streamed all the same, and `report().cache_error` says why.
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

from weights.cache.blob import Blob
from weights.cache.cache import Cache
from weights.cache.caching_reader import CachingReader
from weights.cache.file_readers import ByteCounter
from weights.cache.mapped_file import MappedFile
from weights.cache.model_folder import MANIFEST, read_identity, read_manifest
from weights.cache.part_writers import WriteBehind
from weights.cache.progress import default_concurrency
from weights.errors import CacheError
from weights.loading.direct_reader import DirectReader
from weights.loading.stream import FileReader, TensorStream
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
from weights.sources.lazy import LazySource
from weights.sources.listing import Listing, list_model, read_headers, read_index
from weights.sources.local import LocalSource
from weights.sources.retry_policy import ReadRetryPolicy
from weights.sources.source import Source
from weights.wording import by_reason

LIMIT_BYTES = 1 << 30
"""Default limit of memory for tensors on their way."""
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """How a load went. Bytes by where they came from; `cache_error` says why nothing was cached, if so."""

    bytes_from_source: int
    bytes_from_cache: int
    peak_buffer_bytes: int
    repaired_parts: int
    seconds: float
    cache_error: str | None
    unchecked: tuple[str, ...]
    """Files that were not compared with a checksum of their source, now or when they were cached."""


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
        self._counter = ByteCounter()
        self._writer: WriteBehind | None = None
        self._stop = threading.Event()
        self._cache_error: str | None = None if cache is None or not cache.read_only else str(cache.read_only)
        self._all_wanted = wanted is None
        self._readers: dict[str, FileReader] = {}
        self._unchecked: dict[str, str] = {}
        """Why a file is not compared with a checksum, by path."""
        self._blobs: dict[str, Blob] = {}
        self._stream: TensorStream | None = None
        try:
            headers = read_headers(source, listing, cached=self._cached)
            self.manifest = Manifest(source.uri, listing.files, headers, listing.skipped)
            plan = self._plan(listing, headers, wanted)
            self._empty = [
                tensor
                for header in headers
                for tensor in header.counted
                if not tensor.nbytes and (wanted is None or wanted(tensor.name))
            ]
            self._stream = TensorStream(plan, self._readers, limit_bytes=limit_bytes, concurrency=concurrency)
        except BaseException:
            self.close()
            raise
        self._log_unchecked()
        if self._cache_error is not None:
            _log.warning("%s: streaming without caching: %s", source.uri, self._cache_error)

    def __iter__(self) -> Iterator[tuple[TensorEntry, memoryview]]:
        """Each tensor with its bytes, as `weights.loading.stream.TensorStream` describes."""
        assert self._stream is not None
        for tensor in self._empty:
            yield tensor, memoryview(b"")
        yield from self._stream

    def finish(self) -> None:
        """Wait until what was streamed is published in the cache for the next start.

        A cache that fails now costs only the next start: `report` says so, and nothing is raised.
        """
        published: list[str] = []
        for reader in self._readers.values():
            # Others may have fetched the tensors that were left out here; if not, the next load goes on.
            if isinstance(reader, CachingReader) and (self._all_wanted or reader.complete()):
                try:
                    reader.publish()
                except CacheError as error:
                    self._cache_error = str(error)
                    _log.warning("%s: not cached: %s", self._source.uri, error)
                else:
                    published += [reader.published.sha256] if reader.published else []
        if published and self._cache is not None:
            self._cache.pin(published)

    def report(self) -> LoadReport:
        """How it went so far."""
        writing_error = self._writer.error if self._writer is not None else None
        repaired = sum(reader.repaired for reader in self._readers.values() if isinstance(reader, MappedFile))
        return LoadReport(
            bytes_from_source=self._counter.source,
            bytes_from_cache=self._counter.cache,
            peak_buffer_bytes=self._stream.peak_buffer_bytes if self._stream else 0,
            repaired_parts=repaired,
            seconds=time.monotonic() - self._started,
            cache_error=self._cache_error or (str(writing_error) if writing_error else None),
            unchecked=tuple(sorted(self._unchecked)),
        )

    def close(self) -> None:
        """Stop what is under way and free all resources. Tensors that are still referred to stay valid."""
        self._stop.set()
        self._source.close()
        if self._stream is not None:
            self._stream.close()
        if self._writer is not None:
            self._writer.close()
        for reader in self._readers.values():
            reader.close()
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

    def _cached(self, entry: FileEntry) -> tuple[Source, FileEntry] | None:
        blob = self._blob(entry)
        return None if blob is None else blob.as_source()

    def _blob(self, entry: FileEntry) -> Blob | None:
        """The cached blob of a file. A miss is not remembered: another process may bring the file."""
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
        missing = [entry for entry in listing.weights if self._blob(entry) is None]
        entries |= {entry.path: entry for entry in self._source.declare_checksums(missing)}
        found: list[Extent] = []
        used: list[str] = []
        in_file_order = False
        for header in headers:
            entry = entries[header.file]
            reader = self._reader(entry, header, used)
            self._readers[header.file] = reader
            if (reason := self._unchecked_because(entry, reader)) is not None:
                self._unchecked[entry.path] = reason
            # Where nothing is kept, the checksum of the whole file can only be computed from front to back.
            in_file_order |= isinstance(reader, DirectReader) and reader.must_verify
            size = MAPPED_EXTENT_BYTES if isinstance(reader, MappedFile) else EXTENT_BYTES
            found += extents(header, reader.parts, wanted=wanted, extent_bytes=size)
        if used and self._cache is not None:
            with contextlib.suppress(CacheError):  # a mapped file stays readable even if it is evicted
                self._cache.pin(used)
        return tuple(found) if in_file_order else in_decoder_order(found)

    def _reader(self, entry: FileEntry, header: SafetensorsHeader, used: list[str]) -> FileReader:
        if isinstance(self._source, LocalSource):
            path = self._source.path / entry.path
            return MappedFile(path, parts_of_weights(header), self._counter)
        if self._cache is not None:
            blob = self._blob(entry)
            if blob is not None:
                used.append(blob.sha256)
                repair = (self._cache, self._source, entry)
                return MappedFile(blob.path, blob.parts, self._counter, blob=blob, repair=repair)
            if self._cache.read_only is None:
                try:
                    return self._caching_reader(entry, header, self._cache)
                except CacheError as error:
                    self._cache_error = str(error)
        return DirectReader(
            self._source, entry, parts_of_weights(header), self._counter, verify=self._all_wanted
        )

    def _log_unchecked(self) -> None:
        """Name the files that are fetched now and cannot be compared with a checksum."""
        fetched = [
            (path, reason)
            for path, reason in self._unchecked.items()
            if not isinstance(self._readers[path], MappedFile)
        ]
        for reason, names in by_reason(fetched):
            _log.warning("%s: not compared with a checksum (%s): %s", self._source.uri, reason, names)

    def _unchecked_because(self, entry: FileEntry, reader: FileReader) -> str | None:
        if isinstance(reader, MappedFile):
            blob = self._blob(entry)
            return None if blob is None else blob.unchecked_because
        if entry.checksum is not None and not reader.must_verify:
            return "only some of its tensors are read, and nothing is kept"
        return entry.unchecked_because

    def _caching_reader(self, entry: FileEntry, header: SafetensorsHeader, cache: Cache) -> CachingReader:
        partial = cache.open_partial(self._identity, entry, parts_of_weights(header))
        if self._writer is None:
            self._writer = WriteBehind(self._limit_bytes // 8)
        return CachingReader(
            self._source, cache, partial, writer=self._writer, counter=self._counter, stop=self._stop
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
    retry: ReadRetryPolicy | None = None,
) -> OpenModel:
    """Open a model for loading.

    Args:
        model: an address, or a folder that `weights.pull` returned (it remembers address and version).
        cache_dir: where to keep what is fetched; nothing is kept when None.
        own_cache: for a folder from `weights.pull`, use the cache that it lies in instead.
        wanted: by tensor name; all when None.
        limit_bytes: of memory for tensors on their way. A single larger tensor exceeds it.
        concurrency: ranged reads at a time; by number of processors when None.
        quota_bytes: of the cache; no limit when None.
        retry: attempts and time-outs of reads from the source.

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
        source: Source = LazySource(manifest.uri, identity, retry)
        listing = Listing(manifest.files, manifest.skipped, *read_index(LocalSource(folder), manifest.files))
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
