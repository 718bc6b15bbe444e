"""A response's head leaves with its first bytes in one write, and never waits for bytes that do not come."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from transport.one_write import OneWriteProtocol

Send = Callable[[dict[str, Any]], Awaitable[None]]
LARGE = b"x" * 100_000


class Recorder:
    """A transport that notes what is written to it."""

    def __init__(self, transport: asyncio.Transport, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def write(self, data: bytes) -> None:
        self._writes.append(bytes(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@contextlib.asynccontextmanager
async def serving(answer: Callable[[Send], Awaitable[None]]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """The port of a server whose application answers like this, and what it writes."""
    writes: list[bytes] = []

    async def app(scope: dict[str, Any], receive: Any, send: Send) -> None:
        assert scope["type"] == "http"
        await receive()
        await answer(send)

    class Protocol(OneWriteProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(Recorder(transport, writes))

    config = uvicorn.Config(
        app, port=0, http=Protocol, lifespan="off", log_level="error", server_header=False
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1], writes
    finally:
        server.should_exit = True
        await task


async def get(port: int, method: bytes = b"GET") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(method + b" / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


def start(length: int) -> dict[str, Any]:
    headers = [(b"content-length", str(length).encode())]
    return {"type": "http.response.start", "status": 200, "headers": headers}


@pytest.mark.parametrize(("body", "writes"), [(b"small", 1), (LARGE, 2)])
async def test_head_and_body_are_one_write_unless_copying_costs_more(body: bytes, writes: int):
    async def answer(send: Send) -> None:
        await send(start(len(body)))
        await send({"type": "http.response.body", "body": body})

    async with serving(answer) as (port, written):
        said = await get(port)
    assert said.endswith(b"\r\n\r\n" + body)
    assert len(written) == writes


async def test_a_stream_has_its_first_piece_with_the_head_and_the_others_as_they_come():
    async def answer(send: Send) -> None:
        await send(start(3))
        for piece in (b"a", b"b", b"c"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b""})

    async with serving(answer) as (port, written):
        said = await get(port)
    assert said.endswith(b"\r\n\r\nabc")
    assert written[0].endswith(b"\r\n\r\na")
    assert [data for data in written[1:] if data] == [b"b", b"c"]


async def test_a_head_without_a_body_yet_is_not_held_back():
    sent, go_on = asyncio.Event(), asyncio.Event()

    async def answer(send: Send) -> None:
        await send(start(2))
        sent.set()
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"ok"})

    async with serving(answer) as (port, written):
        request = asyncio.create_task(get(port))
        await asyncio.wait_for(sent.wait(), 10)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(written) == 1
        assert written[0].endswith(b"\r\n\r\n")
        go_on.set()
        assert (await request).endswith(b"\r\n\r\nok")


async def test_the_response_to_a_head_request_is_its_head():
    async def answer(send: Send) -> None:
        await send(start(2))
        await send({"type": "http.response.body", "body": b"ok"})

    async with serving(answer) as (port, _):
        assert (await get(port, b"HEAD")).endswith(b"content-length: 2\r\nconnection: close\r\n\r\n")
