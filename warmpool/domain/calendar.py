"""The windows and exceptions of a pool, laid out on the line of real time.

`timeline` answers both questions the controller has: which floor holds now, and when that changes next.

Rules:

* a weekly window opens on the days it names and may close on the following day;
* a cron window opens when its expression fires and stays open for its duration of real time;
* an exception takes whole local days away from every window (an overnight window is cut at midnight) and
  holds its own replicas there; of several exceptions that name a day, the first in the list counts;
* every stretch rises `lead` earlier than it opens, so that replicas are hot when it does;
* where stretches overlap, the highest floor holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter

import holidays
from cronsim import CronSim

from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.local_time import closing, local_date, opening
from warmpool.domain.pool import CronWindow, DayException, WarmPoolTemplate, WeeklyWindow

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Stretch:
    """One opening of a window or exception: `[rises, closes)` with the lead, `[opens, closes)` without."""

    opens: datetime
    closes: datetime
    rises: datetime
    name: str
    """`window/NAME` or `exception/NAME`."""
    floor: Floor


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the timeline on which nothing changes: `[start, end)`."""

    start: datetime
    end: datetime
    floor: Floor
    names: tuple[str, ...]
    """The stretches that ask for this floor, in the order of the spec."""
    opens: datetime | None = None
    """When the earliest of these opens, if that is yet to come (the floor is up early, by the lead time)."""


def timeline(pool: WarmPoolTemplate, lead: timedelta, start: datetime, end: datetime) -> tuple[Segment, ...]:
    """Segments that cover `[start, end)` without holes.

    Neighbours differ in floor or in the stretches behind it. The last one ends at `end`, though nothing may
    change there.
    """
    pieces = [piece for piece in stretches(pool, lead, start, end) if piece.floor != NOTHING]
    edges = {start, end}
    for piece in pieces:
        edges.update(edge for edge in (piece.rises, piece.opens, piece.closes) if start < edge < end)
    segments: list[Segment] = []
    coming = sorted(enumerate(pieces), key=lambda entry: entry[1].rises, reverse=True)
    active: list[tuple[int, Stretch]] = []
    for left, right in pairwise(sorted(edges)):
        active = [entry for entry in active if left < entry[1].closes]
        while coming and coming[-1][1].rises <= left:
            entry = coming.pop()
            if left < entry[1].closes:
                active.append(entry)
        segment = _segment(left, right, [piece for _, piece in sorted(active, key=itemgetter(0))])
        last = segments[-1] if segments else None
        if last and (last.floor, last.names, last.opens) == (segment.floor, segment.names, segment.opens):
            segments[-1] = Segment(last.start, right, last.floor, last.names, last.opens)
        else:
            segments.append(segment)
    return tuple(segments)


def _segment(left: datetime, right: datetime, active: list[Stretch]) -> Segment:
    floor = NOTHING
    for piece in active:
        floor |= piece.floor
    # A stretch is a reason when the floor would be lower without it or when it alone is as high.
    behind = [
        piece
        for piece in active
        if piece.floor.hot == floor.hot > 0
        or piece.floor.asleep == floor.asleep > 0
        or piece.floor.standby == floor.standby > 0
    ]
    names = tuple(dict.fromkeys(piece.name for piece in behind))
    coming = [piece.opens for piece in behind if piece.opens > left]
    opens = min(coming) if coming and len(coming) == len(behind) else None
    return Segment(left, right, floor, names, opens)


def stretches(pool: WarmPoolTemplate, lead: timedelta, start: datetime, end: datetime) -> Iterator[Stretch]:
    """Every stretch that touches `[start, end)`, lead included, window by window."""
    zone = pool.zone
    horizon = end + lead
    first = local_date(start, zone) - 2 * _DAY
    last = local_date(horizon, zone) + 2 * _DAY
    excepted = dict(_excepted_days(pool, first, last))
    cuts = [(opening(_midnight(day), zone), closing(_midnight(day + _DAY), zone)) for day in sorted(excepted)]
    for window in pool.windows:
        floor = Floor.of(window.replicas, window.warmth)
        spans = (
            _weekly(window, pool, first, last)
            if isinstance(window, WeeklyWindow)
            else _cron(window, pool, start, horizon)
        )
        for opens, closes in spans:
            for left, right in _without(opens, closes, cuts):
                if left - lead < end and right > start:
                    yield Stretch(left, right, left - lead, f"window/{window.name}", floor)
    for day, exception in sorted(excepted.items()):
        opens = opening(datetime.combine(day, exception.from_), zone)
        closes = closing(_end(day, exception.to), zone)
        if opens < closes and opens - lead < end and closes > start:
            floor = Floor.of(exception.replicas, exception.warmth)
            yield Stretch(opens, closes, opens - lead, f"exception/{exception.name}", floor)


def exception_on(pool: WarmPoolTemplate, instant: datetime) -> DayException | None:
    """The exception that takes the windows away at `instant`, if there is one."""
    day = local_date(instant, pool.zone)
    return next((exception for _, exception in _excepted_days(pool, day, day)), None)


def _excepted_days(pool: WarmPoolTemplate, first: date, last: date) -> Iterator[tuple[date, DayException]]:
    """Days from `first` to `last`, each with the first exception in the list that names it."""
    if not pool.exceptions:
        return
    day = first
    while day <= last:
        for exception in pool.exceptions:
            if _names(exception, day):
                yield day, exception
                break
        day += _DAY


def _names(exception: DayException, day: date) -> bool:
    if any(first <= day <= last for first, last in exception.dates):
        return True
    calendar = exception.holidays
    return calendar is not None and day in _public_holidays(calendar.country, calendar.region, day.year)


@lru_cache(maxsize=1024)
def _public_holidays(country: str, region: str | None, year: int) -> frozenset[date]:
    return frozenset(holidays.country_holidays(country, subdiv=region, years=year))


def _weekly(
    window: WeeklyWindow, pool: WarmPoolTemplate, first: date, last: date
) -> Iterator[tuple[datetime, datetime]]:
    zone = pool.zone
    weekdays = window.weekdays
    closes_after = _DAY if window.overnight else timedelta(0)
    day = first
    while day <= last:
        if day.weekday() in weekdays:
            opens = opening(datetime.combine(day, window.from_), zone)
            closes = closing(_end(day + closes_after, window.to), zone)
            if opens < closes:
                yield opens, closes
        day += _DAY


def _cron(
    window: CronWindow, pool: WarmPoolTemplate, start: datetime, end: datetime
) -> Iterator[tuple[datetime, datetime]]:
    """The times at which the expression fires, run together where one opening reaches into the next."""
    zone = pool.zone
    # Wall-clock time, so that the expression is read as people write it; a day covers every offset change.
    wall = (start - window.duration - _DAY).astimezone(zone).replace(tzinfo=None, second=0, microsecond=0)
    open_from: datetime | None = None
    open_to = start
    for fires in CronSim(window.cron, wall):
        opens = opening(fires, zone)
        if opens >= end:
            break
        if open_from is not None and opens <= open_to:
            open_to = max(open_to, opens + window.duration)
            continue
        if open_from is not None:
            yield open_from, open_to
        open_from, open_to = opens, opens + window.duration
    if open_from is not None:
        yield open_from, open_to


def _without(
    opens: datetime, closes: datetime, cuts: list[tuple[datetime, datetime]]
) -> Iterator[tuple[datetime, datetime]]:
    """`[opens, closes)` less every cut; cuts are sorted by their beginning."""
    left = opens
    for cut_from, cut_to in cuts:
        if cut_to <= left or cut_from >= closes:
            continue
        if left < cut_from:
            yield left, cut_from
        left = max(left, cut_to)
    if left < closes:
        yield left, closes


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min)


def _end(day: date, at: time) -> datetime:
    """A closing time on a day; `24:00` is the next midnight."""
    return _midnight(day + _DAY) if at == time.max else datetime.combine(day, at)
