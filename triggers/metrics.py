"""Metrics of dispatchers, all in one registry; every series has the Trigger's namespace and name."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LABELS: Final = ("namespace", "trigger")
_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class TriggerMetrics:
    """The metrics of all dispatchers of a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.backlog = Gauge(
            "pilotlight_queue_backlog",
            "Messages that wait for the Service. The warm-pool controller reads it as demand.",
            ("namespace", "service", "queue", "trigger"),
            registry=registry,
        )
        self.waiting = self._gauge("backlog", "Messages that wait, as far as the broker says.")
        self.oldest_age = Gauge(
            "pilotlight_queue_oldest_message_age_seconds",
            "Age of the oldest message that waits.",
            ("namespace", "service", "queue", "trigger"),
            registry=registry,
        )
        self.received = self._counter("received", "Deliveries taken from the queue.")
        self.settled = Counter(
            "pilotlight_trigger_messages_settled",
            "Deliveries by what became of them.",
            (*_LABELS, "outcome"),
            registry=registry,
        )
        self.requests = Counter(
            "pilotlight_trigger_requests",
            "Requests to the target by verdict, and reason of those that failed.",
            (*_LABELS, "verdict", "reason"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "pilotlight_trigger_request_seconds",
            "Seconds from a request to its whole answer.",
            _LABELS,
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "pilotlight_trigger_queue_seconds",
            "Seconds from publication to the first request.",
            _LABELS,
            buckets=_SECONDS,
            registry=registry,
        )
        self.duplicates = self._counter("duplicates", "Deliveries of messages that were done already.")
        self.lost_loans = self._counter(
            "lost_loans", "Messages that the broker took back before they were settled: they come again."
        )
        self.errors = Counter(
            "pilotlight_trigger_errors",
            "Errors by part: source, target, deadLetter, reply.",
            (*_LABELS, "part"),
            registry=registry,
        )
        self.wakes = self._counter("wakes", "Requests that woke a Service ahead.")
        self.in_flight = self._gauge("requests_in_flight", "Requests under way.")
        self.in_hand = self._gauge("messages_in_hand", "Messages borrowed from the queue.")
        self.limit = self._gauge("concurrency_limit", "Requests that may be under way.")
        self.up = Gauge(
            "pilotlight_trigger_up",
            "1 while the part works, 0 from an error to the next success.",
            (*_LABELS, "part"),
            registry=registry,
        )

    def forget(self, namespace: str, trigger: str) -> None:
        """Remove the gauges of a Trigger that is no more; counters stay, as Prometheus expects."""
        for gauge in (
            self.in_flight,
            self.in_hand,
            self.limit,
            self.backlog,
            self.waiting,
            self.oldest_age,
            self.up,
        ):
            gauge.remove_by_labels({"namespace": namespace, "trigger": trigger})

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"pilotlight_trigger_{name}", text, _LABELS, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"pilotlight_trigger_{name}", text, _LABELS, registry=self.registry)
