"""From local time to instants: what happens when the clock is set forward or back, decided in one place.

A span of local time is the smallest unbroken interval of real time that contains every reading inside it:

* a reading that is skipped (a gap) counts as reached at the instant of the change, so that a span inside a
  gap is empty;
* of a reading that occurs twice (an overlap), a span opens at the first and closes after the last, so that
  the span is open whenever a clock shows a time inside it.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

_SECOND = timedelta(seconds=1)


def opening(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first instant (UTC) at which the clock in `zone` reads `wall` (naive) or has jumped over it."""
    first, last = _folds(wall, zone)
    return first if first <= last else _jump(last, first, zone)


def closing(wall: datetime, zone: ZoneInfo) -> datetime:
    """The instant (UTC) after the last at which the clock in `zone` reads less than `wall` (naive)."""
    before = wall - _SECOND
    first, last = _folds(before, zone)
    return last + _SECOND if first <= last else _jump(last, first, zone)


def local_date(instant: datetime, zone: ZoneInfo) -> date:
    """The date in a zone at an instant."""
    return instant.astimezone(zone).date()


def _folds(wall: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """`wall` with the offset before and after a change; in a gap the first is the later one (PEP 495)."""
    return (
        wall.replace(tzinfo=zone, fold=0).astimezone(UTC),
        wall.replace(tzinfo=zone, fold=1).astimezone(UTC),
    )


def _jump(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    """The instant between `low` and `high` at which the offset changes, by bisection to the second."""
    before = low.astimezone(zone).utcoffset()
    while high - low > _SECOND:
        middle = low + timedelta(seconds=int((high - low).total_seconds() / 2))
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high
