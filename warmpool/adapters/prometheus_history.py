"""A Service's demand in the past, minute by minute, from a Prometheus server's range queries."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from warmpool.adapters.history_tables import DemandMinute
from warmpool.adapters.metric_names import MAX_VALUE, NAMES, Meaning
from warmpool.adapters.prometheus_api import PrometheusServer
from warmpool.domain.object_key import ObjectKey

_CHUNK: Final = timedelta(days=7)
"""Prometheus returns at most 11,000 points of a series."""
_MINUTE_S: Final = 60
_COUNTERS: Final[tuple[Meaning, ...]] = ("activator count", "replica count")
_GAUGES: Final[tuple[Meaning, ...]] = ("in flight", "average")
_ESCAPED: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})

Series = dict[int, float]
"""Values by minute since the epoch."""


async def read_minutes(
    server: PrometheusServer, service: ObjectKey, since: datetime, until: datetime
) -> list[DemandMinute]:
    """The minutes with demand, oldest first.

    Arrivals are the growth of the request counters of the activator or of the replicas, whichever saw more;
    requests in flight are what the activator or the autoscaler reports.

    Raises:
        PrometheusError: the server does not answer, or refuses the query.
    """
    query = " or ".join(_selectors(service))
    series: defaultdict[tuple[str, ...], Series] = defaultdict(dict)
    async with server.session() as session:
        begin = since
        while begin < until:
            end = min(begin + _CHUNK, until)
            given = {
                "query": query,
                "start": f"{math.ceil(begin.timestamp() / _MINUTE_S) * _MINUTE_S}",
                "end": f"{end.timestamp():.0f}",
                "step": str(_MINUTE_S),
            }
            _, result = await server.query(session, "query_range", given)
            for entry in result:
                key, values = _series(entry)
                series[key] |= values
            begin = end
    return _minutes(series)


def _selectors(service: ObjectKey) -> Iterator[str]:
    """One selector for each pair of labels that names the Service."""
    wanted = {name: labels for name, (meaning, labels) in NAMES.items() if meaning in {*_COUNTERS, *_GAUGES}}
    for pair in dict.fromkeys(wanted.values()):
        names = "|".join(name for name, labels in wanted.items() if labels == pair)
        values = ",".join(
            f'{label}="{value.translate(_ESCAPED)}"' for label, value in zip(pair, service, strict=True)
        )
        yield f'{{__name__=~"{names}",{values}}}'


def _series(entry: Any) -> tuple[tuple[str, ...], Series]:
    """The metric's name and labels, and the values by minute; what is not a plausible number is left out."""
    labels = entry.get("metric") if isinstance(entry, dict) else None
    if not isinstance(labels, dict) or labels.get("__name__") not in NAMES:
        return (), {}
    found: Series = {}
    for instant, text in entry.get("values") or ():
        value = float(text)
        if 0 <= value <= MAX_VALUE:
            found[int(float(instant)) // _MINUTE_S] = value
    key = (labels["__name__"], *(f"{name}={labels[name]}" for name in sorted(labels)))
    return key, found


def _minutes(series: dict[tuple[str, ...], Series]) -> list[DemandMinute]:
    totals: defaultdict[Meaning, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
    first = min((min(values) for values in series.values() if values), default=0)
    for key, values in series.items():
        if not key or not values:
            continue
        meaning = NAMES[key[0]][0]
        for minute, value in _growth(values, first) if meaning in _COUNTERS else values.items():
            totals[meaning][minute] += value
    arrivals = max((totals[name] for name in _COUNTERS), key=lambda counts: sum(counts.values()))
    in_flight = max((totals[name] for name in _GAUGES), key=lambda counts: sum(counts.values()))
    return [
        DemandMinute(
            at=datetime.fromtimestamp(minute * _MINUTE_S, UTC),
            concurrency=in_flight.get(minute, 0.0),
            peak=in_flight.get(minute, 0.0),
            arrivals=arrivals.get(minute, 0.0),
            backlog=None,
        )
        for minute in sorted({*arrivals, *in_flight})
        if in_flight.get(minute) or arrivals.get(minute)
    ]


def _growth(values: Series, first: int) -> Iterator[tuple[int, float]]:
    """What a counter grew by until each minute, which is said of the minute before.

    One that falls began anew. One that appears after the first minute began at zero then.
    """
    before: float | None = None
    for minute in sorted(values):
        value = values[minute]
        if before is None:
            grown = value if minute > first else 0.0
        else:
            grown = value - before if value >= before else value
        before = value
        if grown:
            yield minute - 1, grown
