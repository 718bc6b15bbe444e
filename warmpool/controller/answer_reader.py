"""What the Revisions of rollouts have answered, read in the background and never waited for long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Final

from warmpool.domain.answers import AnswerCounts, AnswerReading, RolloutWindow
from warmpool.domain.object_key import ObjectKey
from warmpool.domain.proportions import Proportion
from warmpool.domain.rollout import QualityCheck, Rollout
from warmpool.ports import AnswerSource, QualitySource

log = logging.getLogger(__name__)

_PATIENCE_S: Final = 1.0
"""How long a pass waits for readings; later ones count in the next pass."""
_EARLY: Final = timedelta(milliseconds=100)
"""How much before its interval is over a window is read: alarms and clocks are not exact."""


class AnswerReader:
    """Reads a source once in each interval of a rollout, and keeps the latest reading of each Service."""

    def __init__(self, source: AnswerSource | None, quality: QualitySource | None) -> None:
        """Without a source nothing is counted, without `quality` no check is made."""
        self._source = source
        self._quality = quality
        self._readings: dict[ObjectKey, AnswerReading] = {}
        self._asked_at: dict[RolloutWindow, datetime] = {}
        self._tasks: dict[RolloutWindow, asyncio.Task[None]] = {}

    async def read(self, windows: Mapping[RolloutWindow, Rollout], now: datetime) -> None:
        """Read the windows whose reading is not recent; forget those that are over."""
        self._forget(windows)
        if self._source is None:
            return
        for window, plan in windows.items():
            before = self._asked_at.get(window)
            task = self._tasks.get(window)
            if task is not None and not task.done():
                continue
            pause = plan.next_look((before or now) - window.since)
            if before is not None and before <= now < before + pause - _EARLY:
                continue
            self._asked_at[window] = now
            name = f"answers of {window.canary}"
            self._tasks[window] = asyncio.create_task(self._read(self._source, window, plan, now), name=name)
        running = [task for task in self._tasks.values() if not task.done()]
        if running:
            await asyncio.wait(running, timeout=_PATIENCE_S)

    def of(self, service: ObjectKey | None) -> AnswerReading | None:
        """The latest reading of a Service's rollout."""
        return self._readings.get(service) if service is not None else None

    async def close(self) -> None:
        """End the readings that are under way."""
        for task in self._tasks.values():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _forget(self, windows: Collection[RolloutWindow]) -> None:
        over = [window for window in self._asked_at if window not in windows]
        for window in over:
            del self._asked_at[window]
            if (task := self._tasks.pop(window, None)) is not None:
                task.cancel()
            if (reading := self._readings.get(window.service)) is not None and reading.window == window:
                del self._readings[window.service]
        if over and self._source is not None:
            self._source.forget(windows)

    async def _read(self, source: AnswerSource, window: RolloutWindow, plan: Rollout, now: datetime) -> None:
        counts: Mapping[str, AnswerCounts] = {}
        quality: Mapping[str, Proportion] | None = None
        try:
            if window.percent:
                counts, problem = await source.read(window, plan)
            else:
                quality, problem = await self._check(window, plan.quality)
        except Exception as fault:  # a fault in a source must not stop the floors that do not need it
            log.exception("answers of %s/%s cannot be counted", *window.service)
            problem = f"answers cannot be counted: {fault!r}"
        self._readings[window.service] = AnswerReading(window, now, counts, quality, problem)

    async def _check(
        self, window: RolloutWindow, check: QualityCheck | None
    ) -> tuple[Mapping[str, Proportion] | None, str]:
        """Make the check, once; why it could not be made, or nothing."""
        if self._quality is None or check is None:
            return None, "this controller makes no quality checks"
        before = self._readings.get(window.service)
        if before is not None and before.window == window and before.quality is not None:
            return before.quality, ""
        return await self._quality.ask(window, check)
