"""The metrics that demand is read from, and how samples of them become demand.

Knative's names before 1.19 (OpenCensus) and since (OpenTelemetry, with dots as underscores):
https://knative.dev/docs/serving/observability/metrics/serving-metrics
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from warmpool.domain.object_key import ObjectKey
from warmpool.domain.observation import Demand

log = logging.getLogger(__name__)

Meaning = Literal["in flight", "average", "activator count", "replica count", "backlog"]

_OPENCENSUS: Final = ("namespace_name", "service_name")
_OPENTELEMETRY: Final = ("k8s_namespace_name", "kn_service_name")
_PILOTLIGHT: Final = ("namespace", "service")

NAMES: Final[Mapping[str, tuple[Meaning, tuple[str, str]]]] = {
    "activator_request_concurrency": ("in flight", _OPENCENSUS),
    "kn_revision_request_concurrency": ("in flight", _OPENTELEMETRY),
    "autoscaler_stable_request_concurrency": ("average", _OPENCENSUS),
    "kn_revision_concurrency_stable": ("average", _OPENTELEMETRY),
    "activator_request_count": ("activator count", _OPENCENSUS),
    "activator_request_count_total": ("activator count", _OPENCENSUS),
    "revision_request_count": ("replica count", _OPENCENSUS),
    "revision_app_request_count": ("replica count", _OPENCENSUS),
    "kn_serving_invocation_duration_seconds_count": ("replica count", _OPENTELEMETRY),
    "pilotlight_queue_backlog": ("backlog", _PILOTLIGHT),
}
"""Metric -> what it means, and its labels for namespace and Service."""

MAX_VALUE: Final = 1e12
"""The highest value of a metric that is believed. Infinity, NaN and negative values are not either."""
_MAX_SHOWN: Final = 40
"""Characters of an unreadable value that the status repeats."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series; not a number if the source sent something else."""

    name: str
    labels: Mapping[str, str]
    value: float | str

    @property
    def service(self) -> ObjectKey | None:
        """The Service that it is about; None when the labels do not say."""
        _, (namespace, service) = NAMES[self.name]
        key = (self.labels.get(namespace, ""), self.labels.get(service, ""))
        return key if all(key) else None

    @property
    def readable(self) -> float | None:
        """Its value; None when that is not a plausible number."""
        if isinstance(self.value, str) or not 0 <= self.value <= MAX_VALUE:
            return None
        return self.value

    def __str__(self) -> str:
        shown = self.value if isinstance(self.value, str) else f"{self.value:g}"
        return f"{self.name} = {shown[:_MAX_SHOWN]}, must be a number from 0 to {MAX_VALUE:g}"


@dataclass(slots=True)
class _Totals:
    sums: defaultdict[Meaning, float] = field(default_factory=lambda: defaultdict(float))
    unreadable: dict[Meaning, str] = field(default_factory=dict)


class DemandAggregator:
    """Adds samples up by Service, and finds arrivals in the growth of counters between two readings."""

    def __init__(self) -> None:
        """Begin without a reading."""
        self._counts: dict[ObjectKey, float] = {}
        self._has_read = False
        self._last_active: dict[ObjectKey, datetime] = {}
        self._warned: set[str] = set()

    def seed(self, last_active: Mapping[ObjectKey, datetime]) -> None:
        """Take over when each Service had its last request before the first reading."""
        self._last_active |= last_active

    def demand(self, samples: Iterable[Sample], now: datetime) -> dict[ObjectKey, Demand]:
        """The demand of every Service that a sample names.

        A sample that cannot be read is left out; the Service's demand names it.
        """
        totals: defaultdict[ObjectKey, _Totals] = defaultdict(_Totals)
        for sample in samples:
            key, value = sample.service, sample.readable
            if key is None:
                self._warn_without_service(sample)
            elif value is None:
                totals[key].unreadable[NAMES[sample.name][0]] = str(sample)
            else:
                totals[key].sums[NAMES[sample.name][0]] += value
        found = {key: self._of_service(key, total, now) for key, total in totals.items()}
        for key, last in self._last_active.items():
            found.setdefault(key, Demand(0.0, last, arrivals=0.0))
        self._has_read = True
        return found

    def _of_service(self, key: ObjectKey, totals: _Totals, now: datetime) -> Demand:
        sums, unreadable = totals.sums, totals.unreadable
        arrivals = self._arrivals(key, max(sums["activator count"], sums["replica count"]))
        meaning: Meaning = "in flight" if "in flight" in sums or "in flight" in unreadable else "average"
        concurrency = None if meaning in unreadable and meaning not in sums else sums[meaning]
        if concurrency or arrivals:
            self._last_active[key] = now
        return Demand(
            concurrency,
            self._last_active.get(key),
            int(sums["backlog"]) if "backlog" in sums else None,
            arrivals,
            unreadable_backlog=unreadable.get("backlog"),
            unreadable_concurrency=unreadable.get(meaning),
            unreadable_arrivals=unreadable.get("activator count") or unreadable.get("replica count"),
        )

    def _arrivals(self, key: ObjectKey, count: float) -> float:
        before = self._counts.get(key)
        self._counts[key] = count
        if before is None:
            # A counter that was not there at the last reading has begun at zero since. At the first reading,
            # it may have counted for weeks.
            return count if self._has_read else 0.0
        return count - before if count >= before else count  # a counter that fell began anew

    def _warn_without_service(self, sample: Sample) -> None:
        if sample.name not in self._warned:
            self._warned.add(sample.name)
            log.warning("a series of %s does not name a namespace and a Service: it is ignored", sample.name)
