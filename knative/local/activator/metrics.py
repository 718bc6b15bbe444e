"""What the activator counts, in Prometheus form under Knative's names."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric, UntypedMetricFamily

if TYPE_CHECKING:
    from knative.local.activator.throttle import Revision

BUCKETS_MS = (
    5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 150.0, 200.0, 250.0, 300.0, 350.0, 400.0, 450.0, 500.0, 600.0,
    700.0, 800.0, 900.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 50000.0, 100000.0,
)  # fmt: skip
LABELS = ("namespace_name", "service_name", "revision_name")


class Counts:
    """One Revision's answers, by status."""

    __slots__ = ("_latencies", "_sums")

    def __init__(self) -> None:
        self._latencies: dict[int, list[int]] = {}
        self._sums: dict[int, float] = {}

    def add(self, status: int, seconds: float) -> None:
        """Count one answer and how long it took to its end."""
        milliseconds = seconds * 1000.0
        counts = self._latencies.get(status)
        if counts is None:
            counts = self._latencies[status] = [0] * (len(BUCKETS_MS) + 1)
            self._sums[status] = 0.0
        counts[bisect_left(BUCKETS_MS, milliseconds)] += 1
        self._sums[status] += milliseconds

    def items(self) -> Iterator[tuple[int, list[int], float]]:
        """Status, count per bucket, sum in milliseconds."""
        for status, counts in self._latencies.items():
            yield status, counts, self._sums[status]


class _Collector:
    def __init__(self, revisions: Iterable[Revision]) -> None:
        self._revisions = revisions

    def collect(self) -> Iterator[Metric]:
        answered = (*LABELS, "response_code", "response_code_class")
        # Not a CounterMetricFamily, which would add `_total` to Knative's name.
        count = UntypedMetricFamily(
            "activator_request_count", "The number of requests that are routed to Activator", labels=answered
        )
        latency = HistogramMetricFamily(
            "activator_request_latencies",
            "The response time in milliseconds for requests routed to Activator",
            labels=answered,
        )
        concurrency = GaugeMetricFamily(
            "activator_request_concurrency",
            "Concurrent requests that are routed to Activator, waiting ones included",
            labels=LABELS,
        )
        queued = GaugeMetricFamily(
            "activator_request_queued", "Requests that wait in Activator for a replica", labels=LABELS
        )
        for revision in self._revisions:
            key = revision.spec.key
            labels = [key.namespace, revision.spec.service, key.name]
            concurrency.add_metric(labels, revision.stats.concurrency)
            queued.add_metric(labels, revision.waiting)
            for status, counts, total in revision.counts.items():
                with_code = [*labels, str(status), f"{status // 100}xx"]
                count.add_metric(with_code, sum(counts))
                running, buckets = 0, []
                for bound, number in zip((*map(str, BUCKETS_MS), "+Inf"), counts, strict=True):
                    running += number
                    buckets.append((bound, running))
                latency.add_metric(with_code, buckets, total)
        yield from (count, latency, concurrency, queued)


def render(revisions: Iterable[Revision]) -> str:
    """The Prometheus text of these Revisions."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(revisions))
    return generate_latest(registry).decode()
