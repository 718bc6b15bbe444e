"""Health and metrics of a dispatcher process over HTTP: `/healthz/live`, `/healthz/ready`, `/metrics`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest


@asynccontextmanager
async def serving(
    host: str, port: int, registry: CollectorRegistry, ready: Callable[[], bool]
) -> AsyncIterator[int]:
    """Serve for as long as the context lasts; gives the port.

    Live is who answers at all. Ready is a process whose queues are reached: a rollout waits for that.

    Raises:
        OSError: the port is taken.
    """

    async def live(_request: web.Request) -> web.Response:
        return web.Response(text="live")

    async def is_ready(_request: web.Request) -> web.Response:
        good = ready()
        return web.Response(text="ready" if good else "a queue is not reached", status=200 if good else 503)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), content_type="text/plain", charset="utf-8")

    app = web.Application()
    app.router.add_get("/healthz/live", live)
    app.router.add_get("/healthz/ready", is_ready)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
