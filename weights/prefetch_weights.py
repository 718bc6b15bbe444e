"""Weights into the cache ahead of the engine that will load them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable

from weights.cache.cache import Cache
from weights.cache.downloader import Downloader
from weights.cache.progress import Progress, TransferControl, default_concurrency
from weights.pull_model import PulledModel
from weights.sources.factory import open_source
from weights.sources.retry_policy import ReadRetryPolicy


@dataclasses.dataclass(frozen=True)
class Prefetched:
    """What a prefetch did. `complete` says whether all weights are in the cache now."""

    bytes_read: int
    complete: bool
    seconds: float


async def prefetch(
    model: PulledModel,
    *,
    until: asyncio.Event | None = None,
    progress: Callable[[Progress], None] | None = None,
    retry: ReadRetryPolicy | None = None,
    concurrency: int | None = None,
) -> Prefetched:
    """Bring the weights of a model that was pulled without them into its cache.

    An engine that loads at the same time finds the parts that have arrived; set `until` when it begins to
    load, and it fetches the rest by itself. Files that are cached already are not read: the engine checks
    them.

    Args:
        model: from `pull`. What arrives is kept from eviction until the model is released.
        until: ends the prefetch early when set; what has arrived is kept.
        progress: as for `pull`.
        retry: attempts and time-outs of reads from the source.
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

    control = TransferControl(report, concurrency=concurrency or default_concurrency())
    cache = model.cache
    work = loop.run_in_executor(None, lambda: _prefetch(model, cache, control, retry))
    waiting = asyncio.create_task((until or asyncio.Event()).wait())
    waiting.add_done_callback(lambda _: control.until.set())
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        control.stop.set()
        with contextlib.suppress(Exception):  # nobody waits for its result any more
            await work
        raise
    finally:
        waiting.cancel()


def _prefetch(
    model: PulledModel, cache: Cache, control: TransferControl, retry: ReadRetryPolicy | None
) -> Prefetched:
    entries = [entry for entry in model.manifest.files if entry.is_weights]
    missing = [entry for entry in entries if cache.blob(model.identity, entry) is None]
    bytes_read = 0
    if missing:
        source = open_source(model.manifest.uri, retry=retry)
        try:
            downloader = Downloader(source, cache, control)
            downloader.expect(missing)
            downloader.fetch(missing, {header.file: header for header in model.manifest.headers})
            bytes_read = downloader.bytes_read
        finally:
            source.close()
    return Prefetched(bytes_read, model.pin_weights(), control.seconds)
