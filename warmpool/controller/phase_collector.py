"""Reads the phases of each cold start beside the control loop, so that no floor waits for them.

Phases are shown to people and decide nothing: they are asked for once per start, and left out if there is no
answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import replace
from datetime import timedelta
from typing import Final

from warmpool.domain.cold_start import ColdStart
from warmpool.domain.object_key import ObjectKey
from warmpool.ports import Clock, History, PhaseSource

log = logging.getLogger(__name__)

_WORKERS: Final = 4
_QUEUED: Final = 1000
"""Starts that may wait for a worker; of more at once the oldest are dropped."""
_UNNOTICED: Final = timedelta(seconds=30)
"""How long a replica may have run before the controller noticed its start."""


class PhaseCollector:
    """Asks for the phases of each start that is enqueued, and adds them to the history."""

    def __init__(self, source: PhaseSource, history: History, clock: Clock) -> None:
        """`history` has each start already."""
        self._source = source
        self._history = history
        self._clock = clock
        self._queue: deque[tuple[ObjectKey, ColdStart]] = deque(maxlen=_QUEUED)
        self._workers: set[asyncio.Task[None]] = set()

    def enqueue(self, service: ObjectKey, start: ColdStart) -> None:
        """Note a start that is over, to be asked about soon. Needs a running event loop."""
        self._queue.append((service, start))
        if len(self._workers) < _WORKERS:
            task = asyncio.create_task(self._work(), name="phases of cold starts")
            self._workers.add(task)
            task.add_done_callback(self._workers.discard)

    async def close(self) -> None:
        """Cancel what is under way and drop what waits."""
        self._queue.clear()
        workers = tuple(self._workers)
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self) -> None:
        while self._queue:
            service, start = self._queue.popleft()
            within = self._clock.now() - start.started + _UNNOTICED
            try:
                phases = await self._source.phases(service, within)
            except Exception:  # a fault of the source must not cost the next Service's phases
                log.exception("the phases of a start of %s/%s cannot be read", *service)
                continue
            if phases:
                self._history.add_phases(service, replace(start, phases=phases))
