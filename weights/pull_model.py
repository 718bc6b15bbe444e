"""A model's address in, a folder that an engine can open out.

In S3: the model is listed, its headers are checked before the first gigabyte is read, its files are fetched
in parallel ranges into the cache, verified, and published complete. On a mounted file system: it is checked
and used in place. An engine that streams its weights by itself wants the folder without them
(`weights.prefetch_weights` then brings them into the cache ahead of it).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from weights.cache.cache import Cache
from weights.cache.downloader import Downloader
from weights.cache.progress import Progress, TransferControl
from weights.errors import ObjectChangedError
from weights.manifest import FileEntry, Manifest, SafetensorsHeader
from weights.sources.factory import open_source
from weights.sources.listing import Listing, inspect, list_model, read_headers
from weights.sources.local import LocalSource
from weights.sources.retry_policy import ReadRetryPolicy
from weights.sources.source import Source

_VERSIONS_TRIED = 3
"""How often a pull begins again because the model was replaced meanwhile."""


@dataclasses.dataclass(frozen=True)
class PulledModel:
    """A model that is ready to be opened.

    A model in the cache is safe from eviction until `release` is called or the process ends.
    """

    path: Path
    """A folder with the model's files."""
    manifest: Manifest
    bytes_read: int
    """Bytes that came from the source; 0 for a model on a mounted file system, which stays where it is."""
    from_cache: bool
    """Whether everything was cached already; False for a model on a mounted file system."""
    seconds: float
    cache: Cache | None = dataclasses.field(default=None, repr=False, compare=False)
    """The cache that holds it; None for a model on a mounted file system."""
    identity: str = dataclasses.field(default="", repr=False, compare=False)
    """Of its source, in that cache."""

    def release(self) -> None:
        """Allow the cache to evict what no other process uses."""
        if self.cache is not None:
            self.cache.close()

    def pin_weights(self) -> bool:
        """Keep the weights from eviction too, as far as an engine has brought them into the cache by now.

        Returns:
            Whether all of them are cached.

        Raises:
            CacheError: the cache cannot be written.
        """
        if self.cache is None:
            return True
        entries = [entry for entry in self.manifest.files if entry.is_weights]
        blobs = [self.cache.blob(self.identity, entry) for entry in entries]
        self.cache.pin([blob.sha256 for blob in blobs if blob is not None])
        return None not in blobs


async def pull(
    uri: str | os.PathLike[str],
    *,
    cache_dir: Path,
    patterns: Sequence[str] | None = None,
    with_weights: bool = True,
    progress: Callable[[Progress], None] | None = None,
    quota_bytes: int | None = None,
    retry: ReadRetryPolicy | None = None,
) -> PulledModel:
    """Bring a model to this machine, or find it here.

    Args:
        uri: `s3://bucket/prefix`, `file:///folder` or a path.
        cache_dir: made if need be; shared between processes and hosts. Not used for a mounted model.
        patterns: `fnmatch` patterns of the files wanted; everything that serving needs when None.
        with_weights: False leaves the tensors where they are, for an engine that streams them by itself
            (`--load-format pilotlight` finds them through the folder).
        progress: called on the event loop, about ten times a second and at the end.
        quota_bytes: of the cache; room is made before files come in. No limit when None.
        retry: attempts and time-outs of reads from the source.

    Raises:
        InvalidURIError: `uri` is no address.
        SourceError: the source does not deliver; the kinds are in `weights.errors`.
        RefusedError: a file must not be loaded.
        IntegrityError: bytes are not those that the source declared.
        CacheError: the cache has no room or cannot be written.
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
        with contextlib.suppress(Exception):  # nobody waits for its result any more
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
    retry: ReadRetryPolicy | None = None,
    stop: threading.Event | None = None,
) -> PulledModel:
    """`pull` for callers without an event loop. `progress` is called on this thread; `stop` gives up."""
    control = TransferControl(progress, stop or threading.Event())
    for attempt in range(1, _VERSIONS_TRIED + 1):
        source = open_source(uri, retry=retry)
        try:
            if isinstance(source, LocalSource):
                manifest = inspect(source, patterns)
                manifest = dataclasses.replace(manifest, files=source.declare_checksums(manifest.files))
                return PulledModel(source.path, manifest, 0, from_cache=False, seconds=control.seconds)
            cache = Cache(cache_dir, quota_bytes=quota_bytes)
            try:
                return _Pull(source, cache, control, patterns, with_weights=with_weights).run()
            except BaseException:
                cache.close()
                raise
        except ObjectChangedError:
            # A new version is being uploaded right now: begin again with that one; versions never mix.
            if attempt == _VERSIONS_TRIED:
                raise
        finally:
            source.close()
    raise AssertionError("unreachable")


class _Pull:
    """One attempt at one version of a model."""

    def __init__(
        self,
        source: Source,
        cache: Cache,
        control: TransferControl,
        patterns: Sequence[str] | None,
        *,
        with_weights: bool,
    ) -> None:
        self._source = source
        self._cache = cache
        self._control = control
        self._patterns = patterns
        self._with_weights = with_weights
        self._downloader = Downloader(source, cache, control)

    def run(self) -> PulledModel:
        source, cache, with_weights = self._source, self._cache, self._with_weights
        listing = list_model(source, self._patterns)
        cached = cache.model(source.identity, listing.files, with_weights=with_weights)
        headers = read_headers(source, listing, cached=self._cached)
        wanted = tuple(entry for entry in listing.files if with_weights or not entry.is_weights)
        self._downloader.expect(wanted)
        missing = self._downloader.check_cached(wanted)
        self._downloader.fetch(missing, {header.file: header for header in headers})
        if cached is not None and not missing:
            path, manifest = cached
            manifest = dataclasses.replace(manifest, headers=headers)
        else:
            path, manifest = self._publish(listing, headers)
        self._downloader.report()
        bytes_read = self._downloader.bytes_read
        return PulledModel(
            path,
            manifest,
            bytes_read,
            from_cache=bytes_read == 0,
            seconds=self._control.seconds,
            cache=cache,
            identity=source.identity,
        )

    def _publish(self, listing: Listing, headers: tuple[SafetensorsHeader, ...]) -> tuple[Path, Manifest]:
        files = tuple(self._with_content(entry) for entry in listing.files)
        manifest = Manifest(self._source.uri, files, headers, listing.skipped)
        path = self._cache.publish_model(
            self._source.identity, listing.files, manifest, with_weights=self._with_weights
        )
        return path, manifest

    def _with_content(self, entry: FileEntry) -> FileEntry:
        blob = self._downloader.blobs.get(entry.path)
        if blob is None:  # weights that are left to the engine
            return entry
        return dataclasses.replace(
            entry,
            sha256=blob.sha256,
            checked_by=blob.checked_by,
            unchecked_because=blob.unchecked_because,
        )

    def _cached(self, entry: FileEntry) -> tuple[Source, FileEntry] | None:
        blob = self._cache.blob(self._source.identity, entry)
        return None if blob is None else blob.as_source()
