"""A proxy in front of the Kubernetes API that delays, refuses, cuts off and loses what a test tells it to."""

import asyncio
import json
import socket

import aiohttp
from aiohttp import web


class FaultyProxy:
    """Forwards everything until a test sets one of its attributes."""

    def __init__(self, upstream_port: int) -> None:
        self.upstream = f"http://127.0.0.1:{upstream_port}"
        self.away = False
        """Connections are closed without an answer, open watches too."""
        self.answers: list[tuple[str, int, dict]] = []
        """Answers for the coming requests: method (or *), status, headers."""
        self.refuse: str | None = None
        """Changes whose path has this in it are refused, as by an admission webhook that is down."""
        self.allow: str | None = None
        """Of these, changes whose path has this in it are made all the same."""
        self.delay_s = 0.0
        self.watch_line: bytes | None = None
        """A line that the next watch of pools sends before anything else."""
        self.cut_after: int | None = None
        """Make so many changes, then go away: the moment at which a controller dies."""
        self.lose_reply = False
        """With `cut_after`: the last change is made, but its answer is lost."""
        self.changes = 0
        self.requests = 0
        self.seen: list[tuple[str, str, bool]] = []
        """Method, path and whether it was a watch, of every request."""
        self._watches: set[web.StreamResponse] = set()
        self._runner: web.AppRunner | None = None
        self._client: aiohttp.ClientSession | None = None
        self.port = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        await web.SockSite(self._runner, listener).start()
        self._client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False)

    async def stop(self) -> None:
        self.drop_watches()
        await self._client.close()
        await self._runner.cleanup()

    def drop_watches(self) -> None:
        """Close every watch in the middle of a line."""
        for response in tuple(self._watches):
            if response.task is not None:
                response.task.cancel()

    def go_away(self) -> None:
        """Stop answering."""
        self.away = True
        self.drop_watches()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        self.seen.append((request.method, request.path, request.query.get("watch") == "true"))
        if self.away:
            request.transport.abort()
            raise ConnectionResetError
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        changing = request.method in {"POST", "PATCH", "PUT", "DELETE"}
        for index, (method, status, headers) in enumerate(self.answers):
            if method in {"*", request.method}:
                del self.answers[index]
                return _failure(status, headers)
        spared = self.allow is not None and self.allow in request.path
        if changing and self.refuse is not None and self.refuse in request.path and not spared:
            return _failure(500, {}, "admission webhook is down")
        if changing and self.cut_after is not None and self.changes >= self.cut_after:
            self.go_away()
            request.transport.abort()
            raise ConnectionResetError
        body = await request.read()
        headers = {k: v for k, v in request.headers.items() if k.lower() not in {"host", "content-length"}}
        url = self.upstream + request.raw_path
        async with self._client.request(request.method, url, data=body or None, headers=headers) as answer:
            if changing and answer.status < 300:
                self.changes += 1
                if self.lose_reply and self.changes == self.cut_after:
                    self.go_away()
                    request.transport.abort()
                    raise ConnectionResetError
            if request.query.get("watch") == "true":
                return await self._stream(request, answer)
            kept = {
                k: v
                for k, v in answer.headers.items()
                if k.lower() not in {"content-length", "transfer-encoding"}
            }
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    async def _stream(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers={"content-type": "application/json"})
        await response.prepare(request)
        self._watches.add(response)
        if self.watch_line is not None and request.path.endswith("/warmpools"):
            line, self.watch_line = self.watch_line, None
            await response.write(line)
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
        finally:
            self._watches.discard(response)
        return response


def _failure(status: int, headers: dict, message: str = "injected") -> web.Response:
    reason = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}[
        status
    ]
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status}
    return web.Response(
        status=status,
        headers={"content-type": "application/json", **headers},
        text=json.dumps(body | {"message": message}),
    )
