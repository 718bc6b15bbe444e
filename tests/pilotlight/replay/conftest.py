"""A server for replays: each path answers in one way, and says nothing until it is told to."""

import asyncio
import json

import pytest
from aiohttp import web


def event(data, name=None) -> bytes:
    head = f"event: {name}\n" if name else ""
    body = data if isinstance(data, str) else json.dumps(data)
    return f"{head}data: {body}\n\n".encode()


TIMING = {"stage": "generate", "seconds": 0.5, "warmth": "hot", "phases": {"queue": 0.25, "prefill": 0.1}}


class Function:
    """What was asked, and how the next answers are."""

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.url = ""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.pieces: list[bytes] = []
        self.whole: dict | None = None
        self.released = asyncio.Event()
        self.released.set()
        self.asked = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.can_read_body:
            self.bodies.append(await request.json())
        else:
            self.bodies.append({})
        self.asked.set()
        await self.released.wait()
        if self.status != 200:
            problem = {"title": "Too Many Requests", "status": self.status, "detail": "queue is full"}
            return web.json_response(problem, status=self.status)
        if self.whole is not None:
            return web.json_response(self.whole, headers=self.headers)
        if not self.pieces:
            return web.Response(text="done", headers=self.headers)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **self.headers})
        await response.prepare(request)
        for piece in self.pieces:
            await response.write(piece)
            await asyncio.sleep(0)
        return response


@pytest.fixture
async def function():
    """A function at `url`."""
    made = Function()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    made.released.set()
    await runner.cleanup()
