"""Messages that the queue has lent: they are kept from others until they are settled.

A settlement that the broker cannot take now is repeated until it does; meanwhile the loan is prolonged, as
it is while a request is held.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from triggers.delivery.health import Health
from triggers.messages import Message
from triggers.sources.base import (
    BrokerError,
    BrokerMisconfiguredError,
    BrokerUnavailableError,
    Source,
)

_FIRST_WAIT_S: Final = 0.2
_LONGEST_WAIT_S: Final = 30.0


@dataclass(eq=False, slots=True)
class Loan:
    """One delivery in hand."""

    message: Message
    taken_at: float = field(default_factory=time.monotonic)
    sent: bool = False
    """A request with it was sent."""


def pauses(first_s: float = _FIRST_WAIT_S, longest_s: float = _LONGEST_WAIT_S) -> Iterator[float]:
    """Ever longer waits, with jitter."""
    wait = first_s
    while True:
        yield wait * random.uniform(0.5, 1.0)  # noqa: S311 - spreads attempts, guards nothing
        wait = min(longest_s, wait * 2)


class Loans:
    """The deliveries in hand of one source."""

    def __init__(self, source: Source, health: Health, lost: Callable[[int], None]) -> None:
        """`lost` is called with a number of loans that the broker took back before they were settled."""
        self._source = source
        self._health = health
        self._lost = lost
        self._held: set[Loan] = set()
        self._freed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def held(self) -> Collection[Loan]:
        """Those that are not settled."""
        return self._held

    def add(self, message: Message) -> Loan:
        """A message that was received."""
        loan = Loan(message)
        self._held.add(loan)
        return loan

    async def changed(self) -> None:
        """Wait until one is settled."""
        self._freed.clear()
        await self._freed.wait()

    async def acknowledge(self, loans: Sequence[Loan]) -> Sequence[Message]:
        """Done with them; returns those that come again, because the broker had taken them back."""
        stale: Sequence[Message] = ()

        async def call() -> None:
            nonlocal stale
            stale = await self._source.acknowledge([loan.message for loan in loans])

        await self._settle(loans, call)
        if stale:
            self._lost(len(stale))
        return stale

    async def retry(self, loan: Loan, delay_s: float) -> None:
        """Give it back for a time after an attempt."""
        longest = self._source.limits.retry_delay_s
        wait = delay_s if longest is None else min(longest, delay_s)
        await self._settle([loan], lambda: self._source.retry(loan.message, wait))

    async def release(self, loans: Sequence[Loan]) -> None:
        """Give them back untried."""
        if loans:
            await self._settle(loans, lambda: self._source.release([loan.message for loan in loans]))

    async def _settle(self, loans: Sequence[Loan], call: Callable[[], Awaitable[None]]) -> None:
        try:
            for pause in pauses():
                try:
                    await call()
                    break
                except BrokerUnavailableError as error:
                    self._health.fails("source", "Unavailable", str(error))
                except BrokerMisconfiguredError as error:
                    self._health.fails("source", "Misconfigured", str(error))
                except BrokerError:
                    self._lost(len(loans))  # nothing that waiting mends: the broker has taken them back
                    break
                await asyncio.sleep(pause)
        finally:
            # Also when cancelled: a loan that nobody prolongs comes back by itself.
            self._held.difference_update(loans)
            self._freed.set()

    async def keep(self) -> None:
        """Prolong all loans before they end, for ever."""
        while True:
            lease_s = self._source.limits.lease_s
            if lease_s is None:
                await asyncio.sleep(_LONGEST_WAIT_S)
                continue
            step = lease_s / 6
            await asyncio.sleep(step)
            now = time.monotonic()
            # A younger loan has most of its time left, and most are settled by then.
            due = [loan.message for loan in self._held if now - loan.taken_at >= step]
            if not due:
                continue
            try:
                await self._source.extend(due, lease_s)
            except BrokerError as error:
                self._health.fails("source", "Unavailable", str(error))
