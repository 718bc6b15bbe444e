"""Slots under any order of arrivals, ends, cancellations and changes of replicas."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from knative.local.activator.throttler import RevisionThrottler
from knative.local.routing import Endpoint, RevisionKey, RevisionSpec

POOL = [Endpoint(f"pod-{number}", "127.0.0.1", 9000 + number) for number in range(4)]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.none()),
        st.tuples(st.just("end"), st.integers(0, 30)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("ready"), st.sets(st.integers(0, 3))),
        st.tuples(st.just("quarantine"), st.integers(0, 3)),
        st.tuples(st.just("turn"), st.none()),
    ),
    max_size=60,
)


async def run(limit, steps):
    throttler = RevisionThrottler(RevisionSpec(RevisionKey("default", "a"), "a", limit), lambda: 0.0)
    tasks, served, finish = [], [], {}

    async def request(number):
        pod = throttler.acquire()
        if pod is None:
            pod = await throttler.wait()
        served.append(number)
        try:
            assert limit == 0 or pod.in_flight <= limit
            await finish[number].wait()
        finally:
            throttler.release(pod)

    def running():
        return [number for number in served if not tasks[number].done()]

    for kind, value in steps:
        if kind == "arrive":
            number = len(tasks)
            finish[number] = asyncio.Event()
            tasks.append(asyncio.create_task(request(number)))
            await asyncio.sleep(0)  # it is in its place of the queue
        elif kind == "end" and running():
            finish[running()[value % len(running())]].set()
        elif kind == "cancel" and tasks:
            tasks[value % len(tasks)].cancel()
        elif kind == "ready":
            throttler.set_endpoints(tuple(POOL[number] for number in value))
        elif kind == "quarantine" and (pod := throttler.pod(POOL[value].pod)) is not None:
            throttler.quarantine(pod)
        else:
            await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    for pod in throttler._pods:
        assert limit == 0 or pod.in_flight <= limit
    if throttler.waiting:  # then nothing is free
        assert not throttler._usable or all(pod.in_flight >= limit > 0 for pod in throttler._usable)
    uncancelled = [number for number in served if not tasks[number].cancelled()]
    assert uncancelled == sorted(uncancelled)
    # And in the end everyone who stayed is served, and no slot is lost.
    throttler.set_endpoints((Endpoint("last", "127.0.0.1", 1),))
    async with asyncio.timeout(5):
        while not all(task.done() for task in tasks):
            for event in finish.values():
                event.set()
            await asyncio.sleep(0)
    assert throttler.in_flight == throttler.waiting == 0
    assert all(task.cancelled() or task.exception() is None for task in tasks)


@settings(max_examples=150, deadline=None)
@given(limit=st.sampled_from([0, 1, 2, 5]), steps=steps)
def test_no_slot_is_lost_or_assigned_twice_and_the_oldest_request_comes_first(limit, steps):
    asyncio.run(run(limit, steps))
