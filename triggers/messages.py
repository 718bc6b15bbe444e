"""What queues hold, as values (pure): messages as a broker delivers them, and messages to publish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Message:
    """One delivery of a message.

    Attributes:
        id: the same for every delivery of the message, also to another process and after a restart.
        body: as the publisher sent it.
        attributes: the broker's headers, message attributes or properties as texts, with the names that the
            publisher gave them; `content-type` in lower case wherever the broker has a field for it.
        attempt: which delivery this is, counted by the broker: 1 is the first. None: the broker does not say.
        enqueued: when the broker took the message (UTC).
        group: messages of one group are delivered in order, one after another. None: there is no order.
        receipt: what the source needs to settle this delivery; of no meaning to others.
    """

    id: str
    body: bytes
    attributes: Mapping[str, str] = field(default_factory=dict)
    attempt: int | None = None
    enqueued: datetime | None = None
    group: str | None = None
    receipt: object = field(default=None, compare=False, repr=False)

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body)


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to publish: a reply, a dead letter, or one that a user sends.

    Attributes:
        id: names the event. A broker that removes duplicates does it by this id, so that a publication that
            is repeated after a lost answer adds nothing.
        body: any bytes; a broker that takes only text gets base64, with `content-encoding: base64`.
        attributes: names of letters, digits, `-`, `_` and `.`; `content-type` goes into a field of its own
            where the broker has one.
        group: messages of one group keep their order where the broker offers that.
    """

    id: str
    body: bytes
    attributes: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in a queue.

    Attributes:
        messages: those waiting, without those that a consumer holds. None: the broker does not say.
        oldest_age_s: seconds since the oldest of them was published. None: unknown, or nothing waits.
    """

    messages: int | None = None
    oldest_age_s: float | None = None
