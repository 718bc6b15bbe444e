"""The requests at one engine: those that use it, and those that wait until it can take them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from functions.engines.vllm.client import VllmEngine
from functions.stage import RequestContext


class RequestGate:
    """Counts requests, and holds those that have to wait.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = asyncio.Event()
        """Replaced, and the old one set, whenever waiting requests should look again."""
        self.in_use = 0
        """Requests that use the engine."""
        self.waiting = 0
        """Requests that wait for it."""
        self.last_used = clock()
        """Instant at which a request last began to use the engine, or ended."""
        self.on_use: Callable[[int], None] = lambda _: None
        """Called with the number of requests that use the engine whenever one is added."""

    def enter(self, engine: VllmEngine) -> None:
        """A request uses the engine from now on."""
        self.in_use += 1
        self.last_used = self._clock()
        self.on_use(self.in_use)
        engine.enter()

    def leave(self, engine: VllmEngine) -> None:
        """A request uses the engine no longer."""
        engine.leave()
        self.in_use -= 1
        self.last_used = self._clock()

    async def wait(self, context: RequestContext, find: Callable[[], VllmEngine | None]) -> VllmEngine:
        """Wait until there is an engine.

        Args:
            context: the request's.
            find: returns the engine if it can take a request now; called again after each `notify`. What it
                raises ends the wait.

        Raises:
            TimeoutError: the request's deadline has passed.
        """
        began = self._clock()
        self.waiting += 1
        try:
            async with asyncio.timeout(context.remaining()):
                while (engine := find()) is None:
                    await self._changed.wait()
        finally:
            self.waiting -= 1
        context.record("held", self._clock() - began)
        return engine

    def notify(self) -> None:
        """Let all waiting requests look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
