"""Dead letters: the message as it came, with the reason and the attempts as attributes; and back (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from triggers.decisions.cloud_events import EVENT_ID
from triggers.decisions.retries import Attempt
from triggers.messages import Message, OutgoingMessage

REASON: Final = "pilotlight-reason"
RESPONSE: Final = "pilotlight-response"
HISTORY: Final = "pilotlight-history"
ORIGIN: Final = "pilotlight-origin"
_OWN: Final = frozenset({REASON, RESPONSE, HISTORY, ORIGIN})


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as it is read back; None where the message has no such attribute."""

    message: Message
    reason: str | None
    response: str | None
    trigger: str | None
    attempts: int | None
    history: tuple[Mapping[str, Any], ...]


def dead_letter(
    message: Message,
    *,
    event_id: str,
    trigger: str,
    source: str,
    reason: str,
    attempts: int,
    history: Sequence[Attempt],
    at: datetime,
) -> OutgoingMessage:
    """The message to publish.

    Args:
        message: as it came from the queue.
        event_id: of the event it was sent as, which a replay keeps.
        trigger: `NAMESPACE/NAME`.
        source: the address of the queue.
        reason: why it is given up.
        attempts: deliveries that were made.
        history: those that this process knows of; after a restart the earlier ones are only counted.
        at: now.
    """
    origin = {
        "trigger": trigger,
        "source": source,
        "eventId": event_id,
        "group": message.group,
        "attempts": attempts,
        "enqueued": None if message.enqueued is None else message.enqueued.isoformat(),
        "deadLettered": at.isoformat(),
    }
    past = [
        {"at": one.at.isoformat(), "attempt": one.number, "reason": one.reason, "detail": one.detail[:200]}
        for one in history
    ]
    attributes = {name: value for name, value in message.attributes.items() if name not in _OWN}
    attributes[REASON] = reason
    attributes[ORIGIN] = json.dumps(origin)
    if history and history[-1].detail:
        attributes[RESPONSE] = history[-1].detail
    if past:
        attributes[HISTORY] = json.dumps(past)
    # By the message, not by the event: a broker that removes duplicates by this id must not take the dead
    # letter of a replayed message for that of the first one.
    return OutgoingMessage(f"{message.id}-dead", message.body, attributes, message.group)


def shortened(letter: OutgoingMessage) -> OutgoingMessage:
    """Without response and history, where a broker refuses the whole as too large."""
    attributes = {name: value for name, value in letter.attributes.items() if name not in {RESPONSE, HISTORY}}
    return OutgoingMessage(letter.id, letter.body, attributes, letter.group)


def read(message: Message) -> DeadLetter:
    """A dead letter from a message of the dead-letter queue."""
    origin = _json(message.attributes.get(ORIGIN))
    origin = origin if isinstance(origin, dict) else {}
    history = _json(message.attributes.get(HISTORY))
    attempts = origin.get("attempts")
    trigger = origin.get("trigger")
    return DeadLetter(
        message=message,
        reason=message.attributes.get(REASON),
        response=message.attributes.get(RESPONSE),
        trigger=trigger if isinstance(trigger, str) else None,
        attempts=attempts if isinstance(attempts, int) else None,
        history=tuple(one for one in history if isinstance(one, dict)) if isinstance(history, list) else (),
    )


def replayed(message: Message, unique: str) -> OutgoingMessage:
    """The message to publish to its queue again; its event keeps its id.

    Args:
        message: a dead letter.
        unique: differs for every replay, lest a broker takes it for a duplicate of the first publication.
    """
    origin = _json(message.attributes.get(ORIGIN))
    origin = origin if isinstance(origin, dict) else {}
    attributes = {name: value for name, value in message.attributes.items() if name not in _OWN}
    event_id = origin.get("eventId")
    if isinstance(event_id, str) and not any(name.lower() in {"ce-id", "ce_id"} for name in attributes):
        attributes[EVENT_ID] = event_id
    group = origin.get("group")
    group = group if isinstance(group, str) else message.group
    return OutgoingMessage(f"{event_id or message.id}-replay-{unique}", message.body, attributes, group)


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None
