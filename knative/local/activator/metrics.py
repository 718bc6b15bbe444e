"""The activator's Prometheus metrics, under Knative's names where Knative has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UntypedMetricFamily,
)

from knative.local.activator.response_counts import BUCKETS_MS
from knative.local.activator.throttler import RevisionThrottler

LABELS = ("namespace_name", "service_name", "revision_name")
CALLERS_SHOWN = 5


class _Collector:
    def __init__(self, throttlers: Iterable[RevisionThrottler], now: float) -> None:
        self._throttlers = throttlers
        self._now = now

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
        start = GaugeMetricFamily(
            "pilotlight_start_seconds",
            "Seconds for which the first request waited for the last start from zero",
            labels=("namespace", "service", "revision"),
        )
        abandoned = CounterMetricFamily(
            "pilotlight_abandoned_requests",
            "Requests whose client gave up while they waited for a start",
            labels=("namespace", "service", "revision"),
        )
        recent = GaugeMetricFamily(
            "pilotlight_recent_requests",
            "Requests of the last five minutes by what was called and by whom, the most frequent ones",
            labels=("namespace", "service", "revision", "method", "path", "user_agent"),
        )
        for throttler in self._throttlers:
            key = throttler.spec.key
            labels = [key.namespace, throttler.spec.service, key.name]
            concurrency.add_metric(labels, throttler.stats.concurrency)
            queued.add_metric(labels, throttler.waiting)
            abandoned.add_metric(labels, throttler.abandoned)
            if throttler.last_start_s is not None:
                start.add_metric(labels, throttler.last_start_s)
            for caller, number in throttler.recent.counts(self._now).most_common(CALLERS_SHOWN):
                recent.add_metric([*labels, *caller], number)
            for status, counts, total_ms in throttler.counts.items():
                with_code = [*labels, str(status), f"{status // 100}xx"]
                count.add_metric(with_code, sum(counts))
                cumulative, buckets = 0, []
                for bound, number in zip((*map(str, BUCKETS_MS), "+Inf"), counts, strict=True):
                    cumulative += number
                    buckets.append((bound, cumulative))
                latency.add_metric(with_code, buckets, total_ms)
        yield from (count, latency, concurrency, queued, start, abandoned, recent)


def render(throttlers: Iterable[RevisionThrottler], now: float) -> str:
    """The metrics of these Revisions in Prometheus' text format; `now` in seconds, monotonic."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(throttlers, now))
    return generate_latest(registry).decode()
