"""A model's address in, a folder that an engine can open out.

In S3: listed, its headers checked before the first gigabyte moves, fetched in parallel ranges into the
cache, verified, published whole. On a mounted file system: checked and used in place. An engine that streams
its weights by itself wants the folder without them; `prefetch` then brings them into the cache ahead of it.
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
from weights.cache.downloader import Fetching, Progress, Request, default_concurrency
from weights.errors import ObjectChangedError
from weights.manifest import FileEntry, Manifest, SafetensorsHeader
from weights.sources.factory import open_source
from weights.sources.listing import Listing, inspect, list_model, read_headers
from weights.sources.local import LocalSource
from weights.sources.retry_policy import RetryPolicy
from weights.sources.source import Source

_VERSIONS_TRIED = 3


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
    cache: Cache | None = dataclasses.field(default=None, repr=False, compare=False)
    """The cache that it is in; None for a model that stays where it is."""
    identity: str = dataclasses.field(default="", repr=False, compare=False)
    """Of its source, in that cache."""

    def release(self) -> None:
        """Let go of it: what no other process uses may be evicted from now on."""
        if self.cache is not None:
            self.cache.close()

    def pin_weights(self) -> bool:
        """Keep the weights from eviction too, as far as an engine has brought them here by now.

        Returns:
            Whether all of them are here.

        Raises:
            CacheError: the cache cannot be written.
        """
        if self.cache is None:
            return True
        entries = [entry for entry in self.manifest.files if entry.is_weights]
        blobs = [self.cache.blob(self.identity, entry) for entry in entries]
        self.cache.use([blob.sha256 for blob in blobs if blob is not None])
        return None not in blobs


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
    request = Request(progress, stop or threading.Event())
    for attempt in range(1, _VERSIONS_TRIED + 1):
        source = open_source(uri, retry=retry)
        try:
            if isinstance(source, LocalSource):
                manifest = inspect(source, patterns)
                return PulledModel(source.path, manifest, 0, from_cache=False, seconds=request.seconds)
            cache = Cache(cache_dir, quota_bytes=quota_bytes)
            try:
                return _Pull(source, cache, request, patterns, whole=with_weights).run()
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


class _Pull:
    """One attempt at one version."""

    def __init__(
        self,
        source: Source,
        cache: Cache,
        request: Request,
        patterns: Sequence[str] | None,
        *,
        whole: bool,
    ) -> None:
        self._source = source
        self._cache = cache
        self._request = request
        self._patterns = patterns
        self._whole = whole
        self._fetching = Fetching(source, cache, request)

    def run(self) -> PulledModel:
        source, cache, whole = self._source, self._cache, self._whole
        listing = list_model(source, self._patterns)
        known = cache.model(source.identity, listing.files, whole=whole)
        headers = read_headers(source, listing, instead=self._cached)
        wanted = listing.files if whole else tuple(e for e in listing.files if not e.is_weights)
        self._fetching.expect(wanted)
        missing = self._fetching.check_present(wanted)
        self._fetching.fetch(missing, {header.file: header for header in headers})
        if known is not None and not missing:
            path, manifest = known
            manifest = dataclasses.replace(manifest, headers=headers)
        else:
            path, manifest = self._publish(listing, headers)
        self._fetching.report()
        fetched = self._fetching.bytes_read
        return PulledModel(
            path,
            manifest,
            fetched,
            from_cache=fetched == 0,
            seconds=self._request.seconds,
            cache=cache,
            identity=source.identity,
        )

    def _publish(self, listing: Listing, headers: tuple[SafetensorsHeader, ...]) -> tuple[Path, Manifest]:
        digests = self._fetching.digests
        files = tuple(
            dataclasses.replace(entry, sha256=digests.get(entry.path, entry.sha256))
            for entry in listing.files
        )
        manifest = Manifest(self._source.uri, files, headers, listing.skipped)
        whole = self._whole
        path = self._cache.publish_model(self._source.identity, listing.files, manifest, whole=whole)
        return path, manifest

    def _cached(self, entry: FileEntry) -> Source | None:
        blob = self._cache.blob(self._source.identity, entry)
        return None if blob is None else blob.as_source()


@dataclasses.dataclass(frozen=True)
class Prefetched:
    """What a prefetch did: `complete` says that all weights are in the cache now."""

    bytes_read: int
    complete: bool
    seconds: float


async def prefetch(
    model: PulledModel,
    *,
    until: asyncio.Event | None = None,
    progress: Callable[[Progress], None] | None = None,
    retry: RetryPolicy | None = None,
    concurrency: int | None = None,
) -> Prefetched:
    """Bring the weights of a model that was pulled without them into its cache.

    An engine that loads at the same time finds the parts that have arrived; set `until` when it begins to
    load, and it fetches the rest by itself. Files that are cached already are not read: the engine checks
    them.

    Args:
        model: from `pull`; keeps what arrives from eviction.
        until: ends the prefetch early when set; what has arrived is kept.
        progress: as for `pull`.
        retry: patience with the source.
        concurrency: ranged reads at a time; by number of processors when None.

    Raises:
        ObjectChangedError: the weights are another version by now; pull the model again.
        WeightsError: as `pull`.
    """
    if model.cache is None:
        return Prefetched(0, complete=True, seconds=0.0)
    loop = asyncio.get_running_loop()

    def report(state: Progress) -> None:
        if progress is not None:
            loop.call_soon_threadsafe(progress, state)

    request = Request(report, concurrency=concurrency or default_concurrency())
    work = loop.run_in_executor(None, lambda: _prefetch(model, model.cache, request, retry))
    waiting = asyncio.create_task((until or asyncio.Event()).wait())
    waiting.add_done_callback(lambda _: request.enough.set())
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        request.stop.set()
        with contextlib.suppress(Exception):  # whatever it ended with: nobody waits for it any more
            await work
        raise
    finally:
        waiting.cancel()


def _prefetch(
    model: PulledModel, cache: Cache | None, request: Request, retry: RetryPolicy | None
) -> Prefetched:
    assert cache is not None
    entries = [entry for entry in model.manifest.files if entry.is_weights]
    missing = [entry for entry in entries if cache.blob(model.identity, entry) is None]
    bytes_read = 0
    if missing:
        source = open_source(model.manifest.uri, retry=retry)
        try:
            fetching = Fetching(source, cache, request)
            fetching.expect(missing)
            fetching.fetch(missing, {header.file: header for header in model.manifest.headers})
            bytes_read = fetching.bytes_read
        finally:
            source.close()
    return Prefetched(bytes_read, model.pin_weights(), request.seconds)
