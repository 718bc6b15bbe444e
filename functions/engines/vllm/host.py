"""vLLM as the generate stage sees it: the ladder, the proxy, the metrics, the way to the weights."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp

from functions.engines.vllm import admin, proxy
from functions.engines.vllm.client import BASE, VllmEngine
from functions.engines.vllm.device import DeviceTurn
from functions.engines.vllm.ladder import Ladder
from functions.engines.vllm.launch import Launcher
from functions.engines.vllm.model import ModelFiles
from functions.engines.vllm.supervision import Patience
from functions.replica import Replica
from functions.settings import Settings
from functions.stage import RequestContext, StageRoutes, StageRuntime


class VllmHost:
    """Everything of vLLM that one replica has.

    Args:
        settings: with a model URI.
        patience: when to give something up.
        device: folder of the queue for a device that this replica shares with others of its host.
        sleep_level: vLLM's, for the rung asleep.
        admin_token: opens the admin endpoint; None for none.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        patience: Patience,
        device: Path | None = None,
        sleep_level: int = 1,
        admin_token: str | None = None,
    ) -> None:
        self._name = settings.stage_name or "generate"
        self._admin_token = admin_token
        turn = None if device is None else DeviceTurn(device)
        assert settings.model_uri is not None
        files = ModelFiles(settings.model_uri, settings.cache_dir, settings.engine_args)
        launcher = Launcher(settings, files)
        self.ladder = Ladder(launcher, settings.warmth, patience, device=turn, sleep_level=sleep_level)

    async def start(self, replica: Replica) -> None:
        """See `EngineHost.start`."""
        await self.ladder.start(replica)

    def hot(self, context: RequestContext) -> AbstractAsyncContextManager[VllmEngine]:
        """See `EngineHost.hot`."""
        return self.ladder.hot(context)

    async def close(self) -> None:
        """See `EngineHost.close`."""
        await self.ladder.close()

    def routes(self, runtime: StageRuntime) -> StageRoutes:
        """VLLM's own paths and the admin endpoint; adds vLLM's metrics beside the stage's."""
        metrics = runtime.metrics
        metrics.extra.append(self._metrics)
        self.ladder.on_use = metrics.batch
        return StageRoutes(
            admin.router(self.ladder, runtime.replica, self._admin_token),
            (proxy.direct_route(proxy.Proxy(self.ladder, metrics), self._name),),
        )

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
