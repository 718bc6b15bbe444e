"""A function for tests: an HTTP server in this process that answers as a test tells it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

Handler = Callable[["Call"], Awaitable[web.StreamResponse] | web.StreamResponse]


@dataclass
class Call:
    """One request as it arrived."""

    headers: dict[str, str]
    body: bytes
    path: str
    request: web.Request = field(repr=False)

    @property
    def event_id(self) -> str:
        return self.headers["ce-id"]


class Function:
    """Answers 200 unless `handler` says otherwise."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.handler: Handler = lambda _call: web.Response(text="ok")
        self.concurrent = 0
        self.most_concurrent = 0
        self.url = ""
        self.port = 0
        self._arrived = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.url = f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def until(self, condition: Callable[[], bool], within_s: float = 30) -> None:
        """Wait for a condition that requests make true."""
        async with asyncio.timeout(within_s), self._arrived:
            await self._arrived.wait_for(condition)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = Call(headers, body, request.path_qs, request)
        self.concurrent += 1
        self.most_concurrent = max(self.most_concurrent, self.concurrent)
        try:
            async with self._arrived:
                self.calls.append(call)
                self._arrived.notify_all()
            answer = self.handler(call)
            return answer if isinstance(answer, web.StreamResponse) else await answer
        finally:
            self.concurrent -= 1


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Function]:
    function = Function()
    await function.start()
    try:
        yield function
    finally:
        await function.stop()
