"""GPU slots: which pod holds them, which pods wait for them, and for how long they are held."""

import asyncio
import re

from knative.client.resources import POD, POD_AUTOSCALER, SERVICE
from tests.knative.platform.conftest import LocalCluster, condition, service, until


async def metrics(local: LocalCluster) -> str:
    async with local.http.get(f"{local.platform.api_url}/metrics") as answer:
        assert answer.status == 200
        return await answer.text()


def gpu_seconds(text: str, state: str, service_name: str) -> float:
    pattern = rf'^pilotlight_gpu_seconds_total{{[^}}]*service="{service_name}",state="{state}"}} (\S+)$'
    found = re.search(pattern, text, re.MULTILINE)
    assert found, text
    return float(found[1])


async def test_a_floor_above_the_slots_makes_the_autoscaler_inactive_but_not_the_service_unready(
    local: LocalCluster,
):
    await local.cluster.create(SERVICE, service("a", gpus=1))
    await local.ready("a")
    await local.set_floor("a-00001", 4)

    async def short():
        found = await local.cluster.get(POD_AUTOSCALER, "a-00001", "default")
        status = found["status"]
        return status["desiredScale"] == 4 and status["actualScale"] == 2 and found

    found = await until(short)
    assert (condition(found, "Active")["status"], condition(found, "Active")["reason"]) == (
        "Unknown",
        "Queued",
    )
    assert condition(await local.cluster.get(SERVICE, "a", "default"))["status"] == "True"
    waiting = [pod for pod in await local.pods() if condition(pod, "PodScheduled")["status"] == "False"]
    assert len(waiting) == 2
    assert condition(waiting[0], "PodScheduled")["reason"] == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in condition(waiting[0], "PodScheduled")["message"]


async def test_a_new_revision_without_a_free_gpu_fails_and_the_old_one_keeps_serving(local: LocalCluster):
    await local.cluster.apply(SERVICE, service("a", gpus=2, env={"N": "1"}))
    await local.ready("a")
    await local.set_floor("a-00001", 1)
    await local.cluster.apply(SERVICE, service("a", gpus=2, env={"N": "2"}))
    failed = await local.service_condition("a", "False")
    assert failed["reason"] == "RevisionFailed"
    resources = await local.revision_condition("a-00002", "False", "ResourcesAvailable")
    assert resources["reason"] == "Unschedulable"
    assert (await local.call("a"))[1]["revision"] == "a-00001"


async def test_a_released_slot_goes_to_a_waiting_pod(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a", gpus=2))
    await local.ready("a")
    await local.cluster.create(SERVICE, service("b", gpus=1))
    await local.revision_condition("b-00001", "False", "ResourcesAvailable")
    await local.cluster.delete(SERVICE, "a", "default")
    await local.ready("b")


async def test_slot_seconds_are_counted_as_starting_busy_and_idle(local: LocalCluster):
    await local.cluster.create(SERVICE, service("counted", gpus=2, env={"START_DELAY_S": "0.5"}))
    await local.ready("counted")
    assert (await local.call("counted", "/slow?s=0.6"))[0] == 200
    await asyncio.sleep(0.3)
    text = await metrics(local)
    assert gpu_seconds(text, "starting", "counted") >= 2 * 0.5
    assert gpu_seconds(text, "busy", "counted") >= 2 * 0.6
    assert gpu_seconds(text, "idle", "counted") >= 2 * 0.3
    assert 'pilotlight_gpu_slots{state="held"} 2.0' in text
    assert re.search(r'autoscaler_actual_pods{.*revision_name="counted-00001".*} 1\.0', text)


async def test_a_service_without_gpus_counts_no_slot_seconds(local: LocalCluster):
    await local.cluster.create(SERVICE, service("free"))
    await local.ready("free")
    text = await metrics(local)
    assert [gpu_seconds(text, state, "free") for state in ("busy", "idle", "starting")] == [0.0, 0.0, 0.0]


async def test_counters_never_decrease(local: LocalCluster):
    await local.cluster.create(SERVICE, service("rising", gpus=1))
    await local.ready("rising")
    before = await metrics(local)
    calls = [asyncio.ensure_future(local.call("rising", "/slow?s=0.3")) for _ in range(3)]
    for _ in range(8):
        after = await metrics(local)
        for state in ("busy", "idle", "starting"):
            assert gpu_seconds(after, state, "rising") >= gpu_seconds(before, state, "rising")
        before = after
        await asyncio.sleep(0.05)
    await asyncio.gather(*calls)


async def test_a_revision_created_again_continues_its_counters(local: LocalCluster):
    for gpus in (1, 2):
        await local.cluster.create(SERVICE, service("again", gpus=gpus))
        await local.ready("again")
        assert (await local.call("again", "/slow?s=0.3"))[0] == 200
        await local.cluster.delete(SERVICE, "again", "default")

        async def gone():
            return not await local.cluster.list(POD, "default")

        await until(gone)
    busy = gpu_seconds(await metrics(local), "busy", "again")
    assert 0.3 * 1 + 0.3 * 2 <= busy < 0.3 * 2 * 2


async def test_a_thousand_thousandths_of_a_gpu_are_one(local: LocalCluster):
    await local.cluster.create(
        SERVICE, service("a", container={"resources": {"limits": {"nvidia.com/gpu": "1000m"}}})
    )
    await local.ready("a")
    (pod,) = await local.pods()
    assert len(pod["metadata"]["annotations"]["pilotlight.dev/gpu-slots"].split(",")) == 1
