"""Learns where the time of each cold start went, beside the control loop: no floor waits for it.

What it learns are words for people and no ground for a decision, so it is asked once for each start and
forgotten if it does not come.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import replace
from datetime import timedelta
from typing import Final

from warmpool.adapters.clock import Clock
from warmpool.domain.cold_start import ColdStart
from warmpool.ports import History, PhaseSource
from warmpool.reconcile.views import Key

log = logging.getLogger(__name__)

_SIDE_BY_SIDE: Final = 4
_WAITING: Final = 1000
"""How many starts may wait to be asked about; of more at once the oldest go without."""
_UNSEEN: Final = timedelta(seconds=30)
"""How long a replica may have run before the controller saw that it was wanted."""


class PhaseCollector:
    """Asks for the phases of each start that it hears of, and has the history remember them."""

    def __init__(self, source: PhaseSource, history: History, clock: Clock) -> None:
        """`history` knows each start already."""
        self._source = source
        self._history = history
        self._clock = clock
        self._waiting: deque[tuple[Key, ColdStart]] = deque(maxlen=_WAITING)
        self._working: set[asyncio.Task[None]] = set()

    def enqueue(self, service: Key, start: ColdStart) -> None:
        """Note a start that is over, to be asked about soon. Needs a running event loop."""
        self._waiting.append((service, start))
        if len(self._working) < _SIDE_BY_SIDE:
            task = asyncio.create_task(self._work(), name="phases of cold starts")
            self._working.add(task)
            task.add_done_callback(self._working.discard)

    async def close(self) -> None:
        """Proposal no more."""
        self._waiting.clear()
        working = tuple(self._working)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    async def _work(self) -> None:
        while self._waiting:
            service, start = self._waiting.popleft()
            within = self._clock.now() - start.started + _UNSEEN
            try:
                phases = await self._source.phases(service, within)
            except Exception:  # a fault of the source costs a few words, not the next Service's
                log.exception("the phases of a start of %s/%s cannot be read", *service)
                continue
            if phases:
                self._history.add_phases(service, replace(start, phases=phases))
