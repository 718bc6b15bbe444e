"""Limits on a request's head, on its deadline and on its retries."""

import asyncio
import json

import pytest

from knative.local.activator import server
from knative.local.routing import RevisionKey
from tests.knative.activator.conftest import RunningServer
from transport.request_head import HeadLimits

KEY = RevisionKey("default", "a-00001")
SMALL = HeadLimits(target_bytes=100, fields_bytes=1000, timeout_s=0.2)


@pytest.fixture
async def port(gateway):
    """The port of a gateway with small limits."""
    serving = await RunningServer(server(gateway.activator, limits=SMALL)).started()
    yield serving.port
    await serving.abort()


async def answer_to(port, data):
    """All that comes back for these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * 100 + b" HTTP/1.1\r\nHost: a.default\r\n\r\n", 414),
        (b"GET /" + b"x" * 100_000, 414),
        (b"GET / HTTP/1.1\r\nHost: a.default\r\nX: " + b"x" * 1000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a.default\r\nX: " + b"x" * 100_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a.default\r\n" + b"X: y\r\n" * 1000, 431),
        (b"GET / HTTP/1.1\r\nHost: a.default\r\nX: ", 408),
        (b"GET / HTTP/1.1\r\nHost: a.default\r\nHost: b.default\r\n\r\n", 400),
    ],
)
async def test_a_head_beyond_the_limits_is_refused_with_a_problem_document(gateway, port, head, status):
    replica = await gateway.running()
    start, _, body = (await answer_to(port, head)).partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in start
    assert json.loads(body)["status"] == status
    assert replica.total == 0


async def test_a_connection_that_sends_nothing_is_closed(port):
    assert await answer_to(port, b"") == b""


async def test_a_slow_body_is_not_a_slow_head(gateway, port):
    await gateway.running()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nHost: a.default\r\nConnection: close\r\nContent-Length: 2\r\n\r\n")
    await asyncio.sleep(2 * SMALL.timeout_s)
    writer.write(b"ok")
    assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize("value", ["1e300", "nan", "inf", "soon", "", "1" * 100])
async def test_an_invalid_deadline_is_refused_without_a_cold_start(gateway, value):
    gateway.deploy()
    async with gateway.request("GET", "/", headers={"X-Pilotlight-Deadline": value}) as response:
        problem = await response.json(content_type="application/problem+json")
    assert response.status == 400
    assert "X-Pilotlight-Deadline" in problem["detail"]
    assert gateway.stats == []


async def test_a_request_is_held_no_longer_than_its_deadline(gateway):
    gateway.deploy()
    async with gateway.request("GET", "/", headers={"X-Pilotlight-Deadline": "0.2"}) as response:
        problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["retryable"]) == (504, True)
    assert "0.2 s" in problem["detail"]
    assert gateway.activator.waiting(KEY) == 0


async def test_a_service_without_a_revision_is_waited_for_no_longer_than_the_deadline(gateway):
    gateway.activator.set_service("default", "a", [])
    async with gateway.request("GET", "/", headers={"X-Pilotlight-Deadline": "0.2"}) as response:
        assert response.status == 504


async def test_the_replica_gets_the_seconds_that_are_left(gateway):
    gateway.deploy()
    asking = asyncio.create_task(gateway.get(headers={"X-Pilotlight-Deadline": "30"}))
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 1)
    await asyncio.sleep(0.2)
    await gateway.ready(await gateway.replica())
    headers = dict((await asking)[1]["headers"])
    assert 20 < float(headers["x-pilotlight-deadline"]) <= 29.8
    assert "x-pilotlight-retries" not in headers
