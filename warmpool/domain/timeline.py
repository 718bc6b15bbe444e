"""The floor of a pool's schedule over time: which one holds now, and when that changes next.

Every occurrence raises the floor by the lead time before it opens, so that replicas are ready when it does.
Where occurrences overlap, the highest floor holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from operator import itemgetter
from typing import Final

from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.occurrences import Occurrence, occurrences
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.domain.windows import WeeklyWindow

_NEAR: Final = timedelta(hours=40)
_WEEK: Final = timedelta(days=9)
_FAR: Final = timedelta(days=400)
_MAX_OPENINGS: Final = 4_000
"""How many openings are worked out at most to find the next change, which takes a tenth of a second."""


def horizons(pool: WarmPoolTemplate) -> tuple[timedelta, ...]:
    """How far ahead to look for the next change of the floor, one after the other while there is none.

    A pool that has only windows by days of the week repeats itself after a week. Any other may change as late
    as next year; one that opens often is looked ahead less far, and again when that time is over.
    """
    if not pool.exceptions and all(isinstance(window, WeeklyWindow) for window in pool.windows):
        return _NEAR, _WEEK
    openings = sum(window.openings_per_day for window in pool.windows)
    far = timedelta(days=_MAX_OPENINGS // max(1, openings))
    return _NEAR, _WEEK, max(_WEEK, min(_FAR, far))


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the timeline on which nothing changes: `[start, end)`."""

    start: datetime
    end: datetime
    floor: Floor
    names: tuple[str, ...]
    """The windows and exceptions that ask for this floor, in the order of the spec."""
    opens: datetime | None = None
    """When the earliest of these opens, if the floor is already up for it (by the lead time)."""


def timeline(pool: WarmPoolTemplate, lead: timedelta, start: datetime, end: datetime) -> tuple[Segment, ...]:
    """Segments that cover `[start, end)` without holes.

    Neighbours differ in their floor or in the windows that ask for it. The last one ends at `end`, even if
    nothing changes there.
    """
    found = [occurrence for occurrence in occurrences(pool, lead, start, end) if occurrence.floor != NOTHING]
    edges = {start, end}
    for occurrence in found:
        edges.update(
            edge for edge in (occurrence.rises, occurrence.opens, occurrence.closes) if start < edge < end
        )
    segments: list[Segment] = []
    ahead = sorted(enumerate(found), key=lambda entry: entry[1].rises, reverse=True)
    active: list[tuple[int, Occurrence]] = []
    for left, right in pairwise(sorted(edges)):
        active = [entry for entry in active if left < entry[1].closes]
        while ahead and ahead[-1][1].rises <= left:
            entry = ahead.pop()
            if left < entry[1].closes:
                active.append(entry)
        segment = _segment(left, right, [occurrence for _, occurrence in sorted(active, key=itemgetter(0))])
        last = segments[-1] if segments else None
        if last and (last.floor, last.names, last.opens) == (segment.floor, segment.names, segment.opens):
            segments[-1] = Segment(last.start, right, last.floor, last.names, last.opens)
        else:
            segments.append(segment)
    return tuple(segments)


def next_change(pool: WarmPoolTemplate, lead: timedelta, start: datetime, floor: Floor) -> Segment | None:
    """The first segment from `start` on with another floor; None if there is none for some years."""
    openings = sum(window.openings_per_day for window in pool.windows)
    farthest = min(timedelta(days=4 * 366), timedelta(days=_MAX_OPENINGS // max(1, openings)))
    for horizon in (_NEAR, _WEEK, _FAR, farthest):
        for segment in timeline(pool, lead, start, start + min(horizon, farthest)):
            if segment.floor != floor:
                return segment
    return None


def _segment(left: datetime, right: datetime, active: list[Occurrence]) -> Segment:
    floor = Floor(
        max((occurrence.floor.hot for occurrence in active), default=0),
        max((occurrence.floor.asleep for occurrence in active), default=0),
        max((occurrence.floor.standby for occurrence in active), default=0),
    )
    # An occurrence is a reason for the floor if it is as high at one of the warmths that the floor holds.
    behind = [
        occurrence
        for occurrence in active
        if occurrence.floor.hot == floor.hot > 0
        or occurrence.floor.asleep == floor.asleep > 0
        or occurrence.floor.standby == floor.standby > 0
    ]
    names = tuple(dict.fromkeys(occurrence.name for occurrence in behind))
    coming = [occurrence.opens for occurrence in behind if occurrence.opens > left]
    opens = min(coming) if coming and len(coming) == len(behind) else None
    return Segment(left, right, floor, names, opens)
