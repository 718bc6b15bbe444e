"""Open-loop sending: instants, limits, failures and stopping."""

import asyncio
from time import perf_counter

import pytest

from pilotlight import invoke
from pilotlight.replay.errors import ReplayError
from pilotlight.replay.exchange import Dialect, Exchange, Prompts
from pilotlight.replay.sender import FAILURES_IN_A_ROW, Planned, Sender


def plan(count, every_s=0.0):
    return [Planned(index, index * every_s, 4, 4) for index in range(count)]


class Sending:
    def __init__(self, function, *, max_in_flight=100):
        self.sent = []
        self.stop = asyncio.Event()
        exchange = Exchange(f"{function.url}/default/echo/", Dialect.GET, timeout_s=20)
        self.sender = Sender(exchange, Prompts(0), max_in_flight=max_in_flight, on_answer=self.sent.append)

    async def run(self, requests):
        async with invoke.client() as session:
            return await self.sender.run(session, requests, origin=perf_counter(), stop=self.stop)


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_slow_function_delays_no_request_behind_it(function):
    function.released.clear()
    sending = Sending(function)
    running = asyncio.create_task(sending.run(plan(20, every_s=0.01)))

    await until(lambda: len(function.bodies) == 20)  # all sent although none was answered
    function.released.set()

    assert await running
    assert [sent.in_flight for sent in sorted(sending.sent, key=lambda s: s.planned.index)] == list(range(20))
    assert all(sent.sent_s >= sent.planned.due_s for sent in sending.sent)


async def test_the_limit_on_requests_in_flight_holds_requests_back_and_counts_them(function):
    function.released.clear()
    sending = Sending(function, max_in_flight=3)
    running = asyncio.create_task(sending.run(plan(8)))

    await until(lambda: len(function.bodies) == 3)
    assert sending.sender.state.in_flight == 3
    function.released.set()

    assert await running
    assert len(sending.sent) == 8
    assert max(sent.in_flight for sent in sending.sent) == 2
    assert 1 <= sending.sender.state.held_back <= 5


@pytest.mark.parametrize("due_s", [0.0, 3600.0])
async def test_stopping_abandons_what_is_on_its_way_or_not_due_yet(function, due_s):
    function.released.clear()
    sending = Sending(function)
    requests = [Planned(0, 0.0, 4, 4), Planned(1, due_s, 4, 4)]
    running = asyncio.create_task(sending.run(requests))
    await function.asked.wait()

    sending.stop.set()

    assert await asyncio.wait_for(running, 5) is False
    assert sending.sent == []
    assert not sending.sender.state.tasks


async def test_a_function_that_refuses_everything_ends_the_replay(function):
    function.status = 404
    sending = Sending(function, max_in_flight=1)

    with pytest.raises(ReplayError, match=f"{FAILURES_IN_A_ROW} requests in a row failed, the last one: 404"):
        await sending.run(plan(200))

    assert len(sending.sent) < 30


async def test_a_function_that_is_busy_does_not(function):
    function.status = 429
    sending = Sending(function)

    assert await sending.run(plan(60))
    assert {sent.answer.status for sent in sending.sent} == {429}


async def test_an_answer_that_cannot_be_recorded_ends_the_replay_at_once(function):
    sending = Sending(function)

    def full(_):
        raise ReplayError("no space left")

    sending.sender._on_answer = full
    with pytest.raises(ReplayError, match="no space left"):
        await asyncio.wait_for(sending.run([Planned(0, 0.0, 4, 4), Planned(1, 3600.0, 4, 4)]), 5)
