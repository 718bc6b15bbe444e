"""The latest reading of demand, taken at most twice per interval."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta

from warmpool.domain.object_key import ObjectKey
from warmpool.domain.observation import Demand
from warmpool.ports import DemandSource, DemandUnavailableError, History

log = logging.getLogger(__name__)


class DemandReader:
    """Reads a source of demand and keeps its latest reading."""

    def __init__(self, source: DemandSource | None, history: History, interval: timedelta) -> None:
        """Without a source there is no demand: no request is ever seen."""
        self._source = source
        self._history = history
        self._interval = interval
        self._reading: Mapping[ObjectKey, Demand] | None = {}
        self._read_at: datetime | None = None
        self.error: str | None = None
        """Why demand cannot be read; None: it can."""

    async def read(self, now: datetime) -> None:
        """Take a reading, unless the last one is recent enough."""
        if self._source is None:
            return
        if self._read_at is not None and self._read_at <= now < self._read_at + self._interval / 2:
            return
        self._read_at = now
        try:
            self._reading = await self._source.read(now)
            self.error = None
            self._history.add_demand(now, self._reading)
        except DemandUnavailableError as error:
            self._reading, self.error = None, str(error)
        except Exception as fault:  # a fault in a source must not stop the floors that do not need it
            log.exception("demand cannot be read")
            self._reading, self.error = None, f"demand cannot be read: {fault!r}"

    def of(self, service: ObjectKey | None) -> Demand | None:
        """The demand of a Service; None when it could not be read."""
        if self._reading is None or service is None:
            return None
        return self._reading.get(service, Demand(0.0))
