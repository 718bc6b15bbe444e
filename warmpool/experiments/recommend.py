"""A WarmPool for a trace: windows that a person can read first, a keep-alive where it buys something.

Candidates are weekly windows whose edges and replicas follow the demand of the same hours of earlier weeks,
each with several keep-alives. The first part of the trace chooses: the cheapest candidate that keeps the
objective. The days held back judge: what the choice would have cost and left cold on traffic that it has
not seen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from warmpool.domain.duration import format_duration
from warmpool.domain.field_types import DAYS
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.experiments import levels
from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.levels import MOVE_TICKS, DemandSeries

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SLOT_S: Final = 600
_SLOTS: Final = 86_400 // SLOT_S
_DAY_S: Final = 86_400.0
_LEAST_DAYS: Final = 2.0
_GROUPS: Final = (
    ("weekdays", ("Mon", "Tue", "Wed", "Thu", "Fri"), (0, 1, 2, 3, 4)),
    ("saturday", ("Sat",), (5,)),
    ("sunday", ("Sun",), (6,)),
)
_SHARES: Final = (0.1, 0.25, 0.5, 0.75)
"""How many of the earlier days must have had requests in a slot for a window to cover it."""
_QUANTILES: Final = (0.5, 0.8, 0.95, 1.0)
"""Of the slots' peaks inside a window: its replicas."""
_KEEP_ALIVE_S: Final = (0, 300, 900, 1800, 3600)
_STABLE_WINDOW_S: Final = 60
"""How long Knative itself keeps a replica after the last request."""


@dataclass(frozen=True, slots=True)
class WeeklySpan:
    """A weekly window in slots of ten minutes, counted from the quiet hour at which a day begins.

    Attributes:
        group: index of its days in `_GROUPS`.
        first: its first slot.
        end: the slot after its last.
        replicas: its floor.
    """

    group: int
    first: int
    end: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """Windows and a keep-alive (s); `origin` is the slot after midnight at which their days begin."""

    spans: tuple[WeeklySpan, ...]
    keep_alive_s: int
    origin: int = 0

    def spec(self, time_zone: str) -> WarmPoolTemplate:
        """The WarmPool's spec without its target."""
        windows = [self._window(span) for span in self.spans]
        content: dict[str, Any] = {"timeZone": time_zone, "windows": windows}
        if self.keep_alive_s:
            content["keepAlive"] = format_duration(timedelta(seconds=self.keep_alive_s))
        return WarmPoolTemplate.model_validate(content)

    def _window(self, span: WeeklySpan) -> dict[str, Any]:
        name, _, days = _GROUPS[span.group]
        opens, closes = span.first + self.origin, span.end + self.origin
        whole = span.end - span.first == _SLOTS
        # What opens after midnight opens on the calendar's next day.
        opening_days = [(day + opens // _SLOTS) % 7 for day in days]
        return {
            "name": name,
            "days": [DAYS[day] for day in sorted(opening_days)],
            "from": "00:00" if whole else _clock(opens % _SLOTS),
            "to": "24:00" if whole else _clock(closes % _SLOTS or _SLOTS),
            "replicas": span.replicas,
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """What one way to run the pool did on the days held back."""

    name: str
    cold_rate: float
    gpu_s: float
    cost: float
    """For those days."""
    monthly: float
    """The same, for thirty days."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The WarmPool to apply, and how it compares.

    Attributes:
        spec: the WarmPool's spec without its target; None: no pool is cheapest.
        objective: the rate of cold starts that was to be kept.
        kept: whether the recommendation kept it on the days held back.
        trained_days: days that it was chosen by.
        held_back_days: days that judge it.
        arms: the recommendation first, then no pool, and the smallest fixed floor that keeps the objective.
        confidence: a sentence on how far to trust it.
    """

    spec: WarmPoolTemplate | None
    objective: float
    kept: bool
    trained_days: float
    held_back_days: float
    arms: tuple[Judged, ...]
    confidence: str


def recommend(
    arrivals: Floats,
    service_s: Floats,
    *,
    start: datetime,
    time_zone: str,
    load_s: float,
    concurrency: int,
    hourly: float,
    gpus: int,
    objective: float,
) -> Recommendation:
    """The WarmPool for a trace.

    Args:
        arrivals: (n,) seconds since `start`, ascending.
        service_s: (n,) seconds.
        start: the instant of second 0, with an offset.
        time_zone: whose clock the windows follow.
        load_s: how long a replica takes to start, s.
        concurrency: requests that one replica takes at once.
        hourly: the price of a GPU for an hour.
        gpus: GPUs of one replica.
        objective: the acceptable rate of cold starts.

    Raises:
        ExperimentError: the trace is shorter than two days.
    """
    days = float(arrivals[-1]) / _DAY_S if len(arrivals) else 0.0
    if days < _LEAST_DAYS:
        raise ExperimentError(
            f"the trace lasts {days:.2f} days; a recommendation needs at least {_LEAST_DAYS:g}, "
            "of which the last third judges it"
        )
    split = math.ceil(days * 2 / 3) * _DAY_S
    if split >= arrivals[-1]:
        split = float(arrivals[-1]) * 2 / 3
    zone = ZoneInfo(time_zone)
    train, rest = arrivals < split, arrivals >= split
    demand = levels.demand_of(arrivals[train], service_s[train])
    origin = _quietest_slot(demand, start, zone)
    candidates = _candidates(_slots(demand, start, zone, origin, concurrency), origin)
    outcome = _simulate(
        candidates, arrivals[train], service_s[train], demand, start, zone, load_s, concurrency
    )
    kept = np.flatnonzero(outcome.cold_rate <= objective)
    best = int(kept[np.argmin(outcome.gpu_s[kept])]) if len(kept) else int(np.argmin(outcome.cold_rate))
    chosen = candidates[best]

    later, later_service = arrivals[rest] - split, service_s[rest]
    later_start = start + timedelta(seconds=split)
    later_demand = levels.demand_of(later, later_service)
    most = int(later_demand.peak.max())
    fixed = [_everyday(count) for count in range(1, -(-most // concurrency) + 1)]
    compared = [chosen, Candidate((), 0), *fixed]
    judged = _simulate(compared, later, later_service, later_demand, later_start, zone, load_s, concurrency)
    held_back = float(later[-1]) / _DAY_S
    rate = hourly * gpus / 3600

    def arm(index: int, name: str) -> Judged:
        cost = float(judged.gpu_s[index]) * rate
        return Judged(
            name, float(judged.cold_rate[index]), float(judged.gpu_s[index]), cost, cost / held_back * 30
        )

    arms = [arm(0, "recommended"), arm(1, "no pool")]
    enough = next((at for at in range(2, len(compared)) if judged.cold_rate[at] <= objective), None)
    if enough is not None:
        arms.append(arm(enough, f"always {enough - 1} hot"))
    needless = not chosen.spans and not chosen.keep_alive_s
    return Recommendation(
        spec=None if needless else chosen.spec(time_zone),
        objective=objective,
        kept=arms[0].cold_rate <= objective,
        trained_days=split / _DAY_S,
        held_back_days=held_back,
        arms=tuple(arms),
        confidence=_confidence(arms[0], objective, split / _DAY_S, int(rest.sum()), possible=bool(len(kept))),
    )


def _confidence(
    chosen: Judged, objective: float, trained_days: float, requests: int, *, possible: bool
) -> str:
    if not possible:
        return (
            f"No candidate kept {objective:.2%} on the days that it was chosen by; this one came nearest. "
            "A forecast or a higher fixed floor may."
        )
    expected = max(objective, 1e-9) * requests
    if expected < 5:
        return (
            f"Weak: the days held back have {requests:,} requests, of which {expected:.1f} may be cold; "
            "a longer trace says more."
        )
    if chosen.cold_rate > objective:
        return (
            f"Not kept on the days held back: {chosen.cold_rate:.2%} were cold instead of {objective:.2%}. "
            + (
                "Less than a week was there to learn from, so some days of the week were never seen."
                if trained_days < 7
                else "Those days differ from the ones before; look at it again after another week."
            )
        )
    if trained_days < 7:
        return "Kept on the days held back, but less than a week of days was there to learn from."
    return "Kept on the days held back, which it had not seen."


def _everyday(replicas: int) -> Candidate:
    return Candidate(tuple(WeeklySpan(group, 0, _SLOTS, replicas) for group in range(len(_GROUPS))), 0)


def _clock(slot: int) -> str:
    minutes = slot * SLOT_S // 60
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _local_slots(start: datetime, zone: ZoneInfo, count: int, origin: int) -> tuple[Ints, Ints]:
    """The weekday and the slot of the day of each ten minutes since `start`, by the zone's clock.

    A day begins `origin` slots after midnight.
    """
    weekdays, slots = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for index in range(count):
        local = (start + timedelta(seconds=index * SLOT_S)).astimezone(zone)
        slot = (local.hour * 60 + local.minute) * 60 // SLOT_S - origin
        weekdays[index] = (local.weekday() + slot // _SLOTS) % 7
        slots[index] = slot % _SLOTS
    return weekdays, slots


def _quietest_slot(demand: DemandSeries, start: datetime, zone: ZoneInfo) -> int:
    """Where a day had best begin: the middle of the longest time of the day without much demand."""
    count = -(-len(demand.running) // SLOT_S)
    _, slots = _local_slots(start, zone, count, 0)
    padded = np.pad(demand.running, (0, count * SLOT_S - len(demand.running)))
    per_slot = np.zeros(_SLOTS)
    np.add.at(per_slot, slots, padded.reshape(count, SLOT_S).sum(axis=1))
    if not per_slot.any():
        return 0
    # Four hours around each slot, around the clock.
    width = 24
    around = np.concatenate([per_slot[-width // 2 :], per_slot, per_slot[: width // 2]])
    sums = np.convolve(around, np.ones(width), mode="valid")[:_SLOTS]
    return int(np.argmin(sums))


def _slots(
    demand: DemandSeries, start: datetime, zone: ZoneInfo, origin: int, concurrency: int
) -> list[list[list[int]]]:
    """The replicas that each slot of the day needed on each earlier day: by group of days, then slot."""
    last = int(np.flatnonzero(demand.peak)[-1]) + 1
    count = -(-last // SLOT_S)
    peaks = np.pad(demand.peak[:last], (0, count * SLOT_S - last)).reshape(count, SLOT_S).max(axis=1)
    weekdays, slots = _local_slots(start, zone, count, origin)
    found: list[list[list[int]]] = [[[] for _ in range(_SLOTS)] for _ in _GROUPS]
    for peak, weekday, slot in zip(peaks, weekdays, slots, strict=True):
        group = next(index for index, (_, _, days) in enumerate(_GROUPS) if weekday in days)
        found[group][slot].append(-(-int(peak) // concurrency))
    return found


def _candidates(slots: Sequence[Sequence[Sequence[int]]], origin: int) -> list[Candidate]:
    """Windows for each share and quantile, the same for every group of days, with each keep-alive."""
    plans: dict[tuple[WeeklySpan, ...], None] = {(): None}
    for share, quantile in itertools.product(_SHARES, _QUANTILES):
        spans = [
            span
            for group, by_slot in enumerate(slots)
            if (span := _span(group, by_slot, share, quantile)) is not None
        ]
        plans[tuple(spans)] = None
    return [Candidate(spans, keep_alive, origin) for spans in plans for keep_alive in _KEEP_ALIVE_S]


def _span(group: int, by_slot: Sequence[Sequence[int]], share: float, quantile: float) -> WeeklySpan | None:
    busy = [
        slot
        for slot, peaks in enumerate(by_slot)
        if peaks and sum(peak > 0 for peak in peaks) / len(peaks) >= share
    ]
    if not busy:
        return None
    first, end = busy[0], busy[-1] + 1
    peaks = [peak for slot in range(first, end) for peak in by_slot[slot]]
    replicas = math.ceil(float(np.quantile(peaks, quantile)))
    return WeeklySpan(group, first, end, replicas) if replicas else None


def _simulate(  # noqa: PLR0917 - a trace three ways and what a replica is
    candidates: Sequence[Candidate],
    arrivals: Floats,
    service_s: Floats,
    demand: DemandSeries,
    start: datetime,
    zone: ZoneInfo,
    load_s: float,
    concurrency: int,
) -> levels.Outcome:
    """All candidates on the same requests at once; windows are early by the load time."""
    seconds = demand.moves * MOVE_TICKS
    per_slot = SLOT_S // MOVE_TICKS
    lead = math.ceil(load_s / MOVE_TICKS)
    last_busy = int(arrivals[-1] + service_s[-1]) // MOVE_TICKS + 1
    idle_s = _idle_seconds(demand)
    by_origin = {
        origin: _local_slots(start, zone, -(-seconds // SLOT_S), origin)
        for origin in {candidate.origin for candidate in candidates}
    }
    floors = np.zeros((len(candidates), demand.moves), np.int64)
    for index, candidate in enumerate(candidates):
        weekdays, slots = by_origin[candidate.origin]
        group_of = np.array([0, 0, 0, 0, 0, 1, 2])[weekdays]
        by_slot = np.zeros(len(slots), np.int64)
        for span in candidate.spans:
            inside = (group_of == span.group) & (slots >= span.first) & (slots < span.end)
            by_slot[inside] = span.replicas
        scheduled = np.repeat(by_slot, per_slot)[: demand.moves]
        early = np.concatenate([scheduled[lead:], np.zeros(lead, np.int64)])
        floor = np.maximum(scheduled, early)
        floor[last_busy:] = 0  # a schedule goes on for ever; the trace does not
        kept = idle_s < max(_STABLE_WINDOW_S, candidate.keep_alive_s)
        floors[index] = np.maximum(floor, kept[MOVE_TICKS - 1 :: MOVE_TICKS][: demand.moves])
    return levels.simulate(arrivals, service_s, floors, load_s, ahead=True, concurrency=concurrency)


def _idle_seconds(demand: DemandSeries) -> Ints:
    """For each second, how long ago the last request ran; large before the first one."""
    seconds = np.arange(len(demand.peak))
    last = np.maximum.accumulate(np.where(demand.peak > 0, seconds, -(10**9)))
    return np.asarray(seconds - last)
