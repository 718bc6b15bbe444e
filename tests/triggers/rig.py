"""A dispatcher on a real queue, in this process, and what a test looks at."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from tests.triggers.function_server import Function
from tests.triggers.source_contract import LEASE_S, Broker
from triggers.decisions.dead_letters import DeadLetter, read
from triggers.dispatcher import Dispatcher, Options
from triggers.messages import OutgoingMessage
from triggers.metrics import TriggerMetrics
from triggers.sources.factory import make_destination, make_source
from triggers.spec.brokers import QueueRef
from triggers.spec.trigger import TriggerSpec


class Rig:
    """Queues of one broker, and dispatchers on them."""

    def __init__(self, broker: Broker, function: Function) -> None:
        self.broker = broker
        self.function = function
        self.metrics = TriggerMetrics(CollectorRegistry())
        self.source: QueueRef
        self.dead: QueueRef

    async def queues(self, *, ordered: bool = False) -> None:
        made = await self.broker.ordered_queue() if ordered else await self.broker.queue()
        assert made is not None
        self.source = made
        ordered_dead = await self.broker.ordered_queue() if ordered else None
        self.dead = ordered_dead or await self.broker.queue()

    def spec(self, **fields: Any) -> TriggerSpec:
        """The Trigger's spec; fast retries unless `fields` say otherwise."""
        spec = {
            "source": self.source.model_dump(exclude_none=True),
            "target": {"url": self.function.url, "path": "/invoke"},
            "deadLetter": self.dead.model_dump(exclude_none=True),
            "retry": {"attempts": 3, "backoff": {"initial": "100ms", "max": "1s"}},
            **fields,
        }
        return TriggerSpec.parse({name: value for name, value in spec.items() if value is not None})

    @contextlib.asynccontextmanager
    async def dispatching(self, **fields: Any) -> AsyncIterator[Dispatcher]:
        """Run a dispatcher; leaving the block stops it in order."""
        options = fields.pop("options", Options(poll_s=1, lease_s=LEASE_S, drain_s=5))
        dispatcher = Dispatcher("default", "test", self.spec(**fields), options, self.metrics)
        stop = asyncio.Event()
        task = asyncio.create_task(dispatcher.run(stop))
        try:
            yield dispatcher
            assert not task.done() or task.result() is None
        finally:
            stop.set()
            await task

    async def send(self, *bodies: bytes, group: str | None = None, **attributes: str) -> None:
        destination = make_destination(self.source, self.broker.settings())
        await destination.open()
        names = {name.replace("_", "-"): value for name, value in attributes.items()}
        for body in bodies:
            unique = f"{time.monotonic_ns()}"
            await destination.publish(OutgoingMessage(unique, body, names, group))
        await destination.close()

    def settled(self, outcome: str) -> int:
        value = self.metrics.registry.get_sample_value(
            "pilotlight_trigger_messages_settled_total",
            {"namespace": "default", "trigger": "test", "outcome": outcome},
        )
        return int(value or 0)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(
            name, {"namespace": "default", "trigger": "test", **labels}
        )

    async def until_settled(self, outcome: str, count: int, within_s: float = 30) -> None:
        await until(lambda: self.settled(outcome) >= count, within_s)

    async def waiting(self, ref: QueueRef | None = None) -> int:
        """Messages that wait in the source, or in another queue."""
        settings = dataclasses.replace(self.broker.settings(), consumer="default/test")
        source = make_source(ref or self.source, settings)
        await source.open()
        backlog = await source.backlog()
        await source.close()
        assert backlog.messages is not None
        return backlog.messages

    @asynccontextmanager
    async def taking_dead_letters(self) -> AsyncIterator[Callable[[], Awaitable[list[DeadLetter]]]]:
        """Takes what is in the dead-letter queue at each call, or comes within a second.

        One consumer stays for all calls: joining a group of Kafka's may take longer than a call.
        """
        source = make_source(self.dead, self.broker.settings())
        await source.open()

        async def take() -> list[DeadLetter]:
            got = await source.receive(source.limits.batch, 1)
            await source.acknowledge(got)
            return [read(one) for one in got]

        try:
            yield take
        finally:
            await source.close()

    async def dead_letters(self, count: int, within_s: float = 30) -> list[DeadLetter]:
        """Take so many dead letters."""
        source = make_source(self.dead, self.broker.settings())
        await source.open()
        found: list[DeadLetter] = []
        deadline = time.monotonic() + within_s
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} dead letters came"
            got = await source.receive(count - len(found), 1)
            await source.acknowledge(got)
            found += [read(one) for one in got]
        await source.close()
        return found


async def until(condition: Callable[[], bool], within_s: float = 30) -> None:
    """Wait for what nothing announces."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.02)
