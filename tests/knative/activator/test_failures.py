"""Replicas that refuse or reset connections, die, or send invalid responses: retries where safe, else errors."""

import asyncio
import contextlib
import os
import signal
import socket
import sys

import aiohttp
import pytest

from knative.local.routing import Endpoint, RevisionKey

KEY = RevisionKey("default", "a-00001")


def refusing(name="dead"):
    """An endpoint that nothing listens on, at an address that is chosen first."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return Endpoint(name, "127.0.0.1", port)


@contextlib.asynccontextmanager
async def raw(handle, name="raw"):
    """A replica on bare sockets."""
    seen = []

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head)
        try:
            await handle(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Endpoint(name, "127.0.0.1", server.sockets[0].getsockname()[1]), seen
    finally:
        server.close()


async def reset(reader, writer):
    writer.transport.abort()


def first(gateway, *endpoints):
    """Make these endpoints the ones that are chosen, in this order (a small container concurrency does)."""
    gateway.activator.set_endpoints(KEY, endpoints)


async def test_a_request_whose_connection_is_refused_goes_to_another_replica(gateway):
    good = await gateway.running(container_concurrency=1)
    gateway.activator.set_endpoints(KEY, (refusing(), good.endpoint))
    for _ in range(5):
        status, seen = await gateway.get()
        assert (status, seen["replica"]) == (200, "pod-1")


async def test_a_request_whose_only_replica_is_gone_waits_for_another(gateway):
    gateway.deploy()
    gateway.activator.set_endpoints(KEY, (refusing(),))
    async with contextlib.AsyncExitStack():
        asking = asyncio.create_task(read(gateway.request("POST", "/", data=b"body")))
        await asyncio.sleep(0.5)
        assert not asking.done()
        await gateway.ready(await gateway.replica())
        status, seen = await asking
    assert (status, seen["length"]) == (200, 4)


async def read(request):
    async with request as response:
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_reset_before_its_response_goes_to_another_replica_with_its_body(gateway, method):
    good = await gateway.running()
    async with raw(reset) as (bad, seen):
        gateway.activator.set_endpoints(KEY, (bad,))
        asking = asyncio.create_task(read(gateway.request(method, "/", data=b"the same body")))
        await gateway.until(lambda: seen)
        gateway.activator.set_endpoints(KEY, (good.endpoint,))
        status, answer = await asking
    assert (status, answer["length"]) == (200, 13)


async def test_a_request_that_crashes_every_replica_is_a_502(gateway):
    gateway.deploy()
    async with raw(reset) as (bad, seen):
        gateway.activator.set_endpoints(KEY, (bad,))
        async with gateway.request("POST", "/", data=b"poison") as response:
            problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["retryable"]) == (502, True)
    assert response.headers["retry-after"] == "1"
    assert "raw" in problem["detail"]
    assert 2 <= len(seen) <= 8


async def test_a_reset_request_whose_revision_was_removed_is_a_503(gateway):
    gateway.deploy()
    may_reset = asyncio.Event()

    async def reset_later(reader, writer):
        await may_reset.wait()
        writer.transport.abort()

    async with raw(reset_later) as (bad, seen):
        gateway.activator.set_endpoints(KEY, (bad,))
        asking = asyncio.create_task(gateway.get())
        await gateway.until(lambda: seen)
        gateway.activator.remove_revision(KEY)
        may_reset.set()
        status, problem = await asyncio.wait_for(asking, 5)
    assert (status, problem["retryable"]) == (503, True)


async def test_a_request_with_a_large_body_is_not_retried(gateway):
    gateway.deploy()

    async def take_some(reader, writer):
        await reader.readexactly(100_000)
        writer.transport.abort()

    async with raw(take_some) as (bad, seen):
        gateway.activator.set_endpoints(KEY, (bad,))
        async with gateway.request("POST", "/", data=b"x" * 400_000) as response:
            problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["retryable"]) == (502, True)
    assert len(seen) == 1


async def test_a_response_that_breaks_off_is_seen_to_be_incomplete(gateway):
    gateway.deploy()

    async def half(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()

    async with raw(half) as (bad, seen):
        gateway.activator.set_endpoints(KEY, (bad,))
        async with gateway.request("GET", "/") as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientError):
                await response.read()
    assert len(seen) == 1
    await gateway.until(lambda: gateway.activator.in_flight(KEY, "raw") == 0)


async def test_an_invalid_response_is_a_502(gateway):
    gateway.deploy()

    async def answer_as_smtp(reader, writer):
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        await writer.drain()

    async with raw(answer_as_smtp) as (bad, _):
        gateway.activator.set_endpoints(KEY, (bad,))
        status, problem = await gateway.get()
    assert (status, problem["retryable"]) == (502, True)


async def test_a_kept_connection_that_the_replica_closed_is_replaced(gateway):
    gateway.deploy()
    served = 0

    async def once(reader, writer):
        nonlocal served
        served += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    async with raw(once) as (end, _):
        gateway.activator.set_endpoints(KEY, (end,))
        for _ in range(20):
            async with gateway.request("POST", "/", data=b"x") as response:
                assert (response.status, await response.read()) == (200, b"ok")
    assert served == 20


PROCESS = """
import sys, socket, time
server = socket.create_server(("127.0.0.1", 0)); print(server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    data = connection.recv(65536)
    if b"GET /now" in data:
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\nConnection: close\\r\\n\\r\\nnow"); connection.close()
    elif b"GET /stream" in data:
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n3\\r\\none\\r\\n")
    kept = globals().setdefault("kept", []); kept.append(connection)
"""


async def test_requests_at_a_replica_that_is_killed_go_to_another_one_or_fail(gateway):
    gateway.deploy()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROCESS, stdout=asyncio.subprocess.PIPE
    )
    try:
        port = int(await process.stdout.readline())
        gateway.activator.set_endpoints(KEY, (Endpoint("victim", "127.0.0.1", port),))
        async with gateway.request("GET", "/now") as response:
            assert await response.read() == b"now"
        waiting = [asyncio.create_task(gateway.get(f"/silent/{number}")) for number in range(5)]
        stream = await gateway.request("GET", "/stream")
        assert await stream.content.readexactly(3) == b"one"
        await gateway.until(lambda: gateway.activator.in_flight(KEY, "victim") == 6)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await stream.read()
        await gateway.ready(await gateway.replica())
        answers = await asyncio.wait_for(asyncio.gather(*waiting), 10)
        assert {status for status, _ in answers} == {200}
        assert {seen["replica"] for _, seen in answers} == {"pod-1"}
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def resetting():
    """A replica that resets every connection after the request's head."""
    async with raw(reset) as (endpoint, seen):
        yield endpoint, seen


@pytest.mark.parametrize(("retries", "posts"), [(None, 4), ("1", 2), ("0", 1), ("90", 4)])
async def test_a_request_is_retried_as_often_as_its_own_budget_allows(gateway, retries, posts):
    gateway.deploy()
    headers = {} if retries is None else {"X-Pilotlight-Retries": retries}
    async with resetting() as (bad, seen):
        gateway.activator.set_endpoints(KEY, (bad,))
        async with gateway.request("POST", "/", data=b"x", headers=headers) as response:
            assert response.status == 502
            assert "x-pilotlight-undelivered" not in response.headers, "a replica has seen it"
    assert len(seen) == posts


async def test_the_replica_gets_what_is_left_of_the_budget_and_the_client_learns_what_was_used(gateway):
    gateway.deploy()
    good = await gateway.replica()
    async with resetting() as (bad, seen):
        gateway.activator.set_endpoints(KEY, (bad,))
        asking = gateway.request("POST", "/", data=b"x", headers={"X-Pilotlight-Retries": "5"})

        async def ask():
            async with asking as response:
                return response.headers, await response.json()

        task = asyncio.create_task(ask())
        await gateway.until(lambda: seen)
        gateway.activator.set_endpoints(KEY, (good.endpoint,))
        headers, answer = await task
    left = int(dict(answer["headers"])["x-pilotlight-retries"])
    assert left + int(headers["x-pilotlight-retries-used"]) == 5
    assert left < 5


async def test_retries_to_a_revision_are_at_most_a_fifth_of_its_requests_and_a_reserve(gateway):
    gateway.deploy()
    async with resetting() as (bad, seen):
        gateway.activator.set_endpoints(KEY, (bad,))

        async def ask():
            async with gateway.request("POST", "/", data=b"x") as response:
                assert response.status == 502

        await asyncio.gather(*(ask() for _ in range(50)))
    assert len(seen) <= 50 + 50 / 5 + 10
