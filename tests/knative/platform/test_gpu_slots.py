"""GPU slots: which pod holds them, which pods wait for them, and for how long they are held."""

import asyncio
import re

from knative.client.resources import POD, POD_AUTOSCALER, SERVICE
from tests.knative.platform.conftest import World, condition, service, until


async def metrics(world: World) -> str:
    async with world.http.get(f"{world.platform.api_url}/metrics") as answer:
        assert answer.status == 200
        return await answer.text()


def gpu_seconds(text: str, state: str, service_name: str) -> float:
    pattern = rf'^pilotlight_gpu_seconds_total{{[^}}]*service="{service_name}",state="{state}"}} (\S+)$'
    found = re.search(pattern, text, re.MULTILINE)
    assert found, text
    return float(found[1])


async def test_a_floor_above_the_slots_makes_the_autoscaler_inactive_but_not_the_service_unready(
    world: World,
):
    await world.cluster.create(SERVICE, service("a", gpus=1))
    await world.ready("a")
    await world.set_floor("a-00001", 4)

    async def short():
        found = await world.cluster.get(POD_AUTOSCALER, "a-00001", "default")
        status = found["status"]
        return status["desiredScale"] == 4 and status["actualScale"] == 2 and found

    found = await until(short)
    assert (condition(found, "Active")["status"], condition(found, "Active")["reason"]) == (
        "Unknown",
        "Queued",
    )
    assert condition(await world.cluster.get(SERVICE, "a", "default"))["status"] == "True"
    waiting = [pod for pod in await world.pods() if condition(pod, "PodScheduled")["status"] == "False"]
    assert len(waiting) == 2
    assert condition(waiting[0], "PodScheduled")["reason"] == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in condition(waiting[0], "PodScheduled")["message"]


async def test_a_new_revision_without_a_free_gpu_fails_and_the_old_one_keeps_serving(world: World):
    await world.cluster.apply(SERVICE, service("a", gpus=2, env={"N": "1"}))
    await world.ready("a")
    await world.set_floor("a-00001", 1)
    await world.cluster.apply(SERVICE, service("a", gpus=2, env={"N": "2"}))
    failed = await world.service_condition("a", "False")
    assert failed["reason"] == "RevisionFailed"
    resources = await world.revision_condition("a-00002", "False", "ResourcesAvailable")
    assert resources["reason"] == "Unschedulable"
    assert (await world.call("a"))[1]["revision"] == "a-00001"


async def test_a_released_slot_goes_to_a_waiting_pod(world: World):
    await world.cluster.create(SERVICE, service("a", gpus=2))
    await world.ready("a")
    await world.cluster.create(SERVICE, service("b", gpus=1))
    await world.revision_condition("b-00001", "False", "ResourcesAvailable")
    await world.cluster.delete(SERVICE, "a", "default")
    await world.ready("b")


async def test_slot_seconds_are_counted_as_starting_busy_and_idle(world: World):
    await world.cluster.create(SERVICE, service("counted", gpus=2, env={"START_DELAY_S": "0.5"}))
    await world.ready("counted")
    assert (await world.call("counted", "/slow?s=0.6"))[0] == 200
    await asyncio.sleep(0.3)
    text = await metrics(world)
    assert gpu_seconds(text, "starting", "counted") >= 2 * 0.5
    assert gpu_seconds(text, "busy", "counted") >= 2 * 0.6
    assert gpu_seconds(text, "idle", "counted") >= 2 * 0.3
    assert 'pilotlight_gpu_slots{state="held"} 2.0' in text
    assert re.search(r'autoscaler_actual_pods{.*revision_name="counted-00001".*} 1\.0', text)


async def test_a_service_without_gpus_counts_no_slot_seconds(world: World):
    await world.cluster.create(SERVICE, service("free"))
    await world.ready("free")
    text = await metrics(world)
    assert [gpu_seconds(text, state, "free") for state in ("busy", "idle", "starting")] == [0.0, 0.0, 0.0]


async def test_counters_never_decrease(world: World):
    await world.cluster.create(SERVICE, service("rising", gpus=1))
    await world.ready("rising")
    before = await metrics(world)
    calls = [asyncio.ensure_future(world.call("rising", "/slow?s=0.3")) for _ in range(3)]
    for _ in range(8):
        after = await metrics(world)
        for state in ("busy", "idle", "starting"):
            assert gpu_seconds(after, state, "rising") >= gpu_seconds(before, state, "rising")
        before = after
        await asyncio.sleep(0.05)
    await asyncio.gather(*calls)


async def test_a_revision_created_again_continues_its_counters(world: World):
    for gpus in (1, 2):
        await world.cluster.create(SERVICE, service("again", gpus=gpus))
        await world.ready("again")
        assert (await world.call("again", "/slow?s=0.3"))[0] == 200
        await world.cluster.delete(SERVICE, "again", "default")

        async def gone():
            return not await world.cluster.list(POD, "default")

        await until(gone)
    busy = gpu_seconds(await metrics(world), "busy", "again")
    assert 0.3 * 1 + 0.3 * 2 <= busy < 0.3 * 2 * 2


async def test_a_thousand_thousandths_of_a_gpu_are_one(world: World):
    await world.cluster.create(
        SERVICE, service("a", container={"resources": {"limits": {"nvidia.com/gpu": "1000m"}}})
    )
    await world.ready("a")
    (pod,) = await world.pods()
    assert len(pod["metadata"]["annotations"]["pilotlight.dev/gpu-slots"].split(",")) == 1
