"""vLLM as the engine of the generate stage: its warmth, its paths, its metrics."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp

from functions.engines import health_routes
from functions.engines.vllm import proxy, warmth_endpoint
from functions.engines.vllm.client import BASE_URL, VllmEngine
from functions.engines.vllm.device_lock import DeviceLock
from functions.engines.vllm.engine_slot import EngineSlot
from functions.engines.vllm.launcher import Launcher
from functions.engines.vllm.model_files import ModelFiles
from functions.engines.vllm.option_schema import installed_version
from functions.engines.vllm.supervision import SupervisionLimits
from functions.engines.vllm.warmth_controller import WarmthController
from functions.replica import ReplicaTracker
from functions.settings import FunctionSettings
from functions.stage import RequestContext, StageRoutes, StageRuntime

_METRICS_SECONDS = 2.0
"""Timeout of the request for vLLM's metrics."""


class VllmHost:
    """`EngineHost` of a replica with vLLM.

    Args:
        settings: with a model URI.
        limits: time limits of supervision.
        device: folder of the lock of a device that several replicas of this host share; None for a device of
            the replica's own.
        sleep_level: vLLM's sleep level for `asleep`.
        admin_token: bearer token of the admin endpoint; None to have no endpoint.
        artefact_key: signs compiled artefacts; None to restore only those of this user.
    """

    def __init__(
        self,
        settings: FunctionSettings,
        *,
        limits: SupervisionLimits,
        device: Path | None = None,
        sleep_level: int = 1,
        admin_token: str | None = None,
        artefact_key: str | None = None,
    ) -> None:
        self._name = settings.stage_name or "generate"
        self._admin_token = admin_token
        assert settings.model_uri is not None
        files = ModelFiles(
            settings.model_uri, settings.cache_dir, settings.engine_args, quota=settings.cache_quota
        )
        launcher = Launcher(settings, files, artefact_key=artefact_key)
        slot = EngineSlot(launcher, None if device is None else DeviceLock(device), sleep_level)
        self._controller = WarmthController(launcher, slot, settings.warmth, limits)

    async def start(self, replica: ReplicaTracker) -> None:
        """See `EngineHost.start`."""
        await self._controller.start(replica)

    def hot(self, context: RequestContext) -> AbstractAsyncContextManager[VllmEngine]:
        """See `EngineHost.hot`."""
        return self._controller.hot(context)

    async def close(self) -> None:
        """See `EngineHost.close`."""
        await self._controller.close()

    def routes(self, runtime: StageRuntime) -> StageRoutes:
        """The paths of vLLM and the admin endpoint; adds vLLM's metrics to the stage's."""
        metrics = runtime.metrics
        metrics.extra.append(self._metrics)
        self._controller.requests.on_use = metrics.batch
        router = warmth_endpoint.router(self._controller, runtime.replica, self._admin_token)
        router.include_router(health_routes.router(runtime.replica, installed_version))
        return StageRoutes(
            router,
            (proxy.direct_route(proxy.VllmProxy(self._controller, metrics), self._name),),
        )

    async def _metrics(self) -> bytes:
        engine = self._controller.engine
        if engine is None:
            return b""
        try:
            async with engine.session.get(
                BASE_URL + "/metrics", timeout=aiohttp.ClientTimeout(total=_METRICS_SECONDS)
            ) as response:
                return await response.read()
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error
