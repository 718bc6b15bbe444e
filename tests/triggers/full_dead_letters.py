"""A dead-letter queue without room: the message stays, nothing is called again, one line says so."""

import asyncio
from typing import Protocol

from aiohttp import web

from tests.triggers.rig import Rig
from tests.triggers.source_contract import LEASE_S, Broker
from triggers.dispatcher import Options
from triggers.spec.brokers import QueueRef


class BoundedBroker(Broker, Protocol):
    async def full_queue(self) -> QueueRef:
        """A queue that takes no more."""
        ...

    async def make_room(self, ref: QueueRef) -> None:
        """Empty it."""
        ...


class FullDeadLetterContract:
    async def test_a_full_dead_letter_queue_loses_nothing_and_is_asked_in_peace(
        self, broker: BoundedBroker, function, caplog
    ):
        rig = Rig(broker, function)
        await rig.queues()
        rig.dead = full = await broker.full_queue()
        rig.function.handler = lambda _call: web.Response(status=400)
        environment = broker.settings().environment
        options = Options(poll_s=1, lease_s=LEASE_S, drain_s=5, environment=environment)
        async with rig.dispatching(options=options, retry={"attempts": 3, "backoff": {"initial": "2s"}}):
            await rig.send(b"poison")
            await rig.until_settled("kept", 1)
            await asyncio.sleep(2 * LEASE_S)
            kept = rig.settled("kept")
            # At most as often as its loan and its back-off allow, and not in a loop.
            assert kept <= 4
            lines = [line for line in caplog.text.splitlines() if "dead-letter queue: " in line]
            assert len(lines) == 1, lines
            assert rig.metric("pilotlight_trigger_up", part="deadLetter") == 0
            await broker.make_room(full)
            await rig.until_settled("dead-lettered", 1, within_s=60)
        [letter] = await rig.dead_letters(1)
        assert letter.reason == "rejected: http-400"
        assert letter.message.body == b"poison"
        assert len(rig.function.calls) == 1
