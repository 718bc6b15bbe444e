"""Who has called a Service lately: what keeps it from scaling to zero, for `pilotlight status`."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple

PERIOD_S = 60.0
PERIODS = 5
"""Requests are counted for the last so many periods, the present one included."""
MAX_CALLERS = 20
"""Kinds of requests distinguished in one period; the others are counted together."""
_LONGEST = 80


class Caller(NamedTuple):
    """One kind of requests."""

    method: str
    path: str
    """Without the query, shortened."""
    user_agent: str
    """Its first product, such as `Prometheus/3.1`; empty if the client sent none."""


OTHERS = Caller("", "", "")


class RecentRequests:
    """Counts of one Revision's requests by caller, period by period.

    Args:
        now: seconds, monotonic.
    """

    __slots__ = ("_begun", "_periods")

    def __init__(self, now: float) -> None:
        self._begun = now
        self._periods: deque[Counter[Caller]] = deque([Counter()], maxlen=PERIODS)

    def add(self, caller: Caller, now: float) -> None:
        """Count a request."""
        self._advance(now)
        counts = self._periods[-1]
        counts[caller if caller in counts or len(counts) < MAX_CALLERS else OTHERS] += 1

    def counts(self, now: float) -> Counter[Caller]:
        """Requests by caller in the last `PERIODS` periods."""
        self._advance(now)
        return sum(self._periods, Counter())

    def _advance(self, now: float) -> None:
        passed = int((now - self._begun) // PERIOD_S)
        if passed > 0:
            self._begun += passed * PERIOD_S
            self._periods.extend(Counter() for _ in range(min(passed, PERIODS)))


def caller_of(method: str, path: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
    """The kind of a request; `path` is the one that the replica gets."""
    for name, value in headers:
        if name == b"user-agent":
            return Caller(method, _shortened(path), _shortened(value.partition(b" ")[0]))
    return Caller(method, _shortened(path), "")


def _shortened(text: bytes) -> str:
    return text[:_LONGEST].decode("latin-1")
