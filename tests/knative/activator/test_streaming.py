"""Bodies are streamed unchanged in both directions, and a client that disconnects ends its request."""

import asyncio
import hashlib
import json

import pytest

from knative.local.routing import Endpoint, RevisionKey

KEY = RevisionKey("default", "a-00001")
CHUNK = b"0123456789abcdef" * 4096


async def test_each_event_arrives_before_the_next_one_is_sent(gateway):
    replica = await gateway.running()
    async with gateway.request("GET", "/events?n=3&wait=1") as response:
        assert response.headers["content-type"] == "text/event-stream"
        for number in range(3):
            assert await response.content.readuntil(b"\n\n") == f"data: {number}\n\n".encode()
            replica.release.set()
        assert await response.content.read() == b""


async def test_a_client_that_disconnects_from_a_stream_ends_it_at_the_replica(gateway):
    replica = await gateway.running()
    response = await gateway.request("GET", "/events?n=2&forever=1")
    assert await response.content.readuntil(b"\n\n") == b"data: 0\n\n"
    response.close()
    await asyncio.wait_for(replica.cancelled.wait(), 5)
    await gateway.until(lambda: gateway.activator.in_flight(KEY, "pod-1") == 0)


async def test_a_client_that_disconnects_before_the_response_ends_its_request_at_the_replica(gateway):
    replica = await gateway.running()
    asking = asyncio.create_task(gateway.get("/hang"))
    await asyncio.wait_for(replica.entered.wait(), 5)
    asking.cancel()
    await asyncio.wait_for(replica.cancelled.wait(), 5)
    await gateway.until(lambda: gateway.activator.in_flight(KEY, "pod-1") == 0)


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 8_000_000])
async def test_a_body_with_a_length_arrives_whole(gateway, size):
    await gateway.running()
    data = (CHUNK * (size // len(CHUNK) + 1))[:size]
    async with gateway.request("POST", "/", data=data) as response:
        seen = await response.json()
    assert (seen["length"], seen["sha256"]) == (size, hashlib.sha256(data).hexdigest())
    headers = dict(seen["headers"])
    assert headers["content-length"] == str(size)
    assert "transfer-encoding" not in headers


async def test_a_body_of_unknown_length_is_passed_on_as_it_arrives(gateway):
    replica = await gateway.running()
    more = asyncio.Event()

    async def pieces():
        yield b"first"
        await more.wait()
        yield b"second"

    sending = asyncio.create_task(read(gateway.request("PUT", "/", data=pieces())))
    await asyncio.wait_for(replica.first_bytes.wait(), 5)
    assert not sending.done()
    more.set()
    seen = await sending
    assert seen["length"] == 11
    assert dict(seen["headers"])["transfer-encoding"] == "chunked"


async def read(request):
    async with request as response:
        return await response.json()


async def test_a_large_download_arrives_whole(gateway):
    await gateway.running()
    async with gateway.request("GET", "/download?bytes=20000000") as response:
        digest = hashlib.sha256()
        async for chunk in response.content.iter_any():
            digest.update(chunk)
    assert digest.hexdigest() == hashlib.sha256(b"x" * 20_000_000).hexdigest()


async def test_a_slow_client_slows_the_replica_down(gateway):
    replica = await gateway.running()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
    writer.write(b"GET /download?bytes=100000000 HTTP/1.1\r\nHost: a.default.localhost\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.5)
    assert replica.in_flight == 1  # still sending: nothing in between has swallowed 100 MB
    writer.transport.abort()
    await gateway.until(lambda: gateway.activator.in_flight(KEY, "pod-1") == 0)


async def test_a_replica_that_does_not_read_stops_the_client(gateway):
    gateway.deploy()

    async def stall(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()
        await asyncio.sleep(30)

    server = await asyncio.start_server(stall, "127.0.0.1", 0)
    gateway.activator.set_endpoints(KEY, (Endpoint("raw", "127.0.0.1", server.sockets[0].getsockname()[1]),))
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    size = 200_000_000
    writer.write(f"PUT / HTTP/1.1\r\nHost: a.default.localhost\r\nContent-Length: {size}\r\n\r\n".encode())
    sent = 0
    try:
        async with asyncio.timeout(1):
            while sent < size:
                writer.write(CHUNK)
                sent += len(CHUNK)
                await writer.drain()
    except TimeoutError:
        pass
    writer.transport.abort()
    server.close()
    assert sent < 40_000_000  # what the kernel's buffers take, no more


async def test_header_fields_arrive_as_they_were_sent(gateway):
    await gateway.running()
    async with gateway.request("GET", "/headers") as response:
        assert await response.read() == b"not gzip at all"
        assert response.headers["content-encoding"] == "gzip"
        assert response.headers.getall("set-cookie") == ["a=1", "b=2"]
        assert "x-hop" not in response.headers
        assert response.headers["x-replica"] == "pod-1"


async def test_long_header_fields_pass(gateway):
    gateway.deploy()

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    gateway.activator.set_endpoints(KEY, (Endpoint("raw", "127.0.0.1", server.sockets[0].getsockname()[1]),))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 20)
    writer.write(b"GET / HTTP/1.1\r\nHost: a.default.localhost\r\nX-Much: " + b"y" * 60_000 + b"\r\n\r\n")
    assert len(await reader.readuntil(b"\r\n\r\n")) > 60_000
    writer.close()
    server.close()


@pytest.mark.parametrize("value", ["plain", "naïve", "日本"])
async def test_header_values_beyond_ascii_pass(gateway, value):
    await gateway.running()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        f"GET / HTTP/1.1\r\nHost: a.default.localhost\r\nX-Name: {value}\r\nConnection: close\r\n\r\n".encode()
    )
    answer = await reader.read()
    writer.close()
    seen = dict(json.loads(answer.partition(b"\r\n\r\n")[2])["headers"])
    assert seen["x-name"] == value


@pytest.mark.parametrize(("method", "path"), [("HEAD", "/"), ("GET", "/status?code=204")])
async def test_a_response_without_body_ends(gateway, method, path):
    await gateway.running()
    async with gateway.request(method, path) as response:
        assert response.status in (200, 204)
        assert await response.read() == b""
        if method == "HEAD":
            assert int(response.headers["content-length"]) > 0
    assert (await gateway.get())[0] == 200


async def test_not_modified_may_state_a_length(gateway):
    await gateway.running()
    async with gateway.request("GET", "/status?code=304&length=1") as response:
        assert (response.status, await response.read()) == (304, b"")
    assert (await gateway.get())[0] == 200


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_method_passes(gateway, method):
    await gateway.running()
    async with gateway.request(method, "/m") as response:
        assert (await response.json())["method"] == method


async def test_one_connection_carries_many_requests(gateway):
    await gateway.running()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    request = b"GET /%d HTTP/1.1\r\nHost: a.default.localhost\r\n\r\n"
    writer.write(b"".join(request % number for number in range(5)))  # pipelined
    for number in range(5):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert f'"path": "/{number}"'.encode() in await reader.readexactly(length)
    writer.close()


@pytest.mark.parametrize(("path", "length"), [("/", None), ("/events?n=3", 27)])
async def test_an_http_1_0_client_gets_its_response_and_the_end_of_the_connection(gateway, path, length):
    await gateway.running()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"GET {path} HTTP/1.0\r\nHost: a.default.localhost\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b"transfer-encoding" not in head.lower()
    assert len(body) == (length or int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))


async def test_a_client_that_expects_100_continue_gets_it(gateway):
    await gateway.running()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"POST / HTTP/1.1\r\nHost: a.default.localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    writer.write(b"ok")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize("named", ["content-length", "host", "close, content-length"])
async def test_connection_cannot_remove_the_fields_that_frame_a_body(gateway, named):
    await gateway.running()
    hidden = b"GET /hidden HTTP/1.1\r\nHost: a.default.localhost\r\n\r\n"
    async with gateway.request("POST", "/", data=hidden, headers={"Connection": named}) as response:
        seen = await response.json()
    assert (response.status, seen["length"], seen["path"]) == (200, len(hidden), "/")
    assert "/hidden" not in {(await gateway.get("/next"))[1]["path"] for _ in range(3)}


async def test_no_content_may_state_a_length(gateway):
    await gateway.running()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    for _ in range(2):
        writer.write(b"GET /status?code=204&length=1 HTTP/1.1\r\nHost: a.default.localhost\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 204")
        assert b"content-length" not in head.lower()
    writer.close()
