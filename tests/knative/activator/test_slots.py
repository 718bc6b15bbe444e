"""Container concurrency and the choice of a replica."""

import asyncio
from collections import Counter

from knative.local.routing import RevisionKey

KEY = RevisionKey("default", "a-00001")


def hold(gateway, number):
    return [asyncio.create_task(gateway.get("/hold")) for _ in range(number)]


async def test_a_replica_never_gets_more_requests_than_its_container_concurrency(gateway):
    replicas = await gateway.running(["pod-1", "pod-2"], container_concurrency=3)
    asking = hold(gateway, 12)
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 6)
    await gateway.until(lambda: all(replica.in_flight == 3 for replica in replicas))
    for replica in replicas:
        replica.release.set()
    assert {status for status, _ in await asyncio.gather(*asking)} == {200}
    assert [replica.peak for replica in replicas] == [3, 3]


async def test_up_to_three_the_first_replica_with_a_free_slot_is_chosen(gateway):
    replicas = await gateway.running(["x", "y", "z"], container_concurrency=2)
    for _ in range(6):
        await gateway.get()
    totals = sorted((replica.endpoint.port, replica.total) for replica in replicas)
    assert [total for _, total in totals] == [6, 0, 0]


async def test_above_three_replicas_are_chosen_round_robin(gateway):
    replicas = await gateway.running(["x", "y", "z"], container_concurrency=4)
    for _ in range(6):
        await gateway.get()
    assert [replica.total for replica in replicas] == [2, 2, 2]


async def test_without_a_limit_the_less_loaded_of_two_is_chosen(gateway):
    replicas = await gateway.running(["x", "y"])
    asking = hold(gateway, 20)
    await gateway.until(lambda: sum(replica.in_flight for replica in replicas) == 20)
    assert [replica.in_flight for replica in replicas] == [10, 10]
    for replica in replicas:
        replica.release.set()
    await asyncio.gather(*asking)


async def test_a_waiting_request_takes_the_first_slot_that_becomes_free(gateway):
    one, two = await gateway.running(["pod-1", "pod-2"], container_concurrency=1)
    asking = hold(gateway, 2)
    await gateway.until(lambda: one.in_flight == two.in_flight == 1)
    late = asyncio.create_task(gateway.get("/late"))
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 1)
    two.release.set()
    _, seen = await late
    assert seen["replica"] == "pod-2"
    one.release.set()
    await asyncio.gather(*asking)


async def test_a_new_replica_takes_from_the_queue(gateway):
    one = await gateway.running(container_concurrency=1)
    asking = hold(gateway, 3)
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 2)
    two = await gateway.replica("pod-2")
    two.release.set()
    await gateway.ready(one, two)
    await gateway.until(lambda: two.total == 2)
    one.release.set()
    answers = Counter(seen["replica"] for _, seen in await asyncio.gather(*asking))
    assert answers == {"pod-1": 1, "pod-2": 2}


async def test_a_raised_limit_takes_effect_at_once(gateway):
    replica = await gateway.running(container_concurrency=1)
    asking = hold(gateway, 3)
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 2)
    gateway.deploy(container_concurrency=3)
    await gateway.until(lambda: replica.in_flight == 3)
    replica.release.set()
    await asyncio.gather(*asking)


async def test_a_removed_revision_completes_its_requests_in_flight(gateway):
    one = await gateway.running()
    asking = hold(gateway, 1)
    await gateway.until(lambda: one.in_flight == 1)
    gateway.activator.remove_service("default", "a")
    gateway.activator.remove_revision(KEY)
    assert not await gateway.activator.drained(KEY, "pod-1", timeout_s=0.05)
    assert gateway.activator.in_flight(KEY, "pod-1") == 1
    one.release.set()
    assert (await asking[0])[0] == 200
    assert await gateway.activator.drained(KEY, "pod-1", timeout_s=1)


async def test_a_replica_that_is_ready_again_keeps_its_count(gateway):
    one = await gateway.running(container_concurrency=1)
    asking = hold(gateway, 1)
    await gateway.until(lambda: one.in_flight == 1)
    await gateway.ready()
    await gateway.ready(one)
    late = asyncio.create_task(gateway.get("/late"))
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 1)
    one.release.set()
    await asyncio.gather(late, *asking)
    assert one.peak == 1


async def test_a_replica_that_is_no_longer_ready_gets_no_new_requests_and_completes_its_own(gateway):
    one = await gateway.running()
    asking = hold(gateway, 1)
    await gateway.until(lambda: one.in_flight == 1)
    two = await gateway.replica("pod-2")
    await gateway.ready(two)
    assert (await gateway.get())[1]["replica"] == "pod-2"
    assert gateway.activator.in_flight(KEY, "pod-1") == 1
    assert not await gateway.activator.drained(KEY, "pod-1", timeout_s=0.05)
    drained = asyncio.create_task(gateway.activator.drained(KEY, "pod-1", timeout_s=5))
    one.release.set()
    assert await drained
    assert (await asking[0])[1]["replica"] == "pod-1"
    assert gateway.activator.in_flight(KEY, "pod-1") == 0
