"""The spans of a stage: its requests, and its cold starts with their phases."""

from functions.stage import RequestContext
from functions.timing import ColdStartTiming
from transport.spans import Spans
from transport.trace_context import continue_trace


class ColdStartSpans:
    """Records each cold start as a trace of its own, for many requests may wait for one, or none."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    def __call__(self, cold_start: ColdStartTiming) -> None:
        """A cold start is complete."""
        if cold_start.hot_at is None or cold_start.total is None:
            return
        own = continue_trace(None)
        self._spans.record(
            "cold start",
            traceparent=own,
            parent=None,
            began=cold_start.hot_at - cold_start.total,
            ended=cold_start.hot_at,
            attributes={"pilotlight.warmth": cold_start.warmth},
        )
        _record_phases(self._spans, own, cold_start)


def record_request(
    spans: Spans, context: RequestContext, received: str | None, *, method: str, path: str, code: int
) -> None:
    """A request was answered. The cold start that it waited for is shown in its trace as well."""
    spans.record(
        f"{method} {path}" if path in _NAMED else method,
        traceparent=context.traceparent,
        parent=received,
        began=context.arrived,
        kind="server",
        attributes={
            "http.request.method": method,
            "url.path": path,
            "http.response.status_code": code,
            "pilotlight.warmth": context.warmth,
            "pilotlight.request_id": context.request_id,
        },
        error=f"status {code}" if code >= 500 else None,
    )
    paid = context.cold_start
    if paid is not None and paid.hot_at is not None and paid.total is not None:
        waited = spans.child(
            "wait for cold start",
            parent=context.traceparent,
            began=paid.hot_at - paid.total,
            ended=paid.hot_at,
            attributes={"pilotlight.warmth": paid.warmth},
        )
        _record_phases(spans, waited, paid)


def _record_phases(spans: Spans, parent: str, cold_start: ColdStartTiming) -> None:
    for phase, began, ended in cold_start.intervals:
        spans.child(phase.value, parent=parent, began=began, ended=ended)


_NAMED = frozenset({"/invoke", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"})
"""Paths that are few; what clients make up is an attribute only."""
