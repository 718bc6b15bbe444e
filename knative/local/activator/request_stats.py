"""A Revision's concurrency and request rate, as the activator reports them to the autoscaler each second.

After pkg/activator/handler/concurrency_reporter.go of Knative Serving and pkg/http/stats/request.go of
Knative's networking: the first request to a Revision without recent traffic is reported at once (which is
what scales it from zero) and subtracted from the next report; a second without requests drops the state.
"""

from __future__ import annotations

from knative.local.routing import RevisionKey
from knative.local.stats import RevisionStat


class RequestStats:
    """Requests of one Revision in the present interval, waiting ones included."""

    __slots__ = ("_area", "_changed", "_first", "_in_use", "active", "arrived", "concurrency")

    def __init__(self) -> None:
        self.active = False
        """Whether reports are due."""
        self.concurrency = 0
        """Requests that wait or are in flight."""
        self.arrived = 0
        """Requests that arrived in this interval."""
        self._area = 0.0
        self._in_use = 0.0
        self._changed = 0.0
        self._first = 0

    def enter(self, now: float) -> bool:
        """A request has arrived. True: it is the first one, to be reported at once."""
        if self.active:
            self._advance(now)
            self.concurrency += 1
            self.arrived += 1
            return False
        self.active = True
        self.concurrency += 1
        self.arrived = 1
        self._first = 1
        self._area = self._in_use = 0.0
        self._changed = now
        return True

    def leave(self, now: float) -> None:
        """A request has ended."""
        self._advance(now)
        self.concurrency -= 1

    def report(self, key: RevisionKey, now: float) -> RevisionStat:
        """End the interval. Afterwards `active` is False if it had no request at any time."""
        self._advance(now)
        mean = self._area / self._in_use if self._in_use > 0 else 0.0
        stat = RevisionStat(key, now, max(mean - self._first, 0.0), float(self.arrived - self._first))
        self._area = self._in_use = 0.0
        self.arrived = self._first = 0
        if mean == 0 and not self.concurrency:
            self.active = False
        return stat

    def _advance(self, now: float) -> None:
        passed = now - self._changed
        if passed > 0:
            self._in_use += passed
            self._area += self.concurrency * passed
            self._changed = now
