"""Fetching a model for its engine: configuration and tokenizer first, the weights beside everything else.

The replica fetches the small files, and prefetches the weights into the cache while vLLM is imported. An
engine is started with `--load-format pilotlight`: it maps what is in the cache, and from the moment at which
it begins to load, it fetches the rest by itself. With a load format of the user's own, everything is fetched
before the engine starts, as any loader expects.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import weights
from functions.stage import StartError
from knative import env_vars
from weights.vllm.load_format import LOAD_FORMAT

log = logging.getLogger(__name__)

_MAX_VERSIONS = 3
"""How often a model may be replaced at its source while it is fetched."""
_PIN_INTERVAL_SECONDS = 1.0
_PIN_ATTEMPTS = 600


class ModelFiles:
    """The files of one replica's model.

    Args:
        uri: the model's source.
        cache_dir: the weights cache of the node.
        engine_args: the user's options of the engine.
        quota: bytes that the cache may take; None: no limit.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        uri: str,
        cache_dir: Path,
        engine_args: Mapping[str, Any],
        *,
        quota: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uri = uri
        self._cache_dir = cache_dir
        self._quota = quota
        self._given = {key.replace("_", "-"): value for key, value in engine_args.items()}
        self._clock = clock
        self._pulled: weights.PulledModel | None = None
        self._scratch: Path | None = None
        """Folder of the small files if the cache cannot be written."""
        self._loads = asyncio.Event()
        """Set once an engine loads, and fetches what is missing by itself."""
        self._prefetching: asyncio.Task[None] | None = None
        self._pinning: asyncio.Task[None] | None = None

    @property
    def streams(self) -> bool:
        """Whether the engine reads the weights with the load format `pilotlight`."""
        return self._given.get("load-format") in {None, LOAD_FORMAT}

    @property
    def manifest(self) -> weights.Manifest | None:
        """What the model consists of; None before it is fetched, and if the cache cannot be written."""
        return None if self._pulled is None or self._scratch is not None else self._pulled.manifest

    @property
    def failure(self) -> str | None:
        """Why the weights cannot be fetched; None if nothing is known to be wrong."""
        task = self._prefetching
        error = task.exception() if task is not None and task.done() and not task.cancelled() else None
        return None if error is None else str(error)

    async def fetch(self) -> Path:
        """Fetch what an engine needs before it can start.

        Returns:
            The model's folder.

        Raises:
            StartError: with the cause.
        """
        try:
            try:
                pulled = await weights.pull(
                    self._uri,
                    cache_dir=self._cache_dir,
                    with_weights=not self.streams,
                    quota_bytes=self._quota,
                )
            except weights.CacheError as error:
                if not self.streams:
                    raise
                log.warning("starting without the weights cache", extra={"cause": str(error)})
                self._scratch = Path(tempfile.mkdtemp(prefix="pilotlight-model-"))
                pulled = await weights.pull(self._uri, cache_dir=self._scratch, with_weights=False)
        except weights.WeightsError as error:
            raise StartError(self._describe(error)) from None
        before, self._pulled = self._pulled, pulled
        if before is not None:
            await asyncio.to_thread(before.release)
        return pulled.path

    def options(self) -> dict[str, Any]:
        """Options that select the load format `pilotlight`; none if there are no weights to load."""
        pulled = self._pulled
        if not self.streams or pulled is None or not any(file.is_weights for file in pulled.manifest.files):
            return {}
        options: dict[str, Any] = {"load-format": LOAD_FORMAT}
        extra: dict[str, Any] = {} if self._quota is None else {"quota_bytes": self._quota}
        if self._scratch is not None:
            # What the cache holds already can be read, even if nothing can be written there.
            extra["cache_dir"] = str(self._cache_dir)
        if extra:
            given = self._given.get("model-loader-extra-config") or {}
            options["model-loader-extra-config"] = {**extra, **given}
        return options

    def start_prefetch(
        self, on_fetched: Callable[[float], None], on_replaced: Callable[[Path], None]
    ) -> asyncio.Task[None] | None:
        """Begin to fetch the weights into the cache.

        Args:
            on_fetched: called once, with the seconds that the prefetch took until it was done or an engine
                took over.
            on_replaced: called with the folder to use from now on, each time the model was replaced by
                another version at its source; that version is then fetched from its beginning.

        Returns:
            Done when the weights are in the cache, or an engine fetches them; ends with a StartError if they
            cannot be fetched. None if there is nothing to prefetch.
        """
        if self._pulled is None or not self.streams or self._scratch is not None:
            return None
        self._prefetching = asyncio.create_task(self._run_prefetch(on_fetched, on_replaced))
        return self._prefetching

    def engine_loads(self) -> None:
        """An engine has begun to load: it fetches by itself what is still missing."""
        self._loads.set()

    def pin(self) -> None:
        """Keep the weights that an engine has fetched in the cache, for the next engine."""
        if self._pulled is not None and self._scratch is None and self.streams and self._pinning is None:
            self._pinning = asyncio.create_task(self._pin(self._pulled))

    async def close(self) -> None:
        """Cancel what is under way, and release the files."""
        tasks = [task for task in (self._prefetching, self._pinning) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._pulled is not None:
            await asyncio.to_thread(self._pulled.release)
            self._pulled = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    async def _run_prefetch(
        self, on_fetched: Callable[[float], None], on_replaced: Callable[[Path], None]
    ) -> None:
        began = self._clock()
        taken_over = asyncio.create_task(self._loads.wait())
        work = asyncio.create_task(self._prefetch(on_replaced))
        try:
            await asyncio.wait({work, taken_over}, return_when=asyncio.FIRST_COMPLETED)
            on_fetched(self._clock() - began)
            done = await work
            log.info(
                "weights fetched",
                extra={
                    "bytes": done.bytes_read,
                    "complete": done.complete,
                    "seconds": round(done.seconds, 4),
                },
            )
        except weights.CacheError as error:
            log.warning("the engine streams without the weights cache", extra={"cause": str(error)})
        except weights.WeightsError as error:
            raise StartError(self._describe(error)) from None
        finally:
            for task in (work, taken_over):
                task.cancel()
            await asyncio.wait({work, taken_over})

    async def _prefetch(self, on_replaced: Callable[[Path], None]) -> weights.Prefetched:
        for attempt in range(1, _MAX_VERSIONS + 1):
            assert self._pulled is not None
            try:
                return await weights.prefetch(self._pulled, until=self._loads)
            except weights.ObjectChangedError as error:
                # An engine that loads already must not get the rest from another version.
                if self._loads.is_set() or attempt == _MAX_VERSIONS:
                    raise
                log.warning("the model was replaced; fetching its new version", extra={"cause": str(error)})
            on_replaced(await self.fetch())
        raise AssertionError("unreachable")

    async def _pin(self, pulled: weights.PulledModel) -> None:
        with contextlib.suppress(weights.CacheError):  # a cache that is read-only by now evicts nothing
            for _ in range(_PIN_ATTEMPTS):
                if await asyncio.to_thread(pulled.pin_weights):
                    return
                await asyncio.sleep(_PIN_INTERVAL_SECONDS)

    def _describe(self, error: weights.WeightsError) -> str:
        return f"{env_vars.MODEL_URI} = {self._uri}: {error}"
