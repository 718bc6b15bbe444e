"""What a person does with the queues of a Trigger: send a message, look at dead letters, replay them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from triggers.decisions import dead_letters
from triggers.decisions.dead_letters import DeadLetter
from triggers.messages import Message, OutgoingMessage
from triggers.sources.base import Destination, Source
from triggers.sources.factory import make_destination, make_source
from triggers.sources.settings import BrokerSettings
from triggers.spec.brokers import QueueRef
from triggers.spec.trigger import TriggerSpec

_WAIT_S: Final = 1.0
_LEASE_S: Final = 120.0
"""For how long a replay keeps dead letters that it does not replay from others."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did.

    Attributes:
        replayed: ids of the dead letters that are in their queue again.
        missing: ids that were asked for and are not there.
    """

    replayed: tuple[str, ...]
    missing: tuple[str, ...]


def settings_for(key: str, embedded_sqs: str | None) -> BrokerSettings:
    """How a person's command connects. `key`: `NAMESPACE/NAME` of the Trigger."""
    return BrokerSettings(consumer=key, lease_s=_LEASE_S, embedded_sqs=embedded_sqs)


async def send(
    spec: TriggerSpec,
    settings: BrokerSettings,
    body: bytes,
    attributes: Mapping[str, str],
    group: str | None,
) -> str:
    """Publish a message to the Trigger's queue; the id it is published under."""
    unique = uuid.uuid4().hex
    async with _destination(spec.source, settings) as destination:
        await destination.publish(OutgoingMessage(unique, body, attributes, group))
    return unique


async def browse(queue: QueueRef, settings: BrokerSettings, limit: int) -> list[DeadLetter]:
    """The dead letters that wait, the oldest first; they stay."""
    async with _source(queue, settings) as source:
        return [dead_letters.read(message) for message in await source.browse(limit)]


async def take_reply(spec: TriggerSpec, settings: BrokerSettings) -> Message:
    """Take the first message that comes to the Trigger's reply queue; waits for ever.

    Raises:
        ValueError: the Trigger has no reply.
    """
    if spec.reply is None:
        raise ValueError("the Trigger has no reply")
    async with _source(spec.reply, settings) as source:
        while not (messages := await source.receive(1, _WAIT_S)):
            pass
        await source.acknowledge(messages)
        return messages[0]


async def replay(
    spec: TriggerSpec,
    dead_letter: QueueRef,
    settings: BrokerSettings,
    ids: Collection[str] | None,
    on_replayed: Callable[[str], None] = lambda _: None,
) -> Replayed:
    """Publish dead letters to the Trigger's queue again, and then remove each from the dead-letter queue.

    Args:
        spec: of the Trigger.
        dead_letter: its dead-letter queue.
        settings: how to connect.
        ids: of the messages; None: all that are there now.
        on_replayed: told of each.
    """
    began = datetime.now(UTC)
    wanted = None if ids is None else set(ids)
    done: list[str] = []
    kept: list[Message] = []
    async with _source(dead_letter, settings) as source, _destination(spec.source, settings) as destination:
        try:
            while wanted is None or wanted:
                messages = await source.receive(source.limits.batch, _WAIT_S)
                if not messages:
                    break
                for message in messages:
                    if message.id in done or message.id in {one.id for one in kept}:
                        kept.append(message)
                    elif (wanted is None and not _is_newer(message, began)) or (
                        wanted is not None and message.id in wanted
                    ):
                        await destination.publish(dead_letters.replayed(message, uuid.uuid4().hex[:12]))
                        await source.acknowledge([message])
                        done.append(message.id)
                        on_replayed(message.id)
                        if wanted is not None:
                            wanted.discard(message.id)
                    else:
                        kept.append(message)
                if wanted is None and any(_is_newer(message, began) for message in messages):
                    break  # what failed again meanwhile is for another time
        finally:
            if kept:
                await source.release(kept)
    return Replayed(tuple(done), tuple(sorted(wanted or ())))


def _is_newer(message: Message, instant: datetime) -> bool:
    return message.enqueued is not None and message.enqueued > instant


@asynccontextmanager
async def _source(queue: QueueRef, settings: BrokerSettings) -> AsyncIterator[Source]:
    source = make_source(queue, settings)
    try:
        await source.open()
        yield source
    finally:
        await source.close()


@asynccontextmanager
async def _destination(queue: QueueRef, settings: BrokerSettings) -> AsyncIterator[Destination]:
    destination = make_destination(queue, settings)
    try:
        await destination.open()
        yield destination
    finally:
        await destination.close()
