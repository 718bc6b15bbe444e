"""When the windows and exceptions of a pool open and close, as instants.

* A window by days of the week or dates opens on those days and may close on the following one.
* A cron window opens when its expression fires and stays open for its duration of real time.
* An exception takes its time away from every weekly and cron window: whole local days (an overnight window is
  cut at midnight), the hours after midnight in which it holds replicas itself, or its span. Where several
  exceptions cover an instant, the first in the list counts.
* Windows that name their own time (dates, or a start and an end) add to the rest: no exception closes them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Final
from zoneinfo import ZoneInfo

from warmpool.domain.date_ranges import days_between
from warmpool.domain.floor import Floor
from warmpool.domain.local_time import closing, local_date, opening
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.domain.schedule_exceptions import DayException, ScheduleException, SpanException
from warmpool.domain.windows import CronWindow, SpanWindow, WeeklyWindow, Window

_DAY: Final = timedelta(days=1)
_MINUTE: Final = timedelta(minutes=1)

Interval = tuple[datetime, datetime]
"""`[start, end)` in UTC."""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One opening of a window or exception: `[opens, closes)`, or `[rises, closes)` with the lead time."""

    opens: datetime
    closes: datetime
    rises: datetime
    name: str
    """`window/NAME` or `exception/NAME`."""
    floor: Floor


@dataclass(frozen=True, slots=True)
class _Range:
    """The time that is asked for: as instants and as local days, with room for overnight windows."""

    start: datetime
    end: datetime
    first: date
    last: date


def occurrences(
    pool: WarmPoolTemplate, lead: timedelta, start: datetime, end: datetime
) -> Iterator[Occurrence]:
    """Every occurrence that touches `[start, end)`, lead time included, window by window."""
    zone = pool.zone
    asked = _Range(
        start,
        end + lead,
        local_date(start - 2 * _DAY, zone),
        local_date(end + lead + 2 * _DAY, zone),
    )
    covered = [_covered(exception, zone, asked) for exception in pool.exceptions]
    closed = _union(interval for intervals in covered for interval in intervals)
    for window in pool.windows:
        opened = _opened(window, zone, asked)
        if isinstance(window, WeeklyWindow | CronWindow):
            opened = _without(opened, closed)
        for opens, closes in opened:
            if opens - lead < end and closes > start:
                yield Occurrence(opens, closes, opens - lead, f"window/{window.name}", window.floor)
    earlier: list[Interval] = []
    for exception, intervals in zip(pool.exceptions, covered, strict=True):
        if exception.replicas:
            held = _without(_held(exception, zone, asked), earlier)
            for opens, closes in held:
                if opens - lead < end and closes > start:
                    yield Occurrence(
                        opens, closes, opens - lead, f"exception/{exception.name}", exception.floor
                    )
        earlier = _union((*earlier, *intervals))


def exception_at(pool: WarmPoolTemplate, instant: datetime) -> ScheduleException | None:
    """The exception that closes the windows at an instant, if there is one."""
    zone = pool.zone
    day = local_date(instant, zone)
    asked = _Range(instant, instant, day - _DAY, day)
    for exception in pool.exceptions:
        if any(opens <= instant < closes for opens, closes in _covered(exception, zone, asked)):
            return exception
    return None


# ------------------------------------------------------------------------------------------------ windows
def _opened(window: Window, zone: ZoneInfo, asked: _Range) -> Iterable[Interval]:
    if isinstance(window, CronWindow):
        return _cron(window, zone, asked)
    if isinstance(window, SpanWindow):
        return [(opening(window.start, zone), closing(window.end, zone))]
    return (
        interval
        for day in window.opening_days(asked.first, asked.last)
        if (interval := _between(day, window.from_, window.to, zone, overnight=window.overnight))
    )


def _cron(window: CronWindow, zone: ZoneInfo, asked: _Range) -> Iterator[Interval]:
    """The openings of a cron window.

    Firings whose distance on the clock is at most the duration are one opening, also where the clock is set
    back between them.
    """
    schedule, duration = window.schedule, window.duration
    current: Interval | None = None
    last_firing = datetime.min  # noqa: DTZ901  on the clock
    for day in days_between(local_date(asked.start - duration - _DAY, zone), asked.last):
        if not schedule.fires_on(day):
            continue
        midnight = datetime.combine(day, time.min)
        for first, last in schedule.daily_spans(duration):
            opens = opening(midnight + first * _MINUTE, zone)
            closes = opening(midnight + last * _MINUTE, zone) + duration
            joined = midnight + first * _MINUTE - last_firing <= duration
            last_firing = midnight + last * _MINUTE
            if current is not None and (joined or opens <= current[1]):
                current = (current[0], max(current[1], closes))
                continue
            if current is not None:
                yield current
            if opens >= asked.end:
                return
            current = (opens, closes)
    if current is not None:
        yield current


# --------------------------------------------------------------------------------------------- exceptions
def _covered(exception: ScheduleException, zone: ZoneInfo, asked: _Range) -> list[Interval]:
    """The time that an exception takes away from the usual windows."""
    if isinstance(exception, SpanException):
        return list(_held(exception, zone, asked))
    days = [
        (_midnight(item.first, zone), closing(datetime.combine(item.last + _DAY, time.min), zone))
        for item in exception.days(asked.first, asked.last)
    ]
    tails = _held(exception, zone, asked) if exception.replicas and exception.overnight else ()
    return _union((*days, *tails))


def _held(exception: ScheduleException, zone: ZoneInfo, asked: _Range) -> Iterable[Interval]:
    """The time during which an exception holds its own replicas."""
    if isinstance(exception, SpanException):
        return [(opening(exception.start, zone), closing(exception.end, zone))]
    return _held_on_days(exception, zone, asked)


def _held_on_days(exception: DayException, zone: ZoneInfo, asked: _Range) -> Iterator[Interval]:
    for item in exception.days(asked.first, asked.last):
        for day in days_between(item.first, item.last):
            interval = _between(day, exception.from_, exception.to, zone, overnight=exception.overnight)
            if interval:
                yield interval


# ----------------------------------------------------------------------------------------------- intervals
@lru_cache(maxsize=65_536)
def _between(day: date, opens: time, closes: time, zone: ZoneInfo, *, overnight: bool) -> Interval | None:
    """From one time of a day to another, or to one of the next day; None where the clock skips all of it."""
    start = opening(datetime.combine(day, opens), zone)
    last_day = day + _DAY if overnight else day
    if closes == time.max:  # 24:00
        end = closing(datetime.combine(last_day + _DAY, time.min), zone)
    else:
        end = closing(datetime.combine(last_day, closes), zone)
    return (start, end) if start < end else None


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return opening(datetime.combine(day, time.min), zone)


def _union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time as disjoint intervals in order."""
    joined: list[Interval] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _without(intervals: Iterable[Interval], removed: Sequence[Interval]) -> Iterator[Interval]:
    """Each interval less all that is removed, which is disjoint and in order."""
    for start, end in intervals:
        left = start
        # Both ends of what is removed ascend, so the first interval that matters is found by bisection.
        index = bisect_right(removed, left, key=itemgetter(1))
        while index < len(removed) and removed[index][0] < end:
            if left < removed[index][0]:
                yield left, removed[index][0]
            left = max(left, removed[index][1])
            index += 1
        if left < end:
            yield left, end
