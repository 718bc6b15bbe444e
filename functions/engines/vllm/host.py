"""vLLM as the generate stage sees it: the ladder, the proxy, the metrics, the way to the weights."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

import weights
from functions.app import surface_of
from functions.engines.vllm import proxy
from functions.engines.vllm.client import BASE, VllmEngine
from functions.engines.vllm.ladder import Ladder, Patience
from functions.replica import Replica
from functions.settings import Settings
from functions.stage import RequestContext, StartError

if TYPE_CHECKING:
    from fastapi import FastAPI


class VllmHost:
    """Everything of vLLM that one replica has.

    Args:
        settings: with a model URI.
        idle: seconds without a request after which a hot replica goes back to its resting rung.
    """

    def __init__(self, settings: Settings, *, idle: float | None = None) -> None:
        self._settings = settings
        self._name = settings.stage_name or "generate"
        self.ladder = Ladder(settings, self._fetch, Patience(idle=idle))

    async def start(self, replica: Replica) -> None:
        """See `EngineHost.start`."""
        await self.ladder.start(replica)

    def hot(self, context: RequestContext) -> AbstractAsyncContextManager[VllmEngine]:
        """See `EngineHost.hot`."""
        return self.ladder.hot(context)

    async def close(self) -> None:
        """See `EngineHost.close`."""
        await self.ladder.close()

    def extend(self, app: FastAPI) -> None:
        """Add vLLM's own paths, and its metrics beside the stage's."""
        metrics = surface_of(app).metrics
        metrics.extra.append(self._metrics)
        proxy.add_to(app, proxy.Proxy(self.ladder, metrics, self._name))

    async def _fetch(self) -> Path:
        assert self._settings.model_uri is not None
        try:
            pulled = await weights.pull(self._settings.model_uri, cache_dir=self._settings.cache_dir)
        except weights.WeightsError as error:
            raise StartError(f"PILOTLIGHT_MODEL_URI = {self._settings.model_uri}: {error}") from None
        return pulled.path

    async def _metrics(self) -> bytes:
        engine = self.ladder.engine
        if engine is None:
            return b""
        try:
            async with engine.session.get(
                BASE + "/metrics", timeout=aiohttp.ClientTimeout(total=2)
            ) as response:
                return await response.read()
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error
