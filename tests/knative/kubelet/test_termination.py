"""How much time a pod has once it has been asked to terminate."""

import asyncio

import pytest

from knative.local.kubelet.pod_runtime import Termination


async def test_the_first_request_counts_from_its_own_grace_period():
    termination = Termination(30)
    assert not termination.requested
    termination.request(grace_s=None, drain=True)
    assert termination.requested
    assert 29 < termination.remaining_s <= 30


@pytest.mark.parametrize(("second", "most", "least"), [(5, 5, 4), (0, 0, 0), (600, 30, 29), (None, 30, 29)])
async def test_a_second_request_may_only_shorten_the_time(second, most, least):
    termination = Termination(30)
    termination.request(grace_s=30, drain=True)
    termination.request(grace_s=second, drain=True)
    assert least <= termination.remaining_s <= most


async def test_who_waits_for_the_deadline_hears_that_it_comes_sooner():
    termination = Termination(600)
    termination.request(grace_s=None, drain=True)
    waiting = asyncio.ensure_future(termination.wait_for_deadline())
    await asyncio.sleep(0)
    termination.request(grace_s=0.05, drain=True)
    await asyncio.wait_for(waiting, 5)
    assert termination.remaining_s == 0


async def test_the_wait_for_requests_in_flight_can_be_ended():
    termination = Termination(600)
    termination.request(grace_s=None, drain=True)
    waiting = asyncio.ensure_future(termination.wait_for_undrained())
    await asyncio.sleep(0)
    assert not waiting.done()
    termination.request(grace_s=None, drain=False)
    await asyncio.wait_for(waiting, 5)


async def test_a_wait_ends_when_termination_is_requested():
    termination = Termination(1)
    assert await termination.wait_unless_requested(asyncio.sleep(0))
    waiting = asyncio.ensure_future(termination.wait_unless_requested(asyncio.sleep(600)))
    await asyncio.sleep(0)
    termination.request(grace_s=None, drain=True)
    assert not await asyncio.wait_for(waiting, 5)
