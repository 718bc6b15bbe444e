"""The spans of a dispatcher: one for each attempt to deliver."""

from __future__ import annotations

from collections.abc import Sequence

from transport.spans import Spans
from transport.trace_context import continue_trace
from triggers.decisions.answers import Outcome, Verdict
from triggers.decisions.cloud_events import Event


class AttemptSpans:
    """Records the attempts of one Trigger.

    Args:
        spans: where they go.
        trigger: NAMESPACE/NAME.
    """

    def __init__(self, spans: Spans, trigger: str) -> None:
        self._spans = spans
        self._trigger = trigger

    def begin(self, parent: str | None) -> str:
        """The `traceparent` of an attempt whose message has that of `parent`."""
        return continue_trace(parent)

    def ended(
        self,
        *,
        traceparent: str,
        parent: str | None,
        events: Sequence[Event],
        outcome: Outcome,
        attempt: int,
        began: float,
    ) -> None:
        """An attempt, which began at an instant of the monotonic clock, has an outcome."""
        delivered = outcome.verdict is Verdict.DELIVERED
        self._spans.record(
            f"process {self._trigger}",
            traceparent=traceparent,
            parent=parent,
            began=began,
            kind="consumer",
            attributes={
                "messaging.batch.message_count": len(events),
                "pilotlight.trigger": self._trigger,
                "pilotlight.attempt": attempt,
                "pilotlight.verdict": str(outcome.verdict),
            },
            error=None if delivered else f"{outcome.reason}: {outcome.detail}",
        )
