"""Calendar periods of a budget, in the pool's own time zone."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from warmpool.domain.field_types import Period
from warmpool.domain.local_time import local_date, opening


def budget_period(now: datetime, period: Period, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Start and end (UTC) of the day, the week (from Monday) or the month in which `now` lies."""
    return _period_with(local_date(now, zone), period, zone)


@lru_cache(maxsize=4096)
def _period_with(day: date, period: Period, zone: ZoneInfo) -> tuple[datetime, datetime]:
    if period == "day":
        first, after = day, day + timedelta(days=1)
    elif period == "week":
        first = day - timedelta(days=day.weekday())
        after = first + timedelta(days=7)
    else:
        first = day.replace(day=1)
        after = (first + timedelta(days=31)).replace(day=1)
    return _midnight(first, zone), _midnight(after, zone)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return opening(datetime.combine(day, time.min), zone)
