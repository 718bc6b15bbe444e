"""The metrics of one trigger, and what became of its messages."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from triggers.decisions.answers import Outcome
from triggers.delivery.health import Part
from triggers.delivery.loans import Loan
from triggers.messages import Backlog
from triggers.metrics import TriggerMetrics


class TriggerCounts:
    """Counts what happens to the messages of one Trigger."""

    def __init__(self, namespace: str, name: str, metrics: TriggerMetrics) -> None:
        self._metrics = metrics
        self._labels = (namespace, name)
        self.ended: Counter[str] = Counter()
        """Messages since the start, by what became of them."""
        parts: tuple[Part, ...] = ("source", "target", "deadLetter", "reply")
        for part in parts:
            metrics.up.labels(*self._labels, part).set(1)

    def part_changed(self, part: Part, works: bool) -> None:  # noqa: FBT001 - a callback of Health
        """A part failed, or works again."""
        self._metrics.up.labels(*self._labels, part).set(1 if works else 0)
        if not works:
            self._metrics.errors.labels(*self._labels, part).inc()

    def lost(self, count: int) -> None:
        """The broker took messages back before they were settled."""
        self._metrics.lost_loans.labels(*self._labels).inc(count)

    def settled(self, outcome: str) -> None:
        """This became of a message."""
        self.ended[outcome] += 1
        self._metrics.settled.labels(*self._labels, outcome).inc()

    def request(self, outcome: Outcome, seconds: float) -> None:
        """A request ended."""
        self._metrics.requests.labels(*self._labels, outcome.verdict.value, outcome.reason).inc()
        self._metrics.request_seconds.labels(*self._labels).observe(seconds)

    def first(self, loan: Loan) -> None:
        """A message is sent for the first time."""
        if loan.message.enqueued is not None and loan.message.attempt in {None, 1}:
            age = datetime.now(UTC) - loan.message.enqueued
            self._metrics.queue_seconds.labels(*self._labels).observe(max(0.0, age.total_seconds()))

    def received(self, count: int) -> None:
        """Messages were taken from the queue."""
        self._metrics.received.labels(*self._labels).inc(count)

    def duplicate(self) -> None:
        """A message came that is done already."""
        self._metrics.duplicates.labels(*self._labels).inc()

    def woke(self) -> None:
        """A Service is woken ahead."""
        self._metrics.wakes.labels(*self._labels).inc()

    def show(
        self, backlog: Backlog, *, service: str, queue: str, in_hand: int, in_flight: int, limit: int
    ) -> None:
        """How it stands now."""
        namespace, name = self._labels
        labels = (namespace, service, queue, name)
        if backlog.messages is not None:
            self._metrics.waiting.labels(*self._labels).set(backlog.messages)
            if service:  # demand of a Service, for the warm-pool controller
                self._metrics.backlog.labels(*labels).set(backlog.messages)
        self._metrics.oldest_age.labels(*labels).set(backlog.oldest_age_s or 0.0)
        self._metrics.in_hand.labels(*self._labels).set(in_hand)
        self._metrics.in_flight.labels(*self._labels).set(in_flight)
        self._metrics.limit.labels(*self._labels).set(limit)
