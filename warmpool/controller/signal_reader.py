"""The latest readings of the pools' signals, taken at most twice per interval and never waited for long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Final

from warmpool.domain.pool import WarmPoolSpec
from warmpool.domain.signals import SignalReading
from warmpool.ports import SignalSource

log = logging.getLogger(__name__)

_PATIENCE_S: Final = 1.0
"""How long a pass waits for readings; later ones count in the next pass, and windows open in time."""
_KEPT: Final = 3
"""Intervals for which a reading counts."""
_FIRST: Final = SignalReading(None, "Prometheus has not answered yet")


class SignalReader:
    """Reads a source of signals in the background and keeps the latest reading of each query."""

    def __init__(self, source: SignalSource | None, interval: timedelta) -> None:
        """Without a source no signal has a reading."""
        self._source = source
        self._interval = interval
        self._readings: dict[str, SignalReading] = {}
        self._read_at: dict[str, datetime] = {}
        self._task: asyncio.Task[None] | None = None

    async def read(self, queries: Collection[str], now: datetime) -> None:
        """Read the queries whose reading is not recent; forget those that are not among `queries`."""
        if self._source is None or not (queries or self._readings):
            return
        for query in self._readings.keys() - queries:
            del self._readings[query]
            self._read_at.pop(query, None)
        if self._task is None or self._task.done():
            recent = self._interval / 2
            due = [
                query
                for query in queries
                if (at := self._read_at.get(query)) is None or not at <= now < at + recent
            ]
            if not due:
                return
            self._task = asyncio.create_task(self._refresh(self._source, due, now), name="read signals")
        await asyncio.wait({self._task}, timeout=_PATIENCE_S)
        for query in queries:
            at = self._read_at.get(query)
            if query not in self._readings:
                self._readings[query] = _FIRST
            elif at is not None and now >= at + _KEPT * self._interval:
                self._readings[query] = SignalReading(None, "Prometheus does not answer in time")

    async def _refresh(self, source: SignalSource, queries: list[str], now: datetime) -> None:
        try:
            found = await source.read(queries)
        except Exception as fault:  # a fault in a source must not stop the floors that do not need it
            log.exception("signals cannot be read")
            found = dict.fromkeys(queries, SignalReading(None, f"signals cannot be read: {fault!r}"))
        self._readings |= found
        self._read_at |= dict.fromkeys(found, now)

    def of(self, spec: WarmPoolSpec | None) -> Mapping[str, SignalReading]:
        """Readings of a pool's signals by name; empty without a source."""
        if self._source is None or spec is None or not spec.signals:
            return {}
        return {signal.name: self._readings.get(signal.query, _FIRST) for signal in spec.signals}

    async def close(self) -> None:
        """End the reading that is under way."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
