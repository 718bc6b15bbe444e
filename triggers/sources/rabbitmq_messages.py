"""Messages of RabbitMQ from and to this package's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aio_pika import DeliveryMode
from aio_pika import Message as AmqpMessage
from aio_pika.abc import AbstractIncomingMessage

from triggers.messages import Message, OutgoingMessage

ATTEMPTS: Final = "x-pilotlight-attempts"
"""Header with the attempts that were made before the message was published once more, for its retry."""
_INTERNAL: Final = re.compile(
    r"x-death|x-(first|last)-death-.*|x-delivery-count|x-acquired-count|x-pilotlight-.*"
)
_PROPERTIES: Final = ("content_type", "content_encoding", "correlation_id", "reply_to", "type", "app_id")
_SHORTEST_MS: Final = 128


def from_amqp(raw: AbstractIncomingMessage, own_id: str, group: str | None) -> Message:
    """A delivery as a message; `own_id` names one whose publisher gave it no id."""
    properties = {name: getattr(raw, name) for name in _PROPERTIES}
    attributes = {
        name: _text(value) for name, value in raw.headers.items() if _INTERNAL.fullmatch(name) is None
    }
    attributes |= {name.replace("_", "-"): str(value) for name, value in properties.items() if value}
    return Message(
        id=raw.message_id or own_id,
        body=raw.body,
        attributes=attributes,
        attempt=1 + attempts_before(raw),
        enqueued=None if raw.timestamp is None else _utc(raw.timestamp),
        group=group,
        receipt=raw,
    )


def attempts_before(raw: AbstractIncomingMessage) -> int:
    """Deliveries before this one: those of earlier publications, and what the broker counted of this one.

    A quorum queue counts deliveries; a classic queue only says that there was one before.
    """
    counted = raw.headers.get("x-delivery-count")
    since = counted if isinstance(counted, int) else int(bool(raw.redelivered))
    earlier = raw.headers.get(ATTEMPTS)
    return since + (earlier if isinstance(earlier, int) else 0)


def to_amqp(message: OutgoingMessage) -> AmqpMessage:
    """A persistent message; attributes become headers."""
    headers: dict[str, Any] = dict(message.attributes)
    content_type = headers.pop("content-type", None)
    content_encoding = headers.pop("content-encoding", None)
    return AmqpMessage(
        message.body,
        headers=headers,
        content_type=content_type,
        content_encoding=content_encoding,
        message_id=message.id,
        timestamp=datetime.now(UTC),
        delivery_mode=DeliveryMode.PERSISTENT,
    )


def again(raw: AbstractIncomingMessage, message: Message, delay_ms: int) -> AmqpMessage:
    """The same message for its next attempt, to be delivered after `delay_ms`."""
    return _copy(raw, message.id, message.attempt or 1, delay_ms)


def unchanged(raw: AbstractIncomingMessage) -> AmqpMessage:
    """The same message, as if this delivery had not been."""
    earlier = attempts_before(raw)
    return _copy(raw, raw.message_id, earlier, 0)


def _copy(raw: AbstractIncomingMessage, message_id: str | None, attempts: int, delay_ms: int) -> AmqpMessage:
    kept = {name: value for name, value in raw.headers.items() if _INTERNAL.fullmatch(name) is None}
    return AmqpMessage(
        raw.body,
        headers={**kept, ATTEMPTS: attempts},
        content_type=raw.content_type,
        content_encoding=raw.content_encoding,
        priority=raw.priority,
        correlation_id=raw.correlation_id,
        reply_to=raw.reply_to,
        expiration=timedelta(milliseconds=delay_ms) if delay_ms else None,
        message_id=message_id,
        timestamp=raw.timestamp,
        type=raw.type,
        app_id=raw.app_id,
        delivery_mode=DeliveryMode.PERSISTENT,
    )


def retry_queue(queue: str, delay_ms: int) -> tuple[str, Mapping[str, Any]]:
    """Name and arguments of the queue in which messages wait for so long.

    Messages leave a queue in the order in which they came, so that one with a long delay holds up those
    behind it. Each queue has the delays from one power of two to the next: none takes more than the double.
    """
    level_ms = max(_SHORTEST_MS, 1 << (delay_ms.bit_length() - 1))
    return f"{queue}.retry.{level_ms}ms", {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
        # The broker removes a message from here only when the other queue has it for certain.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes | bytearray) else str(value)


def _utc(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
