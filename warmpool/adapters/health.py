"""Health and metrics of the controller over HTTP: `/healthz/live`, `/healthz/ready`, `/metrics`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Final, Self

from aiohttp import web

from warmpool.adapters.metrics import MetricsCollector
from warmpool.ports import Clock, ControllerStatus

LONGEST_PAUSE: Final = timedelta(minutes=5)
"""Time without a heartbeat after which the control loop counts as stuck and a restart as the cure.

An API that is away does not count: the loop goes on with what it knows, and goes on asking.
"""


class HealthServer:
    """Serves the endpoints as long as the context lasts."""

    def __init__(self, controller: ControllerStatus, clock: Clock, *, host: str, port: int) -> None:
        self._controller = controller
        self._clock = clock
        self._host = host
        self._wanted_port = port
        self._metrics = MetricsCollector(controller)
        self._started_at = clock.now()
        self._runner: web.AppRunner | None = None
        self.port: int = port

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/healthz/live", self._live)
        app.router.add_get("/healthz/ready", self._ready)
        app.router.add_get("/metrics", self._show_metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._wanted_port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _live(self, request: web.Request) -> web.Response:
        _ = request
        last = self._controller.heartbeat or self._started_at
        stuck = self._clock.now() - last > LONGEST_PAUSE
        return _json({"heartbeat": last.isoformat()}, status=503 if stuck else 200)

    async def _ready(self, request: web.Request) -> web.Response:
        _ = request
        synced = self._controller.synced
        body = {"synced": synced, "pools": self._controller.pool_count}
        return _json(body, status=200 if synced else 503)

    async def _show_metrics(self, request: web.Request) -> web.Response:
        _ = request
        return web.Response(body=self._metrics.render(), content_type="text/plain", charset="utf-8")


def _json(body: Mapping[str, object], *, status: int) -> web.Response:
    return web.Response(text=json.dumps(body), status=status, content_type="application/json")
