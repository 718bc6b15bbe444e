"""Demand from a Prometheus server that scrapes Knative, by its HTTP API.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp

from warmpool.adapters.metric_names import NAMES, DemandAggregator, Sample
from warmpool.adapters.prometheus_api import PrometheusError, PrometheusServer
from warmpool.domain.object_key import ObjectKey
from warmpool.domain.observation import Demand
from warmpool.ports import DemandUnavailableError

_QUERY: Final = '{__name__=~"' + "|".join(NAMES) + '"}'
_GAUGES: Final = [name for name, (meaning, _) in NAMES.items() if meaning in {"in flight", "average"}]
LOOK_BACK: Final = timedelta(hours=4)
"""How far to look back for the last request at the first reading: as long as a keep-alive can be."""


class Prometheus:
    """Reads one Prometheus server."""

    def __init__(self, server: PrometheusServer) -> None:
        self._server = server
        self._aggregator = DemandAggregator()
        self._seeded = False

    async def read(self, now: datetime) -> Mapping[ObjectKey, Demand]:
        """Demand by Service.

        Raises:
            DemandUnavailableError: the server does not answer, refuses the query, or has none of the metrics.
        """
        try:
            async with self._server.session() as session:
                if not self._seeded:
                    self._aggregator.seed(await self._last_active(session, now))
                    self._seeded = True
                at = f"{now.timestamp():.3f}"
                _, result = await self._server.query(session, "query", {"query": _QUERY, "time": at})
        except PrometheusError as problem:
            raise DemandUnavailableError(str(problem)) from problem
        samples = list(_samples(result))
        if not samples:
            raise DemandUnavailableError(
                f"{self._server.name} has none of Knative's metrics: is Knative scraped?"
            )
        return self._aggregator.demand(samples, now)

    async def _last_active(self, session: aiohttp.ClientSession, now: datetime) -> dict[ObjectKey, datetime]:
        query = '{__name__=~"' + "|".join(_GAUGES) + '"} > 0'
        parameters = {
            "query": query,
            "start": f"{(now - LOOK_BACK).timestamp():.0f}",
            "end": f"{now.timestamp():.0f}",
            "step": "60",
        }
        latest: dict[ObjectKey, datetime] = {}
        _, result = await self._server.query(session, "query_range", parameters)
        for series in result:
            labels = _labels(series)
            key = Sample(labels["__name__"], labels, 1.0).service if labels else None
            at = _last_instant(series)
            if key is not None and at is not None and at <= now:
                latest[key] = max(at, latest.get(key, at))
        return latest


def _samples(result: list[Any]) -> Iterator[Sample]:
    """The samples of an instant vector; a value of another shape is kept as text."""
    for series in result:
        labels = _labels(series)
        if not labels:
            continue
        value: object = series.get("value")
        pair = value if isinstance(value, list) and len(value) == 2 else (None, repr(value))
        try:
            yield Sample(labels["__name__"], labels, float(pair[1]))
        except (TypeError, ValueError):
            yield Sample(labels["__name__"], labels, str(pair[1]))


def _labels(series: Any) -> dict[str, str]:
    """The labels of a series of a known metric; empty for anything else."""
    labels = series.get("metric") if isinstance(series, dict) else None
    if not isinstance(labels, dict) or labels.get("__name__") not in NAMES:
        return {}
    return {name: value for name, value in labels.items() if isinstance(value, str)}


def _last_instant(series: Any) -> datetime | None:
    """The instant of the last value of a range vector's series."""
    try:
        return datetime.fromtimestamp(float(series["values"][-1][0]), UTC)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return None
