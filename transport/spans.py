"""Spans for OpenTelemetry, exported by OTLP over HTTP in a thread of their own.

A span is recorded when it has ended, from its `traceparent` and its parent's: this project's servers carry
those themselves. Nothing of OpenTelemetry is imported unless an endpoint is set. Which variables the exporter
reads is OpenTelemetry's (https://opentelemetry.io/docs/specs/otel/protocol/exporter/).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from transport.trace_context import continue_trace, is_valid

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import SpanContext

log = logging.getLogger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
QUEUE_LIMIT = 2048
"""Spans that wait for their export; further ones are dropped and counted."""
CLOSE_S = 3.0
"""Seconds for the last export when a process ends."""

Kind = Literal["internal", "server", "client", "consumer"]
Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class SpanCounts:
    """Spans since the process began, by what became of them."""

    exported: int
    dropped: int
    """The queue was full."""
    failed: int
    """The receiver did not take them."""


class SpanQueue:
    """Ended spans on their way to a receiver.

    Args:
        exporter: sends them, in the thread of OpenTelemetry's batch processor.
        limit: of spans that wait.
        delay_s: for how long spans are gathered.
    """

    def __init__(self, exporter: SpanExporter, *, limit: int = QUEUE_LIMIT, delay_s: float = 1.0) -> None:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - only with an endpoint

        self._exporter = exporter
        self._lock = threading.Lock()
        self._limit = limit
        self._waiting = self._exported = self._dropped = self._failed = 0
        self._processor = BatchSpanProcessor(
            self,  # type: ignore[arg-type]  # an exporter by its methods
            max_queue_size=limit,
            schedule_delay_millis=delay_s * 1000,
            max_export_batch_size=min(512, limit),
        )

    @property
    def counts(self) -> SpanCounts:
        """What became of the spans."""
        with self._lock:
            return SpanCounts(self._exported, self._dropped, self._failed)

    def put(self, span: ReadableSpan) -> None:
        """Export it soon, if its trace is sampled; never waits."""
        if not span.context.trace_flags.sampled:
            return
        with self._lock:
            if self._waiting >= self._limit:
                self._dropped += 1
                return
            self._waiting += 1
        self._processor.on_end(span)

    def close(self) -> None:
        """Export what waits, within `CLOSE_S`. Blocks: not for an event loop's thread."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_S)

    # an exporter for the batch processor

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send and count a batch."""
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415

        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            with self._lock:
                self._waiting -= len(spans)
                if result is SpanExportResult.SUCCESS:
                    self._exported += len(spans)
                else:
                    self._failed += len(spans)
        return result

    def shutdown(self) -> None:
        """The batch processor ends."""
        self._exporter.shutdown()


class Spans:
    """Records the spans of one service.

    Args:
        queue: where they go.
        service: OpenTelemetry's `service.name`.
        attributes: of the service, beside those of `OTEL_RESOURCE_ATTRIBUTES`.
        clock: the clock of the instants that are given, in seconds.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        queue: SpanQueue,
        service: str,
        attributes: Mapping[str, Value] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

        self.queue = queue
        self._resource = Resource.create({"service.name": service, **(attributes or {})})
        self._scope = InstrumentationScope("pilotlight")
        self._clock = clock
        self._wall = wall

    def record(
        self,
        name: str,
        *,
        traceparent: str,
        parent: str | None,
        began: float,
        ended: float | None = None,
        kind: Kind = "internal",
        attributes: Mapping[str, Value] | None = None,
        error: str | None = None,
        link: str | None = None,
    ) -> None:
        """A span has ended.

        Args:
            name: of few different values.
            traceparent: its own, as it was handed on.
            parent: that of the span around it; None or one that is not valid: it is the first.
            began: an instant of the clock.
            ended: the same; None: now.
            kind: OpenTelemetry's.
            attributes: of the span.
            error: why it failed; None: it did not.
            link: the `traceparent` of a span of another trace that it has to do with.
        """
        from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415
        from opentelemetry.trace import Link, SpanKind, Status, StatusCode  # noqa: PLC0415

        offset = self._wall() - self._clock()
        status = Status(StatusCode.UNSET) if error is None else Status(StatusCode.ERROR, error)
        self.queue.put(
            ReadableSpan(
                name,
                context=_context(traceparent),
                parent=_context(parent, remote=True) if parent is not None and is_valid(parent) else None,
                resource=self._resource,
                attributes=attributes,
                links=() if link is None else (Link(_context(link)),),
                kind=SpanKind[kind.upper()],
                status=status,
                start_time=int((began + offset) * 1e9),
                end_time=int(((self._clock() if ended is None else ended) + offset) * 1e9),
                instrumentation_scope=self._scope,
            )
        )

    def child(
        self,
        name: str,
        *,
        parent: str,
        began: float,
        ended: float | None = None,
        attributes: Mapping[str, Value] | None = None,
        link: str | None = None,
    ) -> str:
        """A part of the span `parent` has ended; its own `traceparent`."""
        own = continue_trace(parent)
        self.record(
            name,
            traceparent=own,
            parent=parent,
            began=began,
            ended=ended,
            attributes=attributes,
            link=link,
        )
        return own


def open_queue(environment: Mapping[str, str]) -> SpanQueue | None:
    """A queue to the receiver that an environment names; None: it names none, or `OTEL_SDK_DISABLED`."""
    base = environment.get(ENDPOINT)
    endpoint = environment.get(TRACES_ENDPOINT) or (base and f"{base.rstrip('/')}/v1/traces")
    if not endpoint or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    except ImportError:
        log.warning("%s is set, but there is no exporter: pip install 'pilotlight[otel]'", ENDPOINT)
        return None
    return SpanQueue(OTLPSpanExporter(endpoint=endpoint))


def _context(traceparent: str, *, remote: bool = False) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415

    _, trace, span, flags = traceparent.strip().split("-")[:4]
    sampled = TraceFlags(int(flags, 16))
    return SpanContext(int(trace, 16), int(span, 16), is_remote=remote, trace_flags=sampled)
