"""Candidates for a WarmPool: windows that a person can read, keep-alives, forecasts; their floors on a trace.

Edges and replicas of the windows follow the demand of the same hours of earlier weeks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from warmpool.domain.duration import format_duration
from warmpool.domain.field_types import DAYS
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.experiments import kernels, levels
from warmpool.experiments.levels import MOVE_TICKS, DemandSeries

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SLOT_S: Final = 600
_SLOTS: Final = 86_400 // SLOT_S
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
    """Windows with a keep-alive (s) or a forecast.

    `origin` is the slot after midnight at which the days of the windows begin, `forecast` the rate of cold
    starts that a forecast is told; None: there is none.
    """

    spans: tuple[WeeklySpan, ...] = ()
    keep_alive_s: int = 0
    origin: int = 0
    forecast: float | None = None

    @property
    def fixed(self) -> bool:
        """Whether it is one floor around the clock."""
        return (
            bool(self.spans)
            and all(
                span.first == 0 and span.end == _SLOTS and span.replicas == self.spans[0].replicas
                for span in self.spans
            )
            and len(self.spans) == len(_GROUPS)
        )

    @property
    def needless(self) -> bool:
        """Whether it holds nothing at all."""
        return not self.spans and not self.keep_alive_s and self.forecast is None

    def spec(self, time_zone: str, budget: dict[str, Any] | None = None) -> WarmPoolTemplate:
        """The WarmPool's spec without its target."""
        windows = [self._window(span) for span in self.spans]
        if self.fixed:
            always = {"name": "always", "from": "00:00", "to": "24:00"}
            windows = [{**always, "replicas": self.spans[0].replicas}]
        content: dict[str, Any] = {"timeZone": time_zone, "windows": windows}
        if self.keep_alive_s:
            content["keepAlive"] = format_duration(timedelta(seconds=self.keep_alive_s))
        if self.forecast is not None:
            content["forecast"] = {"objective": {"coldStartRate": self.forecast}}
        if budget is not None:
            content["limits"] = {"budget": budget}
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


def from_history(
    demand: DemandSeries, start: datetime, zone: ZoneInfo, concurrency: int, rates: Sequence[float]
) -> list[Candidate]:
    """Candidates that follow a demand: windows with keep-alives, and with forecasts told these rates."""
    origin = _quietest_slot(demand, start, zone)
    plans = _plans(_slots(demand, start, zone, origin, concurrency))
    return [
        *(Candidate(spans, keep_alive, origin) for spans in plans for keep_alive in _KEEP_ALIVE_S),
        *(Candidate(_earlier(spans), 0, origin) for spans in plans if spans),
        *(Candidate(spans, 0, origin, rate) for spans in _distinct(plans) for rate in rates),
    ]


def everyday(replicas: int) -> Candidate:
    """The same floor around the clock."""
    return Candidate(tuple(WeeklySpan(group, 0, _SLOTS, replicas) for group in range(len(_GROUPS))))


def _earlier(spans: Sequence[WeeklySpan]) -> tuple[WeeklySpan, ...]:
    """The same windows, opened a slot before the first request: one that comes on the hour is not cold."""
    return tuple(replace(span, first=max(0, span.first - 1)) for span in spans)


def _distinct(plans: Sequence[tuple[WeeklySpan, ...]]) -> list[tuple[WeeklySpan, ...]]:
    """The plans that a forecast is tried with: none, the shortest windows and the longest."""
    lengths = {plan: sum((span.end - span.first) * span.replicas for span in plan) for plan in plans}
    ordered = sorted(lengths, key=lambda plan: lengths[plan])
    return list(dict.fromkeys([ordered[0], *ordered[1:2], ordered[-1]]))


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


def _plans(slots: Sequence[Sequence[Sequence[int]]]) -> list[tuple[WeeklySpan, ...]]:
    """No windows, and those for each share and quantile, the same for every group of days."""
    plans: dict[tuple[WeeklySpan, ...], None] = {(): None}
    for share, quantile in itertools.product(_SHARES, _QUANTILES):
        spans = [
            span
            for group, by_slot in enumerate(slots)
            if (span := _span(group, by_slot, share, quantile)) is not None
        ]
        plans[tuple(spans)] = None
    return list(plans)


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


def outcome(  # noqa: PLR0917 - a trace three ways and what a replica is
    candidates: Sequence[Candidate],
    arrivals: Floats,
    service_s: Floats,
    demand: DemandSeries,
    start: datetime,
    zone: ZoneInfo,
    load_s: float,
    concurrency: int,
) -> levels.Outcome:
    """What all candidates do on the same requests at once; windows are early by the load time."""
    seconds = demand.moves * MOVE_TICKS
    per_slot = SLOT_S // MOVE_TICKS
    lead = math.ceil(load_s / MOVE_TICKS)
    last_busy = int(arrivals[-1] + service_s[-1]) // MOVE_TICKS + 1
    idle_s = _idle_seconds(demand)
    forecasts = _forecasts(candidates, demand, load_s, concurrency)
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
        if candidate.forecast is not None:
            floors[index] = np.maximum(floors[index], forecasts[candidate.forecast])
    return levels.simulate(arrivals, service_s, floors, load_s, ahead=True, concurrency=concurrency)


def _forecasts(
    candidates: Sequence[Candidate], demand: DemandSeries, load_s: float, concurrency: int
) -> dict[float, Ints]:
    """The floor of a forecast at each move, by the rate that it is told; it holds what demand has brought."""
    rates = sorted({candidate.forecast for candidate in candidates if candidate.forecast is not None})
    if not rates:
        return {}
    replicas = DemandSeries(
        -(-demand.running // concurrency), -(-demand.peak // concurrency), demand.arrivals
    )
    wanted = levels.target_floors(replicas, load_s, np.array(rates))
    peaks = replicas.peak[: demand.moves * MOVE_TICKS].reshape(-1, MOVE_TICKS).max(axis=1)
    return dict(zip(rates, kernels.held_floors(wanted, peaks), strict=True))


def _idle_seconds(demand: DemandSeries) -> Ints:
    """For each second, how long ago the last request ran; large before the first one."""
    seconds = np.arange(len(demand.peak))
    last = np.maximum.accumulate(np.where(demand.peak > 0, seconds, -(10**9)))
    return np.asarray(seconds - last)
