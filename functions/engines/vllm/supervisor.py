"""Watches a hot replica and does what `supervision` decides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from functions.engines.vllm.client import VllmEngine
from functions.engines.vllm.engine_process import EngineProcess
from functions.engines.vllm.supervision import Action, HotStatus, SupervisionLimits, next_action

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.1


class SupervisedReplica(Protocol):
    """What the supervisor needs of a replica."""

    @property
    def running(self) -> tuple[VllmEngine, EngineProcess] | None:
        """The engine and its process while the replica is hot; else None."""
        ...

    def hot_status(self, engine: VllmEngine) -> HotStatus:
        """What is known of the replica now."""
        ...

    def yield_device(self) -> None:
        """Admit no new request, and lower when the last one has ended."""
        ...

    async def lower_if_idle(self) -> None:
        """Return to the resting warmth, unless a request uses the engine."""
        ...


class Supervisor:
    """A loop over `supervision.next_action`.

    Args:
        replica: what is supervised.
        limits: time limits.
        clock: monotonic seconds.
    """

    def __init__(
        self, replica: SupervisedReplica, limits: SupervisionLimits, clock: Callable[[], float]
    ) -> None:
        self._replica = replica
        self._limits = limits
        self._clock = clock

    async def run(self) -> None:
        """Supervise until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            if (running := self._replica.running) is not None:
                await self._act(*running)

    async def _act(self, engine: VllmEngine, process: EngineProcess) -> None:
        action = next_action(self._replica.hot_status(engine), self._limits, self._clock())
        if action is Action.PROBE:
            await self._probe(engine, process)
        elif action is Action.YIELD_DEVICE:
            self._replica.yield_device()
        elif action is Action.LOWER:
            await self._replica.lower_if_idle()

    async def _probe(self, engine: VllmEngine, process: EngineProcess) -> None:
        before = engine.last_output
        if await engine.answers(self._limits.probe) or engine.last_output != before:
            return  # anything that it sent meanwhile, to the probe or to a request, shows that it works
        in_use = self._replica.hot_status(engine).in_use
        if in_use and process.alive:
            log.error("engine stalled", extra={"engine": process.number, "in_flight": in_use})
            process.kill("the engine stalled")
