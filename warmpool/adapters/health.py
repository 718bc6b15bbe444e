"""Health and metrics of the controller over HTTP: `/healthz/live`, `/healthz/ready`, `/metrics`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Final, Self

from aiohttp import web

from warmpool.adapters.clock import Clock
from warmpool.adapters.metrics import ControllerMetrics
from warmpool.controller.runner import Controller

STALE: Final = timedelta(minutes=5)
"""Without a look for this long the loop is stuck and a restart is the cure.

An API that is away does not stop it: it goes on looking at what it knows."""


class HealthServer:
    """Serves the endpoints while the context lasts."""

    def __init__(self, controller: Controller, clock: Clock, *, host: str, port: int) -> None:
        self._controller = controller
        self._clock = clock
        self._host = host
        self._wanted_port = port
        self._metrics = ControllerMetrics(controller)
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
        last = self._controller.reconciled_at or self._started_at
        stuck = self._clock.now() - last > STALE and self._controller.synced
        return _json({"reconciled_at": last.isoformat()}, status=503 if stuck else 200)

    async def _ready(self, request: web.Request) -> web.Response:
        _ = request
        synced = self._controller.synced
        body = {"synced": synced, "pools": len(self._controller.cache.pools)}
        return _json(body, status=200 if synced else 503)

    async def _show_metrics(self, request: web.Request) -> web.Response:
        _ = request
        return web.Response(body=self._metrics.render(), content_type="text/plain", charset="utf-8")


def _json(body: Mapping[str, object], *, status: int) -> web.Response:
    return web.Response(text=json.dumps(body), status=status, content_type="application/json")
