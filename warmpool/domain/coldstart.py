"""Cold starts as measured, and the lead time that follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from warmpool.domain.observation import DEFAULT_LEAD

SHORTEST_LEAD: Final = timedelta(seconds=2)
LONGEST_LEAD: Final = timedelta(hours=2)
KEPT: Final = 200
"""How many of the latest cold starts of a Service count."""

LeadSource = Literal["measured", "default", "fixed"]


@dataclass(frozen=True, slots=True)
class ColdStart:
    """One time that replicas came up: from the order to all of them ready."""

    started: datetime
    seconds: float
    phases: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase (schedule, image, import, weights, warmup), as far as they are known."""


@dataclass(frozen=True, slots=True)
class ColdStartStats:
    """What the latest cold starts took."""

    p50: timedelta
    p95: timedelta
    samples: int


def stats(seconds: Sequence[float]) -> ColdStartStats | None:
    """Median and 95th percentile; None without samples."""
    if not seconds:
        return None
    ordered = sorted(seconds[-KEPT:])
    return ColdStartStats(_quantile(ordered, 0.5), _quantile(ordered, 0.95), len(ordered))


def lead_time(
    wanted: timedelta | Literal["auto"], measured: ColdStartStats | None
) -> tuple[timedelta, LeadSource]:
    """How much earlier than a window the floor rises, whole seconds, and where the number is from."""
    if isinstance(wanted, timedelta):
        return wanted, "fixed"
    if measured is None:
        return DEFAULT_LEAD, "default"
    whole = timedelta(seconds=math.ceil(measured.p95.total_seconds()))
    return min(max(whole, SHORTEST_LEAD), LONGEST_LEAD), "measured"


def _quantile(ordered: Sequence[float], q: float) -> timedelta:
    """The smallest sample that at least a share q of the samples do not exceed (nearest rank)."""
    return timedelta(seconds=ordered[max(0, math.ceil(q * len(ordered)) - 1)])
