"""Cron expressions as days on which they fire and times of day at which they do.

Every firing of a day is the same on each day that matches, so a schedule is worked out from at most 24 hours,
60 minutes and 366 days a year, however often it fires.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import takewhile

from cronsim import CronSim, CronSimError

_MINUTE = timedelta(minutes=1)
_LONGEST_EXPRESSION = 128
_REFERENCE = datetime(2024, 1, 1)  # noqa: DTZ001  any day on the wall clock will do to list times of day


class CronError(ValueError):
    """An expression that cannot be read, or that never fires."""


@dataclass(frozen=True, slots=True)
class CronSchedule:
    """A five-field cron expression, read on the wall clock."""

    expression: str
    minutes_of_day: tuple[int, ...]
    """When it fires on a day that matches, in minutes since midnight, ascending."""
    day_fields: str
    """Day of month, month and day of week."""

    def fires_on(self, day: date) -> bool:
        """Whether a day matches the last three fields."""
        return day in _days(self.day_fields, day.year)

    def daily_spans(self, duration: timedelta) -> tuple[tuple[int, int], ...]:
        """First and last firing of each run of firings on one day that a duration joins, in minutes."""
        return _daily_spans(self.minutes_of_day, int(duration / _MINUTE))


@lru_cache(maxsize=4096)
def parse_cron(expression: str) -> CronSchedule:
    """Parse an expression.

    Raises:
        CronError: it does not have five valid fields, or no day matches it.
    """
    parts = expression.split()
    if len(expression) > _LONGEST_EXPRESSION or len(parts) != 5:
        raise CronError(f"it has {len(parts)} fields")
    minute, hour, *day_fields = parts
    try:
        next(CronSim(expression, _REFERENCE))
        hours = [firing.hour for firing in _first_day(f"0 {hour} * * *")]
        minutes = [firing.minute for firing in _first_day(f"{minute} 0 * * *")]
    except CronSimError as problem:
        raise CronError(str(problem).lower()) from None
    except StopIteration:
        raise CronError("it never fires") from None
    times = sorted(60 * at_hour + at_minute for at_hour in hours for at_minute in minutes)
    return CronSchedule(expression, tuple(times), " ".join(day_fields))


def _first_day(expression: str) -> list[datetime]:
    before = _REFERENCE - _MINUTE
    return list(takewhile(lambda firing: firing.date() == _REFERENCE.date(), CronSim(expression, before)))


@lru_cache(maxsize=4096)
def _days(fields: str, year: int) -> frozenset[date]:
    """The days of a year that match."""
    firings = CronSim(f"0 0 {fields}", datetime(year, 1, 1) - _MINUTE)  # noqa: DTZ001  wall-clock time
    return frozenset(firing.date() for firing in takewhile(lambda firing: firing.year == year, firings))


@lru_cache(maxsize=4096)
def _daily_spans(firings: tuple[int, ...], duration: int) -> tuple[tuple[int, int], ...]:
    spans: list[tuple[int, int]] = []
    for firing in firings:
        if spans and firing <= spans[-1][1] + duration:
            spans[-1] = (spans[-1][0], firing)
        else:
            spans.append((firing, firing))
    return tuple(spans)
