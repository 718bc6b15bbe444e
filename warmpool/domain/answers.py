"""What a Revision's replicas answered within a span of time: counts, and histograms of latency and length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from warmpool.domain.object_key import ObjectKey
from warmpool.domain.proportions import Proportion


@dataclass(frozen=True, slots=True)
class Histogram:
    """Cumulative counts by upper bound, rising, the last bound infinite, as Prometheus has them."""

    buckets: tuple[tuple[float, int], ...]

    @property
    def total(self) -> int:
        """Observations."""
        return self.buckets[-1][1] if self.buckets else 0

    def quantile(self, q: float) -> float:
        """The quantile, linear within its bucket; the last finite bound where it lies above that."""
        rank, below, count = q * self.total, 0.0, 0
        for bound, cumulative in self.buckets:
            if cumulative >= rank and cumulative > count:
                if math.isinf(bound):
                    return below
                return below + (bound - below) * (rank - count) / (cumulative - count)
            below, count = bound if not math.isinf(bound) else below, cumulative
        return below

    def bound_from(self, value: float) -> float:
        """The lowest finite bound at or above a value; the highest finite one if there is none."""
        finite = [bound for bound, _ in self.buckets if not math.isinf(bound)]
        return next((bound for bound in finite if bound >= value), finite[-1] if finite else 0.0)

    def middle(self) -> float:
        """The finite bound that comes closest to dividing the observations in halves."""
        finite = [(abs(2 * count - self.total), bound) for bound, count in self.buckets if bound < math.inf]
        return min(finite, default=(0, 0.0))[1]

    def above(self, bound: float) -> Proportion:
        """Observations above one of its bounds."""
        within = max((count for edge, count in self.buckets if edge <= bound), default=0)
        return Proportion(self.total - within, self.total)


@dataclass(frozen=True, slots=True)
class AnswerCounts:
    """Of one Revision since a rollout's step began; None: its replicas do not tell."""

    answers: int = 0
    errors: int = 0
    """Of them, with a status of 500 or above."""
    refusals: Proportion | None = None
    ttft: Histogram | None = None
    """Seconds to the first token, by answer."""
    itl: Histogram | None = None
    """Seconds between tokens, by gap."""
    tokens: Histogram | None = None
    """Tokens by answer."""


@dataclass(frozen=True, slots=True)
class RolloutWindow:
    """One step of a rollout, during which both Revisions are compared."""

    service: ObjectKey
    stable: str
    canary: str
    percent: int
    since: datetime


@dataclass(frozen=True, slots=True)
class AnswerReading:
    """What both Revisions answered in a window, up to an instant."""

    window: RolloutWindow
    at: datetime
    counts: Mapping[str, AnswerCounts]
    """By Revision name."""
    quality: Mapping[str, Proportion] | None = None
    """Answers that were not as expected, by Revision name; None: there is no check, or not yet."""
    problem: str = ""
    """Why something could not be read."""
