"""Requests for a Service at zero are held, and every wait is bounded."""

import asyncio
import contextlib
import re

import aiohttp
import pytest

from knative.local.routing import RevisionKey, RevisionSpec, StartFailure, TrafficTarget

KEY = RevisionKey("default", "a-00001")
FAILURE = StartFailure("a-00001", "ExitCode1", "no such model", retryable=False)


async def test_a_request_at_zero_is_held_until_a_replica_is_ready(gateway):
    gateway.deploy()
    asking = asyncio.create_task(gateway.get("/x"))
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 1)
    await gateway.ready(await gateway.replica())
    status, seen = await asking
    assert (status, seen["path"]) == (200, "/x")
    assert gateway.activator.waiting(KEY) == 0


async def test_the_first_request_is_reported_at_once(gateway):
    gateway.deploy()
    asking = asyncio.create_task(gateway.get())
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 1)
    assert [(stat.key, stat.concurrency, stat.requests) for stat in gateway.stats[:1]] == [(KEY, 1.0, 1.0)]
    await gateway.ready(await gateway.replica())
    await asking


async def test_waiting_requests_count_as_concurrency(gateway):
    gateway.deploy()
    asking = [asyncio.create_task(gateway.get()) for _ in range(5)]
    await gateway.until(lambda: len(gateway.stats) >= 3)
    assert gateway.stats[2].concurrency == 5.0
    assert gateway.stats[2].requests == 0.0
    await gateway.ready(await gateway.replica())
    await asyncio.gather(*asking)


async def test_a_revision_without_requests_is_no_longer_reported(gateway):
    await gateway.running()
    await gateway.get()
    await gateway.until(lambda: len(gateway.stats) >= 3)
    reported = len(gateway.stats)
    assert gateway.stats[-1].concurrency == 0.0
    await asyncio.sleep(1.3)
    assert len(gateway.stats) == reported


async def test_a_service_without_a_revision_holds_its_requests(gateway):
    gateway.activator.set_service("default", "a", [])
    asking = asyncio.create_task(gateway.get())
    await asyncio.sleep(0.1)
    assert not asking.done()
    await gateway.running()
    status, _ = await asking
    assert status == 200


async def test_removing_a_service_answers_requests_that_wait_for_its_first_revision(gateway):
    gateway.activator.set_service("default", "a", [])
    asking = asyncio.create_task(gateway.get())
    await asyncio.sleep(0.1)
    gateway.activator.remove_service("default", "a")
    status, _ = await asking
    assert status == 404


async def test_a_revision_may_be_routed_to_before_it_is_known(gateway):
    gateway.activator.set_service("default", "a", [TrafficTarget(KEY, 100)])
    asking = asyncio.create_task(gateway.get())
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 1)
    gateway.activator.set_revision(RevisionSpec(KEY, "a", container_concurrency=2))
    await gateway.ready(await gateway.replica())
    assert (await asking)[0] == 200


async def test_all_held_requests_are_answered(gateway):
    gateway.deploy(container_concurrency=2)
    asking = [asyncio.create_task(gateway.get(f"/{number}")) for number in range(20)]
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 20)
    replica = await gateway.replica()
    await gateway.ready(replica)
    answers = await asyncio.gather(*asking)
    assert [status for status, _ in answers] == [200] * 20
    assert [seen["path"] for _, seen in answers] == [f"/{number}" for number in range(20)]
    assert replica.peak <= 2


async def test_a_full_queue_is_503_with_retry_after(gateway):
    gateway.deploy()
    asking = [asyncio.create_task(gateway.get()) for _ in range(20)]
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 20)
    async with gateway.request("GET", "/") as response:
        problem = await response.json(content_type="application/problem+json")
    assert (response.status, response.headers["retry-after"], problem["retryable"]) == (503, "1", True)
    assert response.headers["x-pilotlight-undelivered"] == "true"
    await gateway.ready(await gateway.replica())
    assert {status for status, _ in await asyncio.gather(*asking)} == {200}


async def test_a_held_request_ends_with_the_services_timeout(gateway):
    gateway.deploy(timeout_s=0.3)
    async with gateway.request("GET", "/") as response:
        problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["retryable"]) == (504, True)
    assert "0.3 s" in problem["detail"]
    assert response.headers["x-pilotlight-undelivered"] == "true"
    assert gateway.activator.waiting(KEY) == 0


async def test_a_slow_replica_ends_with_the_services_timeout(gateway):
    replica = await gateway.running(timeout_s=0.3)
    status, _ = await gateway.get("/hang")
    assert status == 504
    await asyncio.wait_for(replica.cancelled.wait(), 5)
    await gateway.until(lambda: gateway.activator.in_flight(KEY, "pod-1") == 0)


async def test_the_timeout_covers_the_whole_response_and_aborts_a_late_one(gateway):
    replica = await gateway.running(timeout_s=0.3)
    async with gateway.request("GET", "/events?n=2&forever=1") as response:
        assert response.status == 200
        assert await response.content.readuntil(b"\n\n") == b"data: 0\n\n"
        with pytest.raises(aiohttp.ClientError):
            await response.content.read()
    await asyncio.wait_for(replica.cancelled.wait(), 5)
    await gateway.until(lambda: gateway.activator.in_flight(KEY, "pod-1") == 0)


async def test_the_start_of_a_response_can_have_a_timeout_of_its_own(gateway):
    replica = await gateway.running(response_start_timeout_s=0.3)
    async with gateway.request("GET", "/hang") as response:
        problem = await response.json(content_type="application/problem+json")
    assert response.status == 504
    assert "responseStartTimeoutSeconds" in problem["detail"]
    async with gateway.request("GET", "/events?n=2&wait=1") as response:
        assert await response.content.readuntil(b"\n\n") == b"data: 0\n\n"
        await asyncio.sleep(0.5)
        replica.release.set()
        assert await response.content.readuntil(b"\n\n") == b"data: 1\n\n"
        replica.release.set()


async def test_each_pause_in_a_response_can_have_a_timeout(gateway):
    replica = await gateway.running(idle_timeout_s=0.4)
    async with gateway.request("GET", "/events?n=20&wait=1") as response:
        for _ in range(4):  # longer than the timeout in all
            await response.content.readuntil(b"\n\n")
            await asyncio.sleep(0.2)
            replica.release.set()
        await response.content.readuntil(b"\n\n")
        with pytest.raises(aiohttp.ClientError):
            await response.content.read()
    assert (await gateway.get("/hang"))[0] == 504


async def test_a_client_that_disconnects_gives_up_its_place_in_the_queue(gateway):
    gateway.deploy()
    with contextlib.suppress(TimeoutError):
        await gateway.get(timeout=aiohttp.ClientTimeout(total=0.2))
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 0)
    replica = await gateway.replica()
    await gateway.ready(replica)
    assert (await gateway.get())[0] == 200
    assert replica.total == 1


async def test_removing_a_revision_answers_its_waiting_requests(gateway):
    gateway.deploy()
    asking = asyncio.create_task(gateway.get())
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 1)
    gateway.activator.remove_revision(KEY)
    status, problem = await asking
    assert (status, problem["retryable"]) == (503, True)


async def test_stopping_answers_held_requests(gateway):
    gateway.deploy()
    asking = asyncio.create_task(gateway.get())
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 1)
    await gateway.serving.stop()
    status, problem = await asking
    assert (status, problem["retryable"]) == (503, True)


async def test_the_response_says_how_long_the_request_was_held(gateway):
    gateway.deploy()

    async def ask():
        async with gateway.request("GET", "/") as response:
            return response.headers.getall("server-timing")

    asking = asyncio.create_task(ask())
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 1)
    await asyncio.sleep(0.2)
    await gateway.ready(await gateway.replica())
    timings = await asking
    assert timings[0] == "model;dur=1"
    held = float(re.fullmatch(r"queue;dur=([0-9.]+)", timings[1])[1])
    assert held >= 200
    assert float((await ask())[1].partition("=")[2]) < 100


def is_failure(problem):
    """Whether a problem document describes `FAILURE`."""
    return (
        problem["reason"] == "ExitCode1"
        and problem["cause"] == "no such model"
        and problem["revision"] == "a-00001"
        and problem["service"] == "a"
        and problem["retryable"] is False
        and "a-00001" in problem["detail"]
        and "no such model" in problem["detail"]
    )


async def test_a_revision_that_cannot_start_answers_at_once_with_the_cause(gateway):
    gateway.deploy()
    waiting = asyncio.create_task(gateway.get())
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 1)
    gateway.activator.set_failure(KEY, FAILURE)
    for status, problem in (await waiting, await gateway.get()):
        assert status == 503
        assert is_failure(problem)


async def test_a_service_whose_first_revision_cannot_start_answers_at_once(gateway):
    gateway.activator.set_service("default", "a", [])
    waiting = asyncio.create_task(gateway.get())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    gateway.activator.set_service("default", "a", [], FAILURE)
    for status, problem in (await waiting, await gateway.get()):
        assert status == 503
        assert is_failure(problem)


async def test_a_revision_that_recovers_is_waited_for_again(gateway):
    gateway.deploy()
    gateway.activator.set_failure(KEY, FAILURE)
    assert (await gateway.get())[0] == 503
    gateway.activator.set_failure(KEY, None)
    waiting = asyncio.create_task(gateway.get())
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 1)
    await gateway.ready(await gateway.replica())
    assert (await waiting)[0] == 200


async def test_a_failed_start_is_ignored_while_a_replica_is_ready(gateway):
    await gateway.running()
    gateway.activator.set_failure(KEY, FAILURE)
    assert (await gateway.get())[0] == 200


async def test_stopping_answers_requests_that_wait_for_a_first_revision(gateway):
    gateway.activator.set_service("default", "a", [])
    asking = asyncio.create_task(gateway.get())
    await asyncio.sleep(0.1)
    await gateway.serving.stop()
    status, problem = await asking
    assert (status, problem["retryable"]) == (503, True)
