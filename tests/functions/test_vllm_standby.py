"""A replica that rests in standby on a device that it shares."""

import asyncio
import signal
import time

import aiohttp
import psutil
import pytest

from functions.engines.vllm.device_lock import DeviceLock
from functions.timing import parse_server_timing
from tests.functions.servers import wait_until
from tests.functions.vllm_replica import kill, vllm_replica

pytestmark = pytest.mark.vllm

IDLE = 1.0


@pytest.fixture(scope="module")
def queue(tmp_path_factory):
    """Folder of the device's lock."""
    return tmp_path_factory.mktemp("devices") / "gpu0"


@pytest.fixture(scope="module")
def resting(made_model, tmp_path_factory, queue):
    config = {
        "idleSeconds": IDLE,
        "stallSeconds": 3.0,
        "device": queue.name,
        "deviceDir": str(queue.parent),
        "turnSeconds": 1.0,
    }
    folder = tmp_path_factory.mktemp("standby")
    with vllm_replica(made_model.path, folder, config=config, PILOTLIGHT_WARMTH="standby") as replica:
        yield replica


@pytest.fixture
async def standby(resting, http):
    await resting.wait_for(http, "standby")
    await wait_until(lambda: resting.template.children() == [])
    return resting


async def test_it_starts_without_an_engine_and_is_ready(standby, http):
    view = await standby.view(http)
    assert (view["status"], view["state"]) == (200, "standby")
    assert {"import", "weights"} <= view["phases"].keys()
    assert "init" not in view["phases"]


@pytest.mark.parametrize("path", ["/health", "/ping"])
async def test_health_checks_are_answered_and_do_not_wake_it(standby, http, path):
    async with http.get(standby.url + path) as response:
        assert (response.status, await response.read()) == (200, b"")
    assert (await standby.view(http))["state"] == "standby"
    assert standby.template.children() == []


async def test_the_first_request_makes_it_hot_and_later_it_returns_to_standby(standby, http):
    template = standby.template.pid
    status, answer, _ = await standby.complete(http)
    assert (status, answer["usage"]["completion_tokens"]) == (200, 8)
    assert (await standby.view(http))["state"] == "hot"
    await standby.wait_for(http, "standby")
    await wait_until(lambda: standby.template.children() == [])
    assert standby.template.pid == template


async def test_the_device_is_waited_for_and_the_wait_is_a_phase(standby, http, queue):
    other = DeviceLock(queue)
    await other.acquire()
    try:
        request = asyncio.create_task(standby.complete(http))
        await standby.wait_for(http, "loading")
        assert other.others_waiting()
        began = time.monotonic()
        await asyncio.sleep(0)
    finally:
        await wait_until(lambda: time.monotonic() - began > 0.3)
        other.release()
    status, _, headers = await request
    assert status == 200
    phases = {m.name: m.seconds for m in parse_server_timing(headers["Server-Timing"])}
    assert phases["device"] > 0.3


async def test_a_device_that_stays_taken_costs_a_retryable_error_at_the_deadline(standby, http, queue):
    other = DeviceLock(queue)
    await other.acquire()
    try:
        status, problem, _ = await standby.complete(http, headers={"X-Pilotlight-Deadline": "0.5"})
        assert status in {503, 504}
        assert problem["retryable"]
        # No request waits for it any more, so it leaves the queue.
        await standby.wait_for(http, "standby")
        assert not other.others_waiting()
    finally:
        other.release()


async def test_an_idle_replica_releases_the_device_for_another_one(standby, http, queue):
    assert (await standby.complete(http))[0] == 200
    other = DeviceLock(queue)
    await asyncio.wait_for(other.acquire(), 10)
    other.release()
    await standby.wait_for(http, "standby")


async def test_a_busy_replica_yields_after_its_turn_and_takes_its_requests_up_again(standby, http, queue):
    stop = False

    async def ask(number: int) -> list[int]:
        statuses = []
        while not stop:
            statuses.append((await standby.complete(http, f"{number}", max_tokens=30, ignore_eos=True))[0])
        return statuses

    asking = [asyncio.create_task(ask(number)) for number in range(3)]
    await standby.wait_for(http, "hot")
    other = DeviceLock(queue)
    await asyncio.wait_for(other.acquire(), 20)
    other.release()
    await standby.wait_for(http, "hot")
    stop = True
    statuses = [status for answers in asking for status in await answers]
    assert set(statuses) == {200}


async def test_an_engine_that_stalls_is_replaced(standby, http):
    async def running() -> bool:
        return await standby.metric(http, "vllm:num_requests_running") > 0

    request = asyncio.create_task(standby.complete(http, max_tokens=1000, ignore_eos=True))
    await wait_until(running)
    core = standby.core
    core.send_signal(signal.SIGSTOP)
    status, problem, _ = await request
    assert (status, problem["retryable"]) == (503, True)
    assert (await standby.complete(http))[0] == 200
    assert not psutil.pid_exists(core.pid)


async def test_a_killed_template_is_replaced(standby, http):
    assert (await standby.complete(http))[0] == 200
    template, core = standby.template, standby.core
    kill(template)
    # The kernel ends the engine once the template's memory is freed; until then it may still answer.
    await wait_until(lambda: not core.is_running() or core.status() == psutil.STATUS_ZOMBIE)
    async with aiohttp.ClientSession() as patient:
        status, _, _ = await standby.complete_at_last(patient, headers={"X-Pilotlight-Deadline": "100"})
    assert status == 200
    assert standby.template.pid != template.pid


async def test_a_killed_replica_leaves_no_process_behind(made_model, tmp_path, http):
    with vllm_replica(made_model.path, tmp_path) as replica:
        await replica.wait_for(http, "hot")
        processes = replica.processes()
        assert len(processes) >= 3
        kill(psutil.Process(replica.stage.process.pid))
        replica.stage.wait(10)
        _, alive = psutil.wait_procs(processes, timeout=10)
        assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
