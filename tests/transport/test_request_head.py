"""Limits on a request's head: too long, too large or too slow, over a real connection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import uvicorn

from transport.request_head import HeadLimitedProtocol, HeadLimits, with_head_limits

LIMITS = HeadLimits(target_bytes=1000, fields_bytes=2000, timeout_s=0.3)


async def echo(scope, receive, send):
    """Answers with the number of bytes of the body."""
    assert scope["type"] == "http"
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = str(length).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    )
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(limits: HeadLimits) -> AsyncIterator[int]:
    protocol = with_head_limits(HeadLimitedProtocol, limits)
    config = uvicorn.Config(
        echo, port=0, http=protocol, lifespan="off", log_level="error", timeout_keep_alive=60
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def answer(port: int, *pieces: bytes) -> bytes:
    """All that the server says until it ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    with contextlib.suppress(ConnectionError):  # what was not read when the server ended it
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        while data := await asyncio.wait_for(reader.read(65536), 10):
            said += data
    writer.close()
    return said


HOST = b"Host: x\r\n"


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ((b"GET /" + b"a" * 1000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",), 414),
        ((b"GET /", b"a" * 5000), 414),  # and the line has not even ended
        ((b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 2000 + b"\r\n\r\n",), 431),
        ((b"GET / HTTP/1.1\r\n" + HOST, b"X: " + b"a" * 5000), 431),
        ((b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"X%d: a\r\n" % n for n in range(300)) + b"\r\n",), 431),
        ((b"GET / HTTP/1.1\r\n" + HOST,), 408),
        ((b"G",), 408),
        ((b"GET / HTTP/1.1\r\n" + HOST + b"host: y\r\n\r\n",), 400),
    ],
)
async def test_a_head_beyond_the_limits_is_answered_and_the_connection_ends(pieces, status):
    async with serving(LIMITS) as port:
        said = await answer(port, *pieces)
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head
    assert body


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_a_connection_that_asks_nothing_is_ended_without_an_answer(sent):
    async with serving(LIMITS) as port:
        assert await answer(port, sent) == b""


async def test_a_second_request_on_a_connection_is_held_to_the_same_limits():
    first = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
    async with serving(LIMITS) as port:
        said = await answer(port, first, b"GET /later HTTP/1.1\r\nHo")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in said


async def test_trailers_are_bounded_as_header_fields_are():
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    async with serving(LIMITS) as port:
        said = await answer(port, head, b"X: " + b"a" * 2_000_000)  # more than one read of a socket takes
    assert said == b""  # a response could only be one to the request that is still coming in


async def test_a_large_and_slow_body_is_no_matter_of_the_head():
    size = 100_000
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size
    async with serving(LIMITS) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"a" * (size - 1))
        await writer.drain()
        await asyncio.sleep(2 * LIMITS.timeout_s)  # longer than a head may take
        writer.write(b"a")
        said = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert said.endswith(b"\r\n\r\n100000")
