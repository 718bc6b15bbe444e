"""What became of the spans, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from transport.spans import SpanQueue


class SpanMetrics(Collector):
    """A collector over one queue."""

    def __init__(self, queue: SpanQueue) -> None:
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        """`pilotlight_spans_total` by outcome."""
        counts = self._queue.counts
        family = CounterMetricFamily(
            "pilotlight_spans", "Spans by what became of them: exported, dropped, failed", labels=("outcome",)
        )
        for outcome in ("exported", "dropped", "failed"):
            family.add_metric([outcome], getattr(counts, outcome))
        yield family
