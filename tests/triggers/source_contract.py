"""What every source and destination must do, against the real broker: one suite, a subclass for each broker.

A subclass has a fixture `broker` that gives a `Broker`; each test makes queues of its own in it.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from triggers.messages import Message, OutgoingMessage
from triggers.sources.base import (
    BrokerMisconfiguredError,
    BrokerUnavailableError,
    Destination,
    MessageRefusedError,
    Source,
)
from triggers.sources.factory import make_destination, make_source
from triggers.sources.settings import BrokerSettings
from triggers.spec.brokers import QueueRef

LEASE_S = 2.0
"""Of the tests' sources, where the consumer chooses it."""


class Broker(Protocol):
    """A running broker, and what it offers."""

    durable: bool
    """Messages survive `kill` and `start`."""
    refuses_size: int | None
    """A body of so many bytes is refused for ever; None: there is no limit that a test can reach."""

    async def queue(self) -> QueueRef:
        """A new, empty queue."""

    async def ordered_queue(self) -> QueueRef | None:
        """A new queue with groups in order; None where the broker has no such thing."""

    def missing_queue(self) -> QueueRef:
        """A queue that is not there."""

    def settings(self) -> BrokerSettings:
        """With credentials that are right, and `lease_s = LEASE_S`."""

    def wrong_settings(self) -> tuple[BrokerSettings, str] | None:
        """With credentials that are refused, and the secret in them; None: the broker asks for none."""

    def kill(self) -> None:
        """End the broker's process at once."""

    def start(self) -> None:
        """Start it again at the same address."""


@contextlib.asynccontextmanager
async def opened(broker: Broker, ref: QueueRef) -> AsyncIterator[tuple[Source, Destination]]:
    """A source and a destination of one queue."""
    source, destination = make_source(ref, broker.settings()), make_destination(ref, broker.settings())
    try:
        await source.open()
        await destination.open()
        yield source, destination
    finally:
        await source.close()
        await destination.close()


@contextlib.asynccontextmanager
async def another(broker: Broker, ref: QueueRef) -> AsyncIterator[Source]:
    """A further source of the queue, as another process has it."""
    source = make_source(ref, broker.settings())
    try:
        await source.open()
        yield source
    finally:
        await source.close()


async def receive(source: Source, count: int = 1, within_s: float = 15.0) -> list[Message]:
    """Exactly `count` messages."""
    found: list[Message] = []
    deadline = time.monotonic() + within_s
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} messages came in {within_s:g} s"
        found += await source.receive(count - len(found), 1.0)
    return found


def message(body: bytes = b"{}", *, group: str | None = None, **attributes: str) -> OutgoingMessage:
    names = {name.replace("_", "-"): value for name, value in attributes.items()}
    return OutgoingMessage(id=uuid.uuid4().hex, body=body, attributes=names, group=group)


async def publish(destination: Destination, *messages: OutgoingMessage) -> None:
    for one in messages:
        await destination.publish(one)


class SourceContract:
    """The suite."""

    async def test_a_published_message_arrives_as_it_was_sent(self, broker: Broker):
        async with opened(broker, await broker.queue()) as (source, destination):
            await publish(
                destination, message(b'{"a": "\xc3\xa4"}', content_type="application/json", tenant="x-7")
            )
            [got] = await receive(source)
            assert got.body == b'{"a": "\xc3\xa4"}'
            assert got.attributes["content-type"] == "application/json"
            assert got.attributes["tenant"] == "x-7"
            assert got.attempt in {1, None}
            assert got.id
            assert got.enqueued is None or abs(got.enqueued.timestamp() - time.time()) < 60
            assert list(await source.acknowledge([got])) == []

    @pytest.mark.parametrize("body", [b"\xff\x00\xfe not UTF-8", b"", b"control \x01 characters"])
    async def test_any_bytes_arrive(self, broker: Broker, body):
        async with opened(broker, await broker.queue()) as (source, destination):
            await publish(destination, message(body))
            [got] = await receive(source)
            assert got.body == body
            await source.acknowledge([got])

    async def test_many_attributes_with_any_values_arrive(self, broker: Broker):
        sent = {f"name-{number}": f"value {number}: \u00e4, \u20ac" for number in range(20)}
        async with opened(broker, await broker.queue()) as (source, destination):
            await destination.publish(OutgoingMessage(uuid.uuid4().hex, b"x", sent))
            [got] = await receive(source)
            assert {name: got.attributes[name] for name in sent} == sent
            await source.acknowledge([got])

    async def test_an_empty_queue_gives_nothing_and_waits_that_long(self, broker: Broker):
        async with opened(broker, await broker.queue()) as (source, _):
            began = time.monotonic()
            assert await source.receive(10, 1.0) == []
            assert 0.5 < time.monotonic() - began < 10

    async def test_an_acknowledged_message_does_not_come_again(self, broker: Broker):
        ref = await broker.queue()
        async with opened(broker, ref) as (source, destination):
            await publish(destination, message())
            await source.acknowledge(await receive(source))
        async with another(broker, ref) as source:
            assert await source.receive(1, LEASE_S + 1) == []

    async def test_messages_of_one_call_are_acknowledged_together(self, broker: Broker):
        ref = await broker.queue()
        async with opened(broker, ref) as (source, destination):
            await publish(destination, *(message(str(number).encode()) for number in range(25)))
            got = await receive(source, 25)
            assert sorted(int(one.body) for one in got) == list(range(25))
            assert list(await source.acknowledge(got)) == []
        async with another(broker, ref) as source:
            assert await source.receive(1, LEASE_S + 1) == []

    async def test_acknowledgements_at_any_time_of_each_other_are_all_made(self, broker: Broker):
        async with opened(broker, await broker.queue()) as (source, destination):
            await publish(destination, *(message() for _ in range(30)))

            async def acknowledge(one: Message, turns: int) -> None:
                for _ in range(turns * 3):
                    await asyncio.sleep(0)
                assert list(await source.acknowledge([one])) == []

            got = await receive(source, 30)
            async with asyncio.timeout(20):
                await asyncio.gather(*(acknowledge(one, at) for at, one in enumerate(got)))
            assert (await source.backlog()).messages == 0

    async def test_a_retried_message_comes_after_its_delay_with_one_attempt_more_to_another_process(
        self, broker: Broker
    ):
        ref = await broker.queue()
        async with opened(broker, ref) as (source, destination):
            await publish(destination, message(b"again", tenant="x"))
            [first] = await receive(source)
            await source.retry(first, 1.5)
            asked = time.monotonic()
        async with another(broker, ref) as source:
            [second] = await receive(source)
            assert time.monotonic() - asked > 0.9, "earlier than its delay"
            assert (second.id, second.body, second.attributes["tenant"]) == (first.id, b"again", "x")
            assert first.attempt is not None
            assert second.attempt == first.attempt + 1
            await source.retry(second, 0)
        async with another(broker, ref) as source:
            [third] = await receive(source)
            assert (third.id, third.attempt) == (first.id, first.attempt + 2)
            await source.acknowledge([third])

    async def test_a_released_message_comes_at_once(self, broker: Broker):
        async with opened(broker, await broker.queue()) as (source, destination):
            await publish(destination, message())
            [first] = await receive(source)
            await source.release([first])
            [second] = await receive(source, within_s=LEASE_S)
            assert second.id == first.id
            await source.acknowledge([second])

    async def test_what_a_process_had_when_it_ended_comes_to_another_one(self, broker: Broker):
        ref = await broker.queue()
        async with opened(broker, ref) as (source, destination):
            await publish(destination, message(b"1"), message(b"2"))
            first = await receive(source, 2)
        async with another(broker, ref) as source:
            second = await receive(source, 2, within_s=LEASE_S + 15)
            assert {one.id for one in second} == {one.id for one in first}
            await source.acknowledge(second)

    async def test_extend_keeps_a_message_from_others(self, broker: Broker):
        ref = await broker.queue()
        async with opened(broker, ref) as (source, destination), another(broker, ref) as other:
            await publish(destination, message())
            [got] = await receive(source)
            for _ in range(4):
                await source.extend([got], LEASE_S)
                assert await other.receive(1, LEASE_S / 2) == []
            assert list(await source.acknowledge([got])) == []

    async def test_two_consumers_share_the_messages(self, broker: Broker):
        ref = await broker.queue()
        async with opened(broker, ref) as (source, destination), another(broker, ref) as other:
            await publish(destination, *(message(str(number).encode()) for number in range(20)))
            got: list[Message] = []
            deadline = time.monotonic() + 20
            while len(got) < 20 and time.monotonic() < deadline:
                for one in (source, other):
                    taken = await one.receive(3, 0.5)
                    await one.acknowledge(taken)
                    got += taken
            assert sorted(int(one.body) for one in got) == list(range(20))

    async def test_a_cancelled_receive_loses_nothing(self, broker: Broker):
        async with opened(broker, await broker.queue()) as (source, destination):
            waiting = asyncio.create_task(source.receive(10, 2.0))
            await asyncio.sleep(0.2)  # until it waits at the broker, which nothing tells
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            await publish(destination, message())
            [got] = await receive(source, within_s=LEASE_S + 15)
            await source.acknowledge([got])

    async def test_the_backlog_is_what_waits(self, broker: Broker):
        async with opened(broker, await broker.queue()) as (source, destination):
            assert (await source.backlog()).messages == 0
            await publish(destination, *(message() for _ in range(5)))
            backlog = await source.backlog()
            assert backlog.messages == 5
            assert backlog.oldest_age_s is None or 0 <= backlog.oldest_age_s < 60

    async def test_browsing_leaves_messages_where_they_are(self, broker: Broker):
        async with opened(broker, await broker.queue()) as (source, destination):
            assert await source.browse(10) == []
            await publish(destination, *(message(str(number).encode()) for number in range(3)))
            assert sorted(one.body for one in await source.browse(10)) == [b"0", b"1", b"2"]
            assert len(await source.browse(2)) == 2
            assert sorted(one.body for one in await receive(source, 3, within_s=LEASE_S + 5)) == [
                b"0",
                b"1",
                b"2",
            ]

    async def test_a_group_waits_for_its_message_and_others_do_not(self, broker: Broker):
        if (ref := await broker.ordered_queue()) is None:
            return
        async with opened(broker, ref) as (source, destination):
            assert source.limits.ordered
            await publish(destination, *(message(body, group="a") for body in (b"a1", b"a2", b"a3")))
            await publish(destination, message(b"b1", group="b"))
            got = await receive(source, 1)
            while len(more := await source.receive(10, 0.5)) > 0:
                got += more
            of_a = [one for one in got if one.group == "a"]
            assert [one.body for one in of_a] == [b"a1", b"a2", b"a3"][: len(of_a)]
            assert [one.body for one in got if one.group == "b"] == [b"b1"], "another group does not wait"
            # The first one fails; those behind it go back and stay behind it.
            await source.acknowledge([one for one in got if one.group == "b"])
            await source.retry(of_a[0], 1)
            await source.release(of_a[1:])
            order: list[bytes] = []
            while len(order) < 3:
                for one in await receive(source, 1):
                    order.append(one.body)
                    await source.acknowledge([one])
            assert order == [b"a1", b"a2", b"a3"]

    async def test_a_missing_queue_is_an_error_that_names_it(self, broker: Broker):
        ref = broker.missing_queue()
        for made in (make_source(ref, broker.settings()), make_destination(ref, broker.settings())):
            with pytest.raises(BrokerMisconfiguredError) as raised:
                await made.open()
            await made.close()
            name = next(iter(ref.model_dump(exclude_none=True).values()))
            assert any(str(value) in str(raised.value) for value in name.values())
            assert "\n" not in str(raised.value)

    async def test_refused_credentials_are_an_error_without_the_secret(self, broker: Broker):
        if (wrong := broker.wrong_settings()) is None:
            return
        settings, secret = wrong
        source = make_source(await broker.queue(), settings)
        with pytest.raises(BrokerMisconfiguredError) as raised:
            await source.open()
        await source.close()
        assert secret not in str(raised.value)
        assert "\n" not in str(raised.value)

    async def test_a_message_that_is_too_large_is_refused(self, broker: Broker):
        if broker.refuses_size is None:
            return
        async with opened(broker, await broker.queue()) as (source, destination):
            with pytest.raises(MessageRefusedError):
                await publish(destination, message(b"x" * broker.refuses_size))
            await publish(destination, message(b"small"))
            assert [one.body for one in await receive(source)] == [b"small"]

    async def test_a_source_outlives_its_broker(self, broker: Broker):
        ref = await broker.queue()
        async with opened(broker, ref) as (source, destination):
            await publish(destination, message(b"before"))
            broker.kill()
            try:
                with pytest.raises(BrokerUnavailableError) as raised:
                    await _receive_until_it_fails(source)
                assert "\n" not in str(raised.value)
                with pytest.raises(BrokerUnavailableError):
                    await publish(destination, message(b"lost"))
            finally:
                broker.start()
            if not broker.durable:
                return
            await reopened(source, destination)
            await publish(destination, message(b"after"))
            bodies = {one.body for one in await receive(source, 2, within_s=30)}
            assert bodies == {b"before", b"after"}


async def _receive_until_it_fails(source: Source) -> None:
    for _ in range(20):  # what was fetched ahead may come first
        await source.receive(1, 0.5)


async def reopened(*ends: Source | Destination, within_s: float = 30.0) -> None:
    """As the dispatcher does it: until it succeeds."""
    for end in ends:
        deadline = time.monotonic() + within_s
        while True:
            try:
                await end.open()
                break
            except BrokerUnavailableError:
                assert time.monotonic() < deadline, "the broker did not come back"
                await asyncio.sleep(0.1)
