"""The activator's spans: one for each request, and in it the time for which the request was held."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from knative.local.activator.exchange import Exchange
from knative.local.routing import RevisionSpec
from transport.spans import Spans
from transport.trace_context import TRACEPARENT, continue_trace

SHORTEST_HELD_S = 0.001
"""A request that was held for less found a replica that was free."""


class RequestTrace:
    """One request's place in its trace."""

    def __init__(self, spans: Spans, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._spans = spans
        received = next((value for name, value in headers if name == TRACEPARENT), None)
        self._received = None if received is None else received.decode("latin-1")
        self.traceparent = continue_trace(self._received)

    def ended(self, scope: dict[str, Any], spec: RevisionSpec, exchange: Exchange, arrived: float) -> None:
        """The request, which arrived at that instant, was answered."""
        self._spans.record(
            f"activator {spec.service}",
            traceparent=self.traceparent,
            parent=self._received,
            began=arrived,
            kind="server",
            attributes={
                "http.request.method": scope["method"],
                "http.response.status_code": exchange.status,
                "k8s.namespace.name": spec.key.namespace,
                "kn.service.name": spec.service,
                "kn.revision.name": spec.key.name,
            },
            error=f"status {exchange.status}" if exchange.status >= 500 else None,
        )
        if exchange.held_s >= SHORTEST_HELD_S:
            self._spans.child(
                "queue", parent=self.traceparent, began=arrived, ended=arrived + exchange.held_s
            )
