"""Concurrency over time, as the activator reports it to the autoscaler each second.

After pkg/activator/handler/concurrency_reporter.go and networking/pkg/http/stats/request.go: the first
request of a Revision that has no state here is reported at once (which is what wakes it from zero) and
taken off the first second's mean; a second of silence drops the state.
"""

from __future__ import annotations

from knative.local.routing import RevisionKey
from knative.local.stats import RevisionStat


class RequestStats:
    """Requests of one Revision, waiting ones included."""

    __slots__ = ("_area", "_changed", "_first", "_in_use", "active", "arrived", "concurrency")

    def __init__(self) -> None:
        self.active = False
        self.concurrency = 0
        self.arrived = 0
        self._area = 0.0
        self._in_use = 0.0
        self._changed = 0.0
        self._first = 0

    def enter(self, now: float) -> bool:
        """A request arrived; True: it is the first one, to be reported at once."""
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
        """A request ended."""
        self._advance(now)
        self.concurrency -= 1

    def report(self, key: RevisionKey, now: float) -> RevisionStat:
        """The mean since the last report. Afterwards `active` is False if there was nothing all the time."""
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
