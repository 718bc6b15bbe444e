"""Cold starts as measured, and the lead time that follows from them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, Literal, TypeGuard

from warmpool.domain.observation import DEFAULT_LEAD

SHORTEST_LEAD: Final = timedelta(seconds=2)
LONGEST_LEAD: Final = timedelta(hours=2)
KEPT: Final = 200
"""How many of the latest cold starts of a Service count."""
PHASES: Final = 16
"""How many phases of a Service are told apart."""
LONGEST_PHASE: Final = 86_400.0
"""Seconds; a phase that is said to take longer is nonsense."""

_UNKNOWN: Final[Mapping[str, timedelta]] = MappingProxyType({})

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
    phases: Mapping[str, timedelta] = field(default_factory=lambda: _UNKNOWN)
    """The median of each phase, over those of the starts whose phases are known."""


class ColdStartSamples:
    """The latest cold starts of one Service, in little memory: there may be many Services."""

    __slots__ = ("_phases", "_seconds", "_stats")

    def __init__(self) -> None:
        """None yet."""
        self._seconds = array("d")
        self._phases: dict[str, array[float]] | None = None
        self._stats: ColdStartStats | None = None

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._seconds)

    def add(self, start: ColdStart) -> None:
        """Add the latest one, with its phases where they are known."""
        self._stats = None
        self._seconds.append(start.seconds)
        del self._seconds[:-KEPT]
        self.add_phases(start.phases)

    def add_phases(self, phases: Mapping[str, float]) -> None:
        """Add what is learned of a start's phases, in seconds; one that is not named took no time."""
        if not phases:
            return
        self._stats = None
        before = self._phases or {}
        count = len(next(iter(before.values()), ()))
        known = {phase: before.get(phase) or array("f", bytes(4 * count)) for phase in {**before, **phases}}
        for phase, taken in known.items():
            taken.append(phases.get(phase, 0.0))
            del taken[:-KEPT]
        # What no kept start has known is forgotten; of a Service that makes names up, the first ones count.
        kept = [phase for phase, taken in known.items() if any(taken)][:PHASES]
        self._phases = {phase: known[phase] for phase in kept} or None

    def stats(self) -> ColdStartStats | None:
        """Median and 95th percentile, and the median of each phase that took time; None without samples."""
        if self._stats is not None or not self._seconds:
            return self._stats
        ordered = sorted(self._seconds)
        medians = {phase: _quantile(sorted(taken), 0.5) for phase, taken in (self._phases or {}).items()}
        self._stats = ColdStartStats(
            _quantile(ordered, 0.5),
            _quantile(ordered, 0.95),
            len(ordered),
            {phase: median for phase, median in medians.items() if median} or _UNKNOWN,
        )
        return self._stats


def is_time(value: object, longest: float) -> TypeGuard[float]:
    """Whether a JSON value is a number of seconds from 0 to `longest`; NaN and true are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= longest


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
