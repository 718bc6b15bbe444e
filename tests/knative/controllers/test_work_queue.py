"""The queue of keys to be reconciled."""

import asyncio

import pytest

from knative.client.resources import POD_AUTOSCALER, SERVICE
from knative.local.apiserver.records import Key
from knative.local.controllers.work_queue import WorkQueue
from knative.local.routing import RevisionKey

A, B = Key(SERVICE, "default", "a"), Key(SERVICE, "default", "b")


def test_keys_come_out_in_order_and_once():
    queue = WorkQueue()
    for key in (A, B, A):
        queue.add(key)
    assert [queue.take(), queue.take()] == [A, B]
    assert not queue


async def test_a_waiting_reader_wakes_when_a_key_is_added():
    queue = WorkQueue()
    waiting = asyncio.create_task(queue.filled())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.add(A)
    await asyncio.wait_for(waiting, 1)
    queue.take()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.filled(), 0.01)


async def test_a_delayed_key_comes_later():
    queue = WorkQueue()
    queue.add_after(A, 0.01)
    assert not queue
    await asyncio.wait_for(queue.filled(), 1)
    assert queue.take() == A


def test_a_decision_of_the_autoscaler_queues_the_pod_autoscaler():
    queue = WorkQueue()
    queue.add_scaled(RevisionKey("default", "a-00001"), None)
    assert queue.take() == Key(POD_AUTOSCALER, "default", "a-00001")
