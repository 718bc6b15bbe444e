"""Many messages, while the dispatcher and the function are killed at random: what became of each of them."""

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from tests.triggers.dispatcher_process import DispatcherProcess
from tests.triggers.rig import Rig
from triggers.messages import OutgoingMessage
from triggers.sources.factory import make_destination

POISON = 25
"""Every message whose number it divides is one that the function never takes."""


@dataclass
class Survival:
    """What became of the messages.

    Attributes:
        sent: numbers of the messages.
        delivered: how often each number was answered with 200.
        dead: the numbers in the dead-letter queue, and the reason of each.
        keys: the idempotency keys that came with each number.
        left: messages that wait in the queue in the end.
        kills: of the dispatcher.
    """

    sent: set[int]
    delivered: Counter[int]
    dead: dict[int, str]
    keys: dict[int, set[str]]
    left: int
    kills: int

    @property
    def lost(self) -> set[int]:
        """Those of which there is no trace."""
        return self.sent - set(self.delivered) - set(self.dead)

    @property
    def duplicates(self) -> int:
        """Deliveries beyond the first of each."""
        return sum(self.delivered.values()) - len(self.delivered)


async def survive(
    rig: Rig, folder: Path, *, messages: int, kills: int, seed: int, within_s: float
) -> Survival:
    """Send the messages, kill `kills` times, then wait until the queue is empty."""
    chance = random.Random(seed)
    delivered: Counter[int] = Counter()
    keys: dict[int, set[str]] = {}

    async def answer(call):
        number = json.loads(call.body)["n"]
        keys.setdefault(number, set()).add(call.headers["idempotency-key"])
        if number % POISON == 0:
            return web.Response(status=422, text="poison")
        fate = chance.random()
        if fate < 0.03:  # the function is killed: before its work, or after it
            call.request.transport.abort()
            await asyncio.sleep(0)
            return web.Response()
        if fate < 0.06:
            return web.Response(status=503)
        await asyncio.sleep(0.002)
        delivered[number] += 1
        if fate < 0.08:
            call.request.transport.abort()
        return web.Response()

    rig.function.handler = answer
    await _publish(rig, messages)
    dispatcher = DispatcherProcess(
        folder, rig.spec(concurrency=20, retry={"attempts": 50, "backoff": {"initial": "1s", "max": "2s"}})
    )
    dead: dict[int, str] = {}
    try:
        for _ in range(kills):
            dispatcher.start()
            before = len(rig.function.calls)
            await rig.function.until(lambda before=before: len(rig.function.calls) > before)
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            dispatcher.kill()
        dispatcher.start()
        sent = set(range(messages))
        deadline = time.monotonic() + within_s
        async with rig.taking_dead_letters() as take:
            while missing := sent - set(delivered) - set(dead):
                assert time.monotonic() < deadline, f"{missing} did not come; {dispatcher.log[-2000:]}"
                for letter in await take():
                    dead[json.loads(letter.message.body)["n"]] = letter.reason or ""
        quiet = 0  # what was delivered, but not acknowledged, comes back when its loan ends
        while quiet < 5:
            waiting = await rig.waiting()
            assert time.monotonic() < deadline, f"{waiting} still wait; {dispatcher.log[-2000:]}"
            quiet = 0 if waiting else quiet + 1
            await asyncio.sleep(1)
        dispatcher.terminate()
        return Survival(sent, delivered, dead, keys, await rig.waiting(), kills)
    finally:
        dispatcher.end()


async def _publish(rig: Rig, messages: int) -> None:
    destination = make_destination(rig.source, rig.broker.settings())
    await destination.open()
    for start in range(0, messages, 20):
        numbers = range(start, min(messages, start + 20))
        await asyncio.gather(
            *(destination.publish(OutgoingMessage(f"m-{n}", json.dumps({"n": n}).encode())) for n in numbers)
        )
    await destination.close()


class KillContract:
    """For each broker: a dispatcher that is killed while it works, and a function that breaks connections."""

    async def test_nothing_is_lost_when_the_dispatcher_is_killed(
        self, broker, function, tmp_path, monkeypatch
    ):
        for name, value in broker.settings().environment.items():
            monkeypatch.setenv(name, value)
        rig = Rig(broker, function)
        await rig.queues()
        result = await survive(rig, tmp_path, messages=100, kills=1, seed=11, within_s=100)
        assert result.lost == set()
        assert set(result.dead) == {number for number in result.sent if number % POISON == 0}
        assert all(len(keys) == 1 for keys in result.keys.values()), "duplicates carry the same key"
