"""How Knative, old and new, and this project name the metrics that demand is read from.

Old names (OpenCensus, before 1.19) and new (OpenTelemetry, dots as underscores):
https://knative.dev/docs/serving/observability/metrics/serving-metrics
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from warmpool.domain.object_key import ObjectKey
from warmpool.domain.observation import Demand

Meaning = Literal["in flight", "average", "count at the door", "count at the replica", "backlog"]

_OLD: Final = ("namespace_name", "service_name")
_NEW: Final = ("k8s_namespace_name", "kn_service_name")
_OURS: Final = ("namespace", "service")

NAMES: Final[Mapping[str, tuple[Meaning, tuple[str, str]]]] = {
    "activator_request_concurrency": ("in flight", _OLD),
    "kn_revision_request_concurrency": ("in flight", _NEW),
    "autoscaler_stable_request_concurrency": ("average", _OLD),
    "kn_revision_concurrency_stable": ("average", _NEW),
    "activator_request_count": ("count at the door", _OLD),
    "activator_request_count_total": ("count at the door", _OLD),
    "revision_request_count": ("count at the replica", _OLD),
    "revision_app_request_count": ("count at the replica", _OLD),
    "kn_serving_invocation_duration_seconds_count": ("count at the replica", _NEW),
    "pilotlight_queue_backlog": ("backlog", _OURS),
}
"""Metric -> what it means, and its labels for namespace and Service."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series."""

    name: str
    labels: Mapping[str, str]
    value: float


class Tally:
    """Adds samples up by Service, and sees arrivals as counters that grew between two readings."""

    def __init__(self) -> None:
        self._counted: dict[ObjectKey, float] = {}
        self._read = False
        self._last_active: dict[ObjectKey, datetime] = {}

    def seed(self, last_active: Mapping[ObjectKey, datetime]) -> None:
        """Take over what is known of requests before the first reading."""
        self._last_active |= last_active

    def demand(self, samples: Iterable[Sample], now: datetime) -> dict[ObjectKey, Demand]:
        """The demand of every Service that the samples name."""
        sums: defaultdict[ObjectKey, defaultdict[Meaning, float]] = defaultdict(lambda: defaultdict(float))
        for sample in samples:
            meaning, (namespace, service) = NAMES[sample.name]
            key = (sample.labels.get(namespace, ""), sample.labels.get(service, ""))
            if all(key) and not math.isnan(sample.value):
                sums[key][meaning] += sample.value
        found: dict[ObjectKey, Demand] = {}
        for key, values in sums.items():
            counted = max(values["count at the door"], values["count at the replica"])
            arrivals = self._arrivals(key, counted)
            concurrency = values["in flight"] if "in flight" in values else values["average"]
            if concurrency > 0 or arrivals > 0:
                self._last_active[key] = now
            backlog = int(values["backlog"]) if "backlog" in values else None
            found[key] = Demand(concurrency, self._last_active.get(key), backlog, arrivals)
        for key, last in self._last_active.items():
            found.setdefault(key, Demand(0.0, last, arrivals=0.0))
        self._read = True
        return found

    def _arrivals(self, key: ObjectKey, counted: float) -> float:
        before = self._counted.get(key)
        self._counted[key] = counted
        if before is None:
            # A counter that was not there at the last reading counts from zero; at the first, nobody knows
            # since when.
            return counted if self._read else 0.0
        return counted - before if counted >= before else counted  # one that fell has begun anew
