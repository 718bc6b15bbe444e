"""How many requests the target can take at the same time, found by trying (pure).

Additive increase, multiplicative decrease: an answer of 429 halves the limit, a target that nobody reaches
sets it to one, an answer that takes more than `TOLERANCE` times as long as usual lowers it by a tenth, and
every success while the limit is in use raises it by `1 / limit`, so that a round of answers adds one. A
request that waited for a cold start says nothing of load and is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from triggers.decisions.answers import Verdict

TOLERANCE: Final = 2.0
_USUAL: Final = 0.02
"""Weight of one answer in the usual latency: some fifty answers back."""
_SETTLE_S: Final = 1.0
"""Least seconds from one decrease to the next: answers to requests of before tell nothing new."""


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """The limit and what it was found by."""

    maximum: int
    limit: float
    usual_s: float | None = None
    """The usual seconds of an answer; None before the first."""
    lowered_at: float | None = None

    @classmethod
    def start(cls, maximum: int) -> ConcurrencyLimit:
        """Begin with what the Trigger allows."""
        return cls(maximum, float(maximum))

    @property
    def requests(self) -> int:
        """Requests that may be under way."""
        return max(1, int(self.limit))

    def after(
        self, verdict: Verdict, *, seconds: float | None, in_flight: int, now: float
    ) -> ConcurrencyLimit:
        """The limit after one answer.

        Args:
            verdict: of the answer.
            seconds: that it took; None: it waited for a cold start, or its time says nothing.
            in_flight: requests under way when it came, itself included.
            now: seconds on any steady clock.
        """
        settled = self.lowered_at is None or now - self.lowered_at >= _SETTLE_S
        if verdict in {Verdict.THROTTLED, Verdict.UNREACHABLE}:
            if not settled:
                return self
            factor = 0.5 if verdict is Verdict.THROTTLED else 0.0
            return replace(self, limit=max(1.0, self.limit * factor), lowered_at=now)
        if seconds is None or verdict is Verdict.FAILED:
            return self
        usual = seconds if self.usual_s is None else self.usual_s
        slow = seconds > TOLERANCE * usual
        usual += _USUAL * (min(seconds, TOLERANCE * usual) - usual)
        if slow and in_flight > 1:
            limit = max(1.0, self.limit * 0.9) if settled else self.limit
            return replace(self, limit=limit, usual_s=usual, lowered_at=now if settled else self.lowered_at)
        used = in_flight >= self.requests / 2
        limit = min(float(self.maximum), self.limit + 1 / self.limit) if used else self.limit
        return replace(self, limit=limit, usual_s=usual)
