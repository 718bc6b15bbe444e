"""Changes of a replica's warmth by requests, by orders and by crashes."""

import asyncio
import json
import time

import aiohttp
import psutil
import pytest

from functions.timing import parse_server_timing
from tests.functions.servers import wait_until
from tests.functions.vllm_replica import AUTH, VllmReplica, kill

pytestmark = pytest.mark.vllm


@pytest.fixture
async def hot(warm_replica: VllmReplica, http: aiohttp.ClientSession) -> VllmReplica:
    """The shared replica, hot again whatever the previous test did."""
    await warm_replica.order(http, "hot")
    return warm_replica


def _timings(headers) -> dict[str, float | None]:
    return {metric.name: metric.seconds for metric in parse_server_timing(headers["Server-Timing"])}


def _warmth(headers) -> str:
    return next(m.description for m in parse_server_timing(headers["Server-Timing"]) if m.name == "warmth")


async def test_a_request_to_a_standby_replica_is_held_until_it_is_hot(hot, http):
    await hot.order(http, "standby")
    await wait_until(lambda: hot.template.children() == [])
    view = await hot.view(http)
    assert (view["status"], view["state"], view["warmth"]) == (200, "standby", "standby")

    status, _, headers = await hot.complete(http)

    assert status == 200
    assert _warmth(headers) == "standby"
    timings = _timings(headers)
    assert {"weights", "init", "warmup"} <= timings.keys()
    assert "import" not in timings
    # This one was not held before it came here.
    status, _, headers = await hot.complete(http, headers={"X-Pilotlight-Held": "0"})
    assert (status, _warmth(headers)) == (200, "hot")
    assert "init" not in _timings(headers)


async def test_all_requests_that_come_while_it_loads_are_answered(hot, http):
    await hot.order(http, "standby")
    answers = await asyncio.gather(*(hot.complete(http, f"prompt {n}") for n in range(12)))
    assert [status for status, _, _ in answers] == [200] * 12
    assert {_warmth(headers) for _, _, headers in answers} == {"standby"}


async def test_a_replica_in_standby_runs_nothing(hot, http):
    await hot.order(http, "standby")
    # A second thread would mean that torch has run something, after which a fork is not safe.
    await wait_until(lambda: hot.template.children() == [])
    assert hot.template.num_threads() == 1


async def test_an_order_down_waits_for_the_request_in_flight(hot, http):
    running = asyncio.create_task(hot.complete(http, max_tokens=600, ignore_eos=True))
    await wait_until(lambda: _running(hot, http))
    await hot.order(http, "standby", wait=False)
    status, body, _ = await running
    assert (status, body["usage"]["completion_tokens"]) == (200, 600)
    await hot.wait_for(http, "standby")


async def test_the_admin_endpoint_needs_its_token(hot, http):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": AUTH["Authorization"][7:]}):
        async with http.post(
            f"{hot.url}/admin/warmth", json={"warmth": "standby"}, headers=headers
        ) as response:
            assert response.status == 401
            assert "admin token" in (await response.json())["detail"]
    assert (await hot.view(http))["state"] == "hot"


@pytest.mark.parametrize(
    ("warmth", "says"), [("asleep", "no sleep mode on CPUs"), ("cold", "cannot be cold"), ("warm", "'hot'")]
)
async def test_an_order_for_a_warmth_that_does_not_exist_says_which_do(hot, http, warmth, says):
    async with http.post(f"{hot.url}/admin/warmth", json={"warmth": warmth}, headers=AUTH) as response:
        assert response.status == 422
        assert says in (await response.json())["detail"]
    assert (await hot.view(http))["state"] == "hot"


async def test_killing_the_engine_core_costs_a_retryable_error_and_no_import(hot, http):
    template, core = hot.template.pid, hot.core
    running = [asyncio.create_task(hot.complete(http, max_tokens=1000, ignore_eos=True)) for _ in range(4)]
    await wait_until(lambda: _running(hot, http))

    kill(core)
    began = time.monotonic()
    answers = await asyncio.gather(*running)

    assert time.monotonic() - began < 2
    for status, problem, headers in answers:
        assert (status, problem["retryable"]) == (503, True)
        assert headers["Content-Type"] == "application/problem+json"
        assert "Retry-After" in headers
    status, _, _ = await hot.complete_at_last(http)
    assert status == 200
    assert hot.template.pid == template
    assert hot.core.pid != core.pid
    view = await hot.wait_for(http, "hot")
    assert "import" not in view["phases"]


async def test_a_stream_that_loses_its_engine_ends_with_an_error(hot, http):
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 1000, "ignore_eos": True, "stream": True}
    async with http.post(f"{hot.url}/v1/completions", json=body) as response:
        assert response.status == 200
        await response.content.readuntil(b"\n\n")
        kill(hot.core)
        rest = await response.content.read()
    *_, last = [line for line in rest.decode().split("\n\n") if line]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["code"], error["retryable"]) == ("service_unavailable", True)


async def test_a_stage_stream_that_loses_its_engine_ends_with_a_problem(hot, http):
    body = {"input": "hello", "stream": True, "parameters": {"max_tokens": 1000, "ignore_eos": True}}
    async with http.post(f"{hot.url}/invoke", json=body) as response:
        assert response.status == 200
        await response.content.readuntil(b"\n\n")
        kill(hot.core)
        rest = (await response.content.read()).decode()
    assert "event: reply" not in rest
    last = rest.strip().rpartition("\n\n")[2]
    assert last.startswith("event: error\ndata: ")
    problem = json.loads(last.partition("data: ")[2])
    assert (problem["status"], problem["retryable"], problem["stage"]) == (503, True, "generate")


async def test_killing_the_server_process_brings_another_engine(hot, http):
    running = asyncio.create_task(hot.complete(http, max_tokens=1000, ignore_eos=True))
    await wait_until(lambda: _running(hot, http))
    core = hot.core
    kill(hot.server)
    status, problem, _ = await running
    assert (status, problem["retryable"]) == (503, True)
    await wait_until(lambda: not core.is_running() or core.status() == psutil.STATUS_ZOMBIE)
    assert (await hot.complete_at_last(http))[0] == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_its_generation(hot, http, stream):
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 1000, "ignore_eos": True, "stream": stream}
    request = asyncio.create_task(_post(http, f"{hot.url}/v1/completions", body))
    await wait_until(lambda: _running(hot, http))
    before = await hot.metric(http, "vllm:generation_tokens_total")
    request.cancel()
    await asyncio.wait({request})

    async def ended() -> bool:
        return await hot.metric(http, "vllm:num_requests_running") == 0

    await wait_until(ended)
    assert await hot.metric(http, "vllm:generation_tokens_total") - before < 900
    assert await hot.metric(http, "vllm:kv_cache_usage_perc") == 0


async def test_a_stage_client_that_leaves_ends_its_generation(hot, http):
    body = {"input": "hello", "parameters": {"max_tokens": 1000, "ignore_eos": True}}
    request = asyncio.create_task(_post(http, f"{hot.url}/invoke", body))
    await wait_until(lambda: _running(hot, http))
    request.cancel()
    await asyncio.wait({request})

    async def ended() -> bool:
        return await hot.metric(http, "vllm:num_requests_running") == 0

    await wait_until(ended)


async def test_a_deadline_ends_a_generation_with_504(hot, http):
    status, problem, _ = await hot.complete(
        http, max_tokens=1000, ignore_eos=True, headers={"X-Pilotlight-Deadline": "0.3"}
    )
    assert (status, problem["retryable"]) == (504, True)


async def _post(session: aiohttp.ClientSession, url: str, body) -> bytes:
    async with session.post(url, json=body) as response:
        return await response.read()


async def _running(replica: VllmReplica, session: aiohttp.ClientSession) -> bool:
    return await replica.metric(session, "vllm:num_requests_running") > 0
