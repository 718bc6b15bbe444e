"""The client for proxies against real servers on real sockets, whatever they send and however they end."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from transport.connection import ConnectionLostError, ProtocolError, UpstreamResponse
from transport.pool import ConnectError, UpstreamPool

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HOST = [(b"host", b"server")]


class Script:
    """A server that reads a request's head and then does what the test says; on a port of its own."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.heads: list[bytes] = []
        self._servers: list[asyncio.Server] = []

    async def start(self, serve: Serve) -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                    await serve(reader, writer)
                    await writer.drain()
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self._servers.append(server)
        self.port = server.sockets[0].getsockname()[1]

    async def answers(self, *pieces: bytes, then_close: bool = False, pause: float = 0.0) -> None:
        """Serve these bytes for each request."""

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(pause)
            if then_close:
                await writer.drain()
                writer.close()

        await self.start(serve)

    async def stop(self) -> None:
        for server in self._servers:
            server.close()


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    made = Script()
    yield made
    await made.stop()


@pytest.fixture
async def pool() -> AsyncIterator[UpstreamPool]:
    made = UpstreamPool(idle_s=1.0)
    yield made
    made.close()


async def get(pool: UpstreamPool, script: Script, method: bytes = b"GET", **options: Any) -> UpstreamResponse:
    return await pool.request(("127.0.0.1", script.port), method, b"/", HOST, **options)


async def whole(pool: UpstreamPool, script: Script, method: bytes = b"GET") -> tuple[int | None, bytes]:
    response = await get(pool, script, method)
    return response.status, await response.read_all()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((OK + b"Content-Length: 5\r\n\r\nhello",), b"hello"),
        ((OK, b"Content-Length: 5\r\n", b"\r\nhe", b"llo"), b"hello"),
        ((OK + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"), b"hello"),
        ((OK + b"Content-Length: 0\r\n\r\n",), b""),
        ((b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",), b"hi"),
        ((OK + b"transfer-encoding: gzip, CHUNKED\r\n\r\n0\r\n\r\n",), b""),
    ],
    ids=["length", "in pieces", "chunked", "empty", "interim", "two codings"],
)
@pytest.mark.parametrize("pause", [0.0, 0.01])
async def test_a_response_arrives_whole_and_leaves_its_connection_to_the_next_request(
    pool: UpstreamPool, script: Script, pieces: tuple[bytes, ...], expected: bytes, pause: float
):
    await script.answers(*pieces, pause=pause)
    for _ in range(3):
        assert await whole(pool, script) == (200, expected)
    assert script.connections == 1


@pytest.mark.parametrize(
    "head", [OK, b"HTTP/1.0 200 OK\r\n", OK + b"Transfer-Encoding: gzip\r\n"], ids=["1.1", "1.0", "gzip"]
)
async def test_a_body_without_a_length_ends_with_its_connection(
    pool: UpstreamPool, script: Script, head: bytes
):
    await script.answers(head + b"\r\n", b"hel", b"lo", then_close=True, pause=0.01)
    for _ in range(2):
        assert await whole(pool, script) == (200, b"hello")
    assert script.connections == 2


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_status_without_body_ends_with_its_head(pool: UpstreamPool, script: Script, status: bytes):
    await script.answers(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n")
    for _ in range(2):
        response = await get(pool, script)
        assert (response.status, await response.read_all()) == (int(status[:3]), b"")
        assert response.header(b"content-length") == b"5"


async def test_the_response_to_a_head_request_ends_with_its_head(pool: UpstreamPool, script: Script):
    await script.answers(OK + b"Content-Length: 5\r\n\r\n")
    for _ in range(3):
        assert await whole(pool, script, b"HEAD") == (200, b"")


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n",
    ],
    ids=["nonsense", "length", "two framings", "long head", "unasked switch"],
)
async def test_a_malformed_response_raises_a_protocol_error(
    pool: UpstreamPool, script: Script, answer: bytes
):
    await script.answers(answer)
    with pytest.raises(ProtocolError):
        await asyncio.wait_for(whole(pool, script), 5)


async def test_a_malformed_chunk_raises_after_the_good_part_of_the_body(pool: UpstreamPool, script: Script):
    await script.answers(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", b"x\r\n", pause=0.05)
    response = await get(pool, script)
    assert await response.read() == b"he"
    with pytest.raises(ProtocolError):
        await response.read()
    assert not response.complete


@pytest.mark.parametrize(
    ("sent", "good"),
    [
        (b"", ConnectionLostError),
        (OK, ProtocolError),
        (OK + b"Content-Length: 5\r\n\r\nhe", b"he"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", b"he"),
    ],
    ids=["nothing", "half a head", "length", "chunked"],
)
async def test_a_response_that_is_cut_off_never_looks_complete(
    pool: UpstreamPool, script: Script, sent: bytes, good: bytes | type[Exception]
):
    await script.answers(sent, then_close=True)
    if not isinstance(good, bytes):
        with pytest.raises(good):
            await get(pool, script)
        return
    response = await get(pool, script)
    assert await response.read() == good
    with pytest.raises(ConnectionLostError):
        await response.read()


async def test_bytes_without_a_request_close_the_connection(pool: UpstreamPool, script: Script):
    answer = OK + b"Content-Length: 2\r\n\r\nhi"
    await script.answers(answer + answer)
    for _ in range(3):
        assert await whole(pool, script) == (200, b"hi")
        await asyncio.sleep(0.02)
    assert script.connections == 3


async def test_connection_close_is_obeyed(pool: UpstreamPool, script: Script):
    await script.answers(OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi")
    for _ in range(2):
        assert await whole(pool, script) == (200, b"hi")
    assert script.connections == 2


async def test_a_server_that_is_not_there_raises_a_connect_error(
    pool: UpstreamPool, script: Script, tmp_path: Path
):
    await script.answers(OK)
    await script.stop()
    with pytest.raises(ConnectError):
        await get(pool, script)
    with pytest.raises(ConnectError):
        await pool.request(str(tmp_path / "none"), b"GET", b"/", HOST)


async def test_a_server_that_accepts_no_connection_raises_in_time(full_address: tuple[str, int]):
    pool = UpstreamPool(connect_s=0.2)
    with pytest.raises(ConnectError, match=r"no connection within 0\.2 s"):
        await pool.request(full_address, b"GET", b"/", HOST)
    pool.close()


@pytest.fixture
async def full_address() -> AsyncIterator[tuple[str, int]]:
    """A socket whose queue is full: connecting to it neither succeeds nor fails."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        waiting = [asyncio.create_task(asyncio.open_connection(*address)) for _ in range(8)]
        await asyncio.sleep(0.1)
        yield address
        for task in waiting:
            task.cancel()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(result, tuple):
                result[1].close()


async def test_many_requests_at_once_do_not_mix(pool: UpstreamPool, script: Script):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = script.heads[-1]
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        await asyncio.sleep(0.001 * (length % 7))
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        for byte in body:
            writer.write(b"1\r\n%c\r\n" % byte)
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    await script.start(serve)

    async def ask(number: int) -> None:
        body = b"%d" % number * (number % 13 + 1)
        headers = [*HOST, (b"content-length", b"%d" % len(body))]
        response = await pool.request(("127.0.0.1", script.port), b"POST", b"/", headers, body)
        assert await response.read_all() == body

    for _ in range(5):
        await asyncio.gather(*(ask(number) for number in range(60)))
    assert script.connections <= 60


async def test_a_slow_reader_holds_the_server_back(pool: UpstreamPool, script: Script):
    sent = 0

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % (64 << 20))
        for _ in range(1024):
            writer.write(bytes(64 << 10))
            await writer.drain()
            sent += 64 << 10

    await script.start(serve)
    response = await get(pool, script)
    await asyncio.sleep(0.3)
    assert sent < 16 << 20
    assert len(await response.read_all()) == 64 << 20
    assert sent == 64 << 20


async def test_a_server_that_does_not_read_holds_the_body_back(pool: UpstreamPool, script: Script):
    taken = 0
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        while not (await reader.read(1 << 20)).endswith(b"!\r\n0\r\n\r\n"):
            pass
        writer.write(OK + b"Content-Length: 0\r\n\r\n")

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(256):
            taken += 64 << 10
            yield bytes(64 << 10)
        yield b"!"

    await script.start(serve)
    headers = [*HOST, (b"transfer-encoding", b"chunked")]
    asking = asyncio.create_task(
        pool.request(("127.0.0.1", script.port), b"POST", b"/", headers, body(), chunked=True)
    )
    await asyncio.sleep(0.3)
    assert taken < 8 << 20
    go_on.set()
    assert (await asyncio.wait_for(asking, 60)).status == 200


async def test_a_response_before_the_end_of_the_requests_body_is_read(pool: UpstreamPool, script: Script):
    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(60)

    await script.answers(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    headers = [*HOST, (b"transfer-encoding", b"chunked")]
    response = await pool.request(("127.0.0.1", script.port), b"POST", b"/", headers, body(), chunked=True)
    assert (response.status, await response.read_all()) == (413, b"no")
    assert await whole(pool, script) == (413, b"no")
    assert script.connections == 2  # the first one still waits for a body


async def test_a_body_that_cannot_be_read_ends_the_request(pool: UpstreamPool, script: Script):
    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        raise OSError("the disk is gone")

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readexactly(100)

    await script.start(serve)
    headers = [*HOST, (b"content-length", b"100")]
    with pytest.raises(ConnectionLostError, match="the disk is gone"):
        await pool.request(("127.0.0.1", script.port), b"POST", b"/", headers, body())


async def test_a_closed_response_is_seen_by_the_server(pool: UpstreamPool, script: Script):
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await reader.read(1)
        ended.set()

    await script.start(serve)
    response = await get(pool, script)
    response.close()
    await asyncio.wait_for(ended.wait(), 5)


async def test_a_request_that_is_cancelled_takes_its_connection_with_it(pool: UpstreamPool, script: Script):
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(1)
        ended.set()

    await script.start(serve)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(get(pool, script), 0.05)
    await asyncio.wait_for(ended.wait(), 5)


async def test_an_idle_connection_is_closed_and_one_that_the_server_closed_is_not_used(script: Script):
    await script.answers(OK + b"Content-Length: 0\r\n\r\n")
    pool = UpstreamPool(idle_s=0.1)
    await whole(pool, script)
    await asyncio.sleep(0.3)
    await whole(pool, script)
    assert script.connections == 2
    pool.close()
    with pytest.raises(ConnectError):
        await whole(pool, script)


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n", b""], ids=["length", "until its end"])
async def test_closing_the_pool_cuts_off_the_responses_that_are_being_read(
    pool: UpstreamPool, script: Script, framing: bytes
):
    await script.answers(OK + framing + b"\r\nhe")
    response = await get(pool, script)
    assert await response.read() == b"he"
    asyncio.get_running_loop().call_later(0.05, pool.close)
    with pytest.raises(ConnectionLostError):
        await asyncio.wait_for(response.read(), 5)


async def test_trailer_fields_are_not_merged_into_the_head(pool: UpstreamPool, script: Script):
    await script.answers(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Late: 1\r\n\r\n")
    response = await get(pool, script)
    assert (await response.read_all(), response.header(b"x-late")) == (b"a", None)


async def test_chunks_announced_in_a_second_field_end_with_the_last_chunk(pool: UpstreamPool, script: Script):
    fields = b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    await script.answers(OK + fields + b"1\r\na\r\n", then_close=True)
    response = await get(pool, script)
    assert await response.read() == b"a"
    with pytest.raises(ConnectionLostError):
        await response.read()


async def test_a_switched_connection_is_handed_over_with_all_bytes_received(
    pool: UpstreamPool, script: Script
):
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(switch + b"first")
        writer.write(await reader.readexactly(4))

    await script.start(serve)
    response = await get(pool, script, may_switch=True)
    assert (response.status, response.header(b"upgrade")) == (101, b"echo")
    transport, early = response.switch()
    received: asyncio.Queue[bytes] = asyncio.Queue()

    class Raw(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            received.put_nowait(data)

    transport.set_protocol(Raw())
    transport.resume_reading()
    transport.write(b"more")
    assert early == b"first"
    assert await asyncio.wait_for(received.get(), 5) == b"more"
    transport.close()


async def test_a_real_server_on_a_unix_socket(pool: UpstreamPool, tmp_path: Path):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive()).get("body", b"")
        headers = [(b"x-got", dict(scope["headers"])[b"x-sent"])]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(3):
            await send(
                {"type": "http.response.body", "body": scope["path"].encode() + body, "more_body": True}
            )
        await send({"type": "http.response.body"})

    path = str(tmp_path / "server.sock")
    server = uvicorn.Server(uvicorn.Config(app, uds=path, lifespan="off", log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    headers = [*HOST, (b"x-sent", "grüße".encode()), (b"content-length", b"1")]
    for _ in range(3):
        response = await pool.request(path, b"POST", b"/a", headers, b"!")
        assert await response.read_all() == b"/a!" * 3
        assert response.header(b"x-got") == "grüße".encode()
    pool.close()
    server.should_exit = True
    await serving
