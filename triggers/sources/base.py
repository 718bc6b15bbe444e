"""What the dispatcher needs of a broker: sources that lend messages, destinations that take them.

A delivery is lent until it is settled by exactly one of `acknowledge`, `retry` and `release`. Where the
loan has an end (`Limits.lease_s`), the dispatcher prolongs it with `extend` while a request is held. A
delivery that is never settled, because the process was killed, comes back by itself.

All methods raise `BrokerUnavailableError` when the broker cannot be reached or refuses for now: the
caller waits and tries again. They raise `BrokerMisconfiguredError` for what only a change of the Trigger,
the queue or the credentials can mend. Every text names the queue and fits one line; none has a credential
in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from triggers.messages import Backlog, Message, OutgoingMessage


class BrokerError(Exception):
    """Something went wrong between the dispatcher and a broker."""


class BrokerUnavailableError(BrokerError):
    """The broker cannot be reached, or refuses for now; the same call may succeed later."""


class BrokerMisconfiguredError(BrokerError):
    """The queue is missing or of another kind, or the credentials are refused: waiting does not help."""


class MessageRefusedError(BrokerError):
    """The destination will never take this message: it is too large, or has what the broker cannot hold."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a source can do.

    Attributes:
        batch: messages of one `receive` at most.
        lease_s: seconds after which a delivery that is not settled comes back, unless `extend` was called.
            None: it is lent for as long as the connection lives, and `extend` has nothing to do.
        retry_delay_s: longest delay of `retry`; longer ones are cut to it. None: no limit.
        ordered: messages with a group keep their order: while one of a group is lent or waits for its retry,
            the source lends no later one of that group, except those of the same `receive`.
    """

    batch: int
    lease_s: float | None = None
    retry_delay_s: float | None = None
    ordered: bool = False


class Source(Protocol):
    """A queue as its consumer sees it. Methods may run at the same time as each other."""

    @property
    def address(self) -> str:
        """A URI reference of the queue without credentials: the `source` attribute of its CloudEvents."""
        ...

    @property
    def limits(self) -> Limits:
        """Known after `open`."""
        ...

    async def open(self) -> None:
        """Connect, and check that the queue is there. May be called again after an error."""
        ...

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        """Borrow up to `limit` messages, those of a group in their order.

        Waits up to `wait_s` for the first one; an empty list when none came. When cancelled, messages that
        the broker had handed out already are released.
        """
        ...

    async def acknowledge(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Remove messages that are done. Returns those that the broker no longer lent us: they come again."""
        ...

    async def retry(self, message: Message, delay_s: float) -> None:
        """Give a message back after a failed attempt, to be delivered after `delay_s` to whoever asks then.

        `attempt` of that delivery is greater by one also when every process was restarted in between. In an
        ordered source the later messages of its group wait.
        """
        ...

    async def release(self, messages: Sequence[Message]) -> None:
        """Give messages back that were not tried, to be delivered at once and in their old order.

        A broker that cannot help it counts this as an attempt.
        """
        ...

    async def extend(self, messages: Sequence[Message], seconds: float) -> None:
        """Prolong the loan: the messages do not come back before `seconds` from now have passed."""
        ...

    async def backlog(self) -> Backlog:
        """What waits in the queue."""
        ...

    async def browse(self, limit: int) -> list[Message]:
        """Up to `limit` waiting messages, the oldest first, which stay where they are.

        A broker without such a read lends them for a moment, and may count that as an attempt.
        """
        ...

    async def close(self) -> None:
        """End the connection; deliveries that are not settled come back. May be called twice."""
        ...


class Destination(Protocol):
    """A queue or topic as its publisher sees it."""

    @property
    def address(self) -> str:
        """A URI reference of the queue without credentials."""
        ...

    async def open(self) -> None:
        """Connect, and check that the queue is there. May be called again after an error."""
        ...

    async def publish(self, message: OutgoingMessage) -> None:
        """Return when the broker has the message for certain.

        Raises:
            MessageRefusedError: it never will.
        """
        ...

    async def close(self) -> None:
        """End the connection. May be called twice."""
        ...
