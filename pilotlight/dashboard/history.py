"""The last hour of each Service, and recent starts (no clock: every instant is given)."""

from array import array
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isnan, nan
from typing import Any

from knative.labels import READY_AT_ANNOTATION, SCHEDULED_AT_ANNOTATION, SERVICE_LABEL
from pilotlight.metric_samples import Key, Sample
from pilotlight.service_readings import Rates, ServiceReading

COLUMNS = ("at", "floor", "ready", "demand", "requests", "ttft", "tokens")
"""Unix seconds; replicas; replicas; replicas; 1/s; s; 1/s."""
SPAN_S = 3600.0
SPACING_S = 5.0
_WIDTH = len(COLUMNS)
_STARTS_KEPT = 500


class History:
    """Points of every Service, `SPACING_S` apart; of a run of equal points only the ends are kept."""

    def __init__(self) -> None:
        self._rows: dict[str, array[float]] = {}
        self._last = float("-inf")

    def add(self, at: float, services: Mapping[str, ServiceReading], rates: Mapping[str, Rates]) -> None:
        """Take a reading of all Services; one that comes sooner than `SPACING_S` after the last is left out.

        Args:
            at: Unix seconds.
            services: the readings, by `NAMESPACE/NAME`.
            rates: since the reading before, by the same.
        """
        if at - self._last < SPACING_S:
            return
        self._last = at
        for name in self._rows.keys() - services.keys():
            del self._rows[name]
        for name, reading in services.items():
            rows = self._rows.setdefault(name, array("d"))
            rate = rates.get(name, Rates())
            values = [
                float(reading.floor),
                float(reading.replicas_ready),
                *(_number(x) for x in (reading.demand, rate.requests_per_s, rate.ttft_s, rate.tokens_per_s)),
            ]
            if len(rows) >= 2 * _WIDTH and _same(rows, -1, values) and _same(rows, -2, values):
                rows[-_WIDTH] = at
            else:
                rows.extend([at, *values])
            while len(rows) >= 2 * _WIDTH and rows[_WIDTH] < at - SPAN_S:
                del rows[:_WIDTH]

    def points(self, name: str) -> list[list[float | None]]:
        """The rows of a Service, oldest first, as `COLUMNS`; None is unknown."""
        rows = self._rows.get(name, array("d"))
        return [
            [None if isnan(value) else round(value, 3) for value in rows[start : start + _WIDTH]]
            for start in range(0, len(rows), _WIDTH)
        ]


def _number(value: float | None) -> float:
    return nan if value is None else value


def _same(rows: "array[float]", index: int, values: list[float]) -> bool:
    start = len(rows) + index * _WIDTH + 1
    kept = rows[start : start + _WIDTH - 1]
    return all(a == b or (isnan(a) and isnan(b)) for a, b in zip(kept, values, strict=True))


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a replica."""

    service: str
    pod: str
    ready_at: datetime
    seconds: float
    phases: Mapping[str, float]
    """Seconds of each phase, where the replica tells them."""


class RecentStarts:
    """The latest starts of all Services, which outlive their replicas."""

    def __init__(self) -> None:
        self._starts: dict[str, Start] = {}
        self._order: deque[str] = deque()

    def add(self, pods: Iterable[Mapping[str, Any]], replicas: Mapping[Key, Iterable[Sample]]) -> None:
        """Take what is known of the replicas that are there.

        Args:
            pods: Pod objects.
            replicas: samples of their own metrics, by namespace and name.
        """
        for pod in pods:
            uid = str(pod["metadata"].get("uid", ""))
            known = self._starts.get(uid)
            if known is not None and known.phases:
                continue
            meta = pod["metadata"]
            start = _start(pod, replicas.get((meta["namespace"], meta["name"]), ()))
            if start is None:
                continue
            if known is None:
                self._order.append(uid)
                if len(self._order) > _STARTS_KEPT:
                    self._starts.pop(self._order.popleft(), None)
            self._starts[uid] = start

    def of(self, service: str, count: int = 10) -> list[Start]:
        """The latest starts of a Service, `NAMESPACE/NAME`, newest first."""
        found = [start for start in self._starts.values() if start.service == service]
        return sorted(found, key=lambda start: start.ready_at, reverse=True)[:count]


def _start(pod: Mapping[str, Any], samples: Iterable[Sample]) -> Start | None:
    meta = pod["metadata"]
    service = (meta.get("labels") or {}).get(SERVICE_LABEL)
    times = _instants(pod)
    if not service or times is None:
        return None
    sums: dict[str, float] = {}
    for name, labels, value in samples:
        if name == "pilotlight_cold_start_seconds_sum" and labels.get("warmth") == "cold":
            sums[labels.get("phase", "")] = value
    sums.pop("total", None)
    seconds = (times[1] - times[0]).total_seconds()
    return Start(f"{meta['namespace']}/{service}", meta["name"], times[1], seconds, sums)


def _instants(pod: Mapping[str, Any]) -> tuple[datetime, datetime] | None:
    """When it was scheduled and ready: the local platform's instants, or Kubernetes' in whole seconds."""
    annotations = pod["metadata"].get("annotations") or {}
    conditions = {item["type"]: item for item in pod.get("status", {}).get("conditions", ())}
    ready, scheduled = conditions.get("Ready", {}), conditions.get("PodScheduled", {})
    if ready.get("status") != "True":
        return None
    begin = annotations.get(SCHEDULED_AT_ANNOTATION) or scheduled.get("lastTransitionTime")
    end = annotations.get(READY_AT_ANNOTATION) or ready.get("lastTransitionTime")
    try:
        return datetime.fromisoformat(str(begin)), datetime.fromisoformat(str(end))
    except ValueError:
        return None
