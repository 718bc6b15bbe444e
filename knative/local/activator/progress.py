"""What the activator tells the client of a stream while a Revision has no replica yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from knative.local.activator.throttler import RevisionThrottler
from knative.local.routing import RevisionKey
from transport.held_stream import OFF, PROGRESS, progress_text
from transport.stream_dialects import Dialect, dialect_of

PROGRESS_S = 2.0
"""Seconds from one comment to the next: well below the idle timeouts of proxies and load balancers."""
PEEKED_BYTES = 256 * 1024
"""Of a longer body it is not known whether it asks for a stream; such a request waits in silence."""


@dataclass(frozen=True, slots=True)
class ProgressComments:
    """How streams that wait for a start speak."""

    every_s: float
    clock: Callable[[], float]
    """Seconds, monotonic."""
    phase: Callable[[RevisionKey], str]
    """What a Revision's first replica is doing."""

    def dialect(self, method: str, raw_path: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Dialect | None:
        """The dialect of the stream that a request may ask for; None if it wants no comments."""
        if any(name == PROGRESS and value.lower() == OFF for name, value in headers):
            return None
        return dialect_of(method, raw_path.decode("latin-1"))

    def text(self, throttler: RevisionThrottler, arrived: float) -> str:
        """A comment's text for a request that arrived at this instant."""
        elapsed = self.clock() - arrived
        return progress_text(self.phase(throttler.spec.key), elapsed, throttler.last_start_s)
