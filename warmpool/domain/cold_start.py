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

MIN_LEAD: Final = timedelta(seconds=2)
MAX_LEAD: Final = timedelta(hours=2)
MAX_SAMPLES: Final = 200
"""How many of the latest cold starts of a Service count."""
MAX_PHASES: Final = 16
"""How many phases of a Service's cold starts are distinguished."""
MAX_PHASE_SECONDS: Final = 86_400.0
"""The longest duration of a phase that is believed."""

_OUTLIER_FACTOR: Final = 3.0
"""An outlier takes at least so many times the median."""
_OUTLIER_DEVIATIONS: Final = 9.0
"""An outlier is at least so many median absolute deviations above the median (six standard deviations of a
normal distribution)."""
_OUTLIER_SECONDS: Final = 10.0
"""An outlier takes at least so many seconds more than the median."""
_OUTLIER_SHARE: Final = 8
"""At most one start in so many is an outlier; if there are more, they are part of the distribution."""
_MAX_IN_A_ROW: Final = 3
"""So many outliers in a row are no outliers: cold starts have become slower."""
_MAX_NAMED: Final = 5
"""How many outliers are named, the latest."""

_NO_PHASES: Final[Mapping[str, timedelta]] = MappingProxyType({})

LeadSource = Literal["measured", "default", "fixed"]


@dataclass(frozen=True, slots=True)
class ColdStart:
    """One start of replicas, from the change of the floor until all of them are ready."""

    started: datetime
    seconds: float
    phases: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase (schedule, image, import, weights, warmup), as far as they are known."""


@dataclass(frozen=True, slots=True)
class ColdStartStats:
    """How long the latest cold starts took."""

    p50: timedelta
    """The median, without outliers."""
    p95: timedelta
    """The 95th percentile, without outliers."""
    samples: int
    """How many starts were measured, outliers included."""
    phases: Mapping[str, timedelta] = field(default_factory=lambda: _NO_PHASES)
    """The median of each phase, over the starts whose phases are known."""
    outliers: tuple[timedelta, ...] = ()
    """The latest starts that were left out because they took so much longer than the others."""


class ColdStartSamples:
    """The latest cold starts of one Service, stored compactly because there may be many Services."""

    __slots__ = ("_phases", "_seconds", "_stats")

    def __init__(self) -> None:
        """Begin without samples."""
        self._seconds = array("d")
        self._phases: dict[str, array[float]] | None = None
        self._stats: ColdStartStats | None = None

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self._seconds)

    def add(self, start: ColdStart) -> None:
        """Add the latest start, with its phases where they are known."""
        self._stats = None
        self._seconds.append(start.seconds)
        del self._seconds[:-MAX_SAMPLES]
        self.add_phases(start.phases)

    def add_phases(self, phases: Mapping[str, float]) -> None:
        """Add the phases of a start, in seconds; a phase that is not named took no time."""
        if not phases:
            return
        self._stats = None
        before = self._phases or {}
        count = len(next(iter(before.values()), ()))
        known = {phase: before.get(phase) or array("f", bytes(4 * count)) for phase in {**before, **phases}}
        for phase, durations in known.items():
            durations.append(phases.get(phase, 0.0))
            del durations[:-MAX_SAMPLES]
        # A phase that no sample has any more is dropped. Names beyond the first few are not kept: a Service
        # that invents new ones must not take up memory without bound.
        kept = [phase for phase, durations in known.items() if any(durations)][:MAX_PHASES]
        self._phases = {phase: known[phase] for phase in kept} or None

    def stats(self) -> ColdStartStats | None:
        """Median and 95th percentile, and the median of each phase; None without samples."""
        if self._stats is not None or not self._seconds:
            return self._stats
        usual, outliers = split_outliers(self._seconds)
        medians = {phase: _quantile(sorted(taken), 0.5) for phase, taken in (self._phases or {}).items()}
        self._stats = ColdStartStats(
            _quantile(sorted(usual), 0.5),
            _quantile(sorted(usual), 0.95),
            len(self._seconds),
            {phase: median for phase, median in medians.items() if median} or _NO_PHASES,
            tuple(timedelta(seconds=seconds) for seconds in outliers[-_MAX_NAMED:]),
        )
        return self._stats


def split_outliers(seconds: Sequence[float]) -> tuple[list[float], list[float]]:
    """The usual cold starts and the outliers, both in the order of measurement.

    A start is an outlier if it lies far above the median, measured by the median absolute deviation. There
    are none if that would be more than one start in eight, or if the latest three would all be outliers: then
    starts do take so long.
    """
    if len(seconds) < _MAX_IN_A_ROW:
        return list(seconds), []
    median = _middle(sorted(seconds))
    deviation = _middle(sorted(abs(value - median) for value in seconds))
    limit = max(_OUTLIER_FACTOR * median, median + _OUTLIER_DEVIATIONS * deviation, median + _OUTLIER_SECONDS)
    outliers = [value for value in seconds if value > limit]
    all_slow = all(value > limit for value in seconds[-_MAX_IN_A_ROW:])
    if all_slow or len(outliers) > max(1, len(seconds) // _OUTLIER_SHARE):
        return list(seconds), []
    return [value for value in seconds if value <= limit], outliers


def is_duration(value: object, longest: float) -> TypeGuard[float]:
    """Whether a JSON value is a number of seconds from 0 to `longest`; NaN and `true` are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= longest


def lead_time(
    wanted: timedelta | Literal["auto"], measured: ColdStartStats | None
) -> tuple[timedelta, LeadSource]:
    """How much earlier than a window opens its floor rises, in whole seconds, and where that is from."""
    if isinstance(wanted, timedelta):
        return wanted, "fixed"
    if measured is None:
        return DEFAULT_LEAD, "default"
    whole = timedelta(seconds=math.ceil(measured.p95.total_seconds()))
    return min(max(whole, MIN_LEAD), MAX_LEAD), "measured"


def _middle(ordered: Sequence[float]) -> float:
    """The lower median."""
    return ordered[(len(ordered) - 1) // 2]


def _quantile(ordered: Sequence[float], q: float) -> timedelta:
    """The smallest sample that at least a share q of the samples do not exceed (nearest rank)."""
    return timedelta(seconds=ordered[max(0, math.ceil(q * len(ordered)) - 1)])
