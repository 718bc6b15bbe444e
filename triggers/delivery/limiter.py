"""Slots for requests, as many as the target can take now."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from triggers.decisions.answers import Verdict
from triggers.decisions.concurrency import ConcurrencyLimit


class Limiter:
    """Slots in the order in which they were asked for; their number follows the answers."""

    def __init__(self, maximum: int) -> None:
        self._limit = ConcurrencyLimit.start(maximum)
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """Requests that may be under way."""
        return self._limit.requests

    @property
    def in_flight(self) -> int:
        """Slots that are taken."""
        return self._taken

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it."""
        if self._taken >= self.limit or self._waiting:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._leave()
                raise
        else:
            self._taken += 1
        try:
            yield
        finally:
            self._leave()

    def observe(self, verdict: Verdict, seconds: float | None, now: float) -> None:
        """Adapt to an answer whose slot is still held."""
        self._limit = self._limit.after(verdict, seconds=seconds, in_flight=self._taken, now=now)
        self._admit()

    def _leave(self) -> None:
        self._taken -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._taken < self.limit:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._taken += 1
                waiter.set_result(None)
