"""Upgraded connections, of WebSockets and of any other protocol, are passed on as bytes."""

import asyncio

import aiohttp
import pytest
import websockets

from knative.local.routing import Endpoint, RevisionKey

KEY = RevisionKey("default", "a-00001")


def connect(gateway, path="/", **options):
    return websockets.connect(
        f"ws://a.default.localhost:{gateway.port}{path}",
        host="127.0.0.1",
        port=gateway.port,
        proxy=None,
        **options,
    )


async def test_a_websocket_passes_messages_in_both_directions(gateway):
    await gateway.running()
    async with connect(gateway, subprotocols=["chat"]) as socket:
        assert socket.subprotocol == "chat"
        for message in ("hello", b"\x00\x01", "x" * 100_000):
            await socket.send(message)
            assert await socket.recv() == message
        assert gateway.activator.in_flight(KEY, "pod-1") == 1
    await gateway.until(lambda: gateway.activator.in_flight(KEY, "pod-1") == 0)


async def test_a_websocket_is_held_at_zero(gateway):
    gateway.deploy()
    connecting = asyncio.ensure_future(connect(gateway).__aenter__())
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 1)
    await gateway.ready(await gateway.replica())
    socket = await connecting
    await socket.send("late")
    assert await socket.recv() == "late"
    await socket.close()


async def test_a_client_that_disconnects_closes_the_replicas_side(gateway):
    replica = await gateway.running()
    async with connect(gateway) as socket:
        await socket.send("x")
        await socket.recv()
        socket.transport.abort()
    await asyncio.wait_for(replica.cancelled.wait(), 5)
    await gateway.until(lambda: gateway.activator.in_flight(KEY, "pod-1") == 0)


async def test_a_websocket_ends_with_the_services_timeout(gateway):
    replica = await gateway.running(timeout_s=0.3)
    async with connect(gateway) as socket:
        await socket.send("here")
        assert await socket.recv() == "here"
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()
    await asyncio.wait_for(replica.cancelled.wait(), 5)
    await gateway.until(lambda: gateway.activator.in_flight(KEY, "pod-1") == 0)


async def test_a_websocket_is_not_subject_to_the_idle_timeout(gateway):
    await gateway.running(idle_timeout_s=0.2)
    async with connect(gateway) as socket:
        for number in range(4):  # each pause is as long as the timeout, all together are four times as long
            await asyncio.sleep(0.2)
            await socket.send(str(number))
            assert await socket.recv() == str(number)


async def test_a_replica_is_drained_while_a_websocket_is_open_but_not_while_a_request_is(gateway):
    replica = await gateway.running()
    async with connect(gateway) as socket:
        await socket.send("x")
        await socket.recv()
        assert await gateway.activator.drained(KEY, "pod-1", timeout_s=0)
        asking = asyncio.create_task(gateway.get("/hold"))
        await gateway.until(lambda: gateway.activator.in_flight(KEY, "pod-1") == 2)
        assert not await gateway.activator.drained(KEY, "pod-1", timeout_s=0.05)
        draining = asyncio.create_task(gateway.activator.drained(KEY, "pod-1", timeout_s=5))
        replica.release.set()
        assert await draining
        await asking
        assert gateway.activator.in_flight(KEY, "pod-1") == 1


async def test_a_refused_upgrade_is_an_ordinary_answer(gateway):
    await gateway.running()
    with pytest.raises(websockets.InvalidStatus) as refused:
        await connect(gateway, "/refuse").__aenter__()
    assert refused.value.response.status_code == 403
    assert (await gateway.get())[0] == 200


async def test_an_upgrade_for_an_unknown_service_is_a_404(gateway):
    with pytest.raises(websockets.InvalidStatus) as refused:
        await connect(gateway).__aenter__()
    assert refused.value.response.status_code == 404


async def test_any_protocol_may_be_upgraded_to(gateway):
    gateway.deploy()

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"upgrade: shout" in head.lower()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\nREADY\n"
        )
        while line := await reader.readline():
            writer.write(line.upper())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    gateway.activator.set_endpoints(KEY, (Endpoint("raw", "127.0.0.1", server.sockets[0].getsockname()[1]),))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: a.default.localhost\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\nearly\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101")
    assert b"server-timing: queue;dur=" in head
    assert await reader.readline() == b"READY\n"
    assert await reader.readline() == b"EARLY\n"
    writer.write(b"more\n")
    assert await reader.readline() == b"MORE\n"
    writer.close()
    await gateway.until(lambda: gateway.activator.in_flight(KEY, "raw") == 0)
    server.close()


async def test_http2_without_tls_is_answered_in_http1(gateway):
    await gateway.running()
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQ"}
    async with gateway.request("POST", "/", data=b"x", headers=headers) as response:
        seen = await response.json()
    assert (response.status, seen["length"]) == (200, 1)
    assert not {"upgrade", "http2-settings"} & set(dict(seen["headers"]))


async def test_much_data_passes_at_the_slower_sides_pace(gateway):
    await gateway.running()
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(gateway.url, headers={"Host": "a.default.localhost"}, max_msg_size=0) as socket,
    ):
        for _ in range(20):
            await socket.send_bytes(b"y" * 900_000)
        await asyncio.sleep(0.2)
        for _ in range(20):
            assert len((await socket.receive()).data) == 900_000


async def ask_raw(gateway, request):
    """All that comes back for these bytes, on a connection of their own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request)
    answer = b""
    try:
        async with asyncio.timeout(2):
            while piece := await reader.read(65536):
                answer += piece
    except TimeoutError:
        pass
    writer.close()
    return answer


async def test_a_request_with_a_body_is_not_upgraded(gateway):
    await gateway.running()
    answer = await ask_raw(
        gateway,
        b"POST / HTTP/1.1\r\nHost: a.default.localhost\r\nConnection: Upgrade\r\nUpgrade: shout\r\n"
        b"Content-Length: 5\r\n\r\nhello",
    )
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"length": 5' in answer
    assert (await gateway.get())[1]["length"] == 0  # and left nothing behind at the replica


async def test_the_connection_is_closed_after_a_refused_upgrade(gateway):
    await gateway.running()
    upgrade = b"GET /status?code=403 HTTP/1.1\r\nHost: a.default.localhost\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(upgrade + b"GET / HTTP/1.1\r\nHost: a.default.localhost\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 5)  # to the end: a client sees that nothing more comes
    writer.close()
    assert answer.startswith(b"HTTP/1.1 403")
    assert b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1") == 1
