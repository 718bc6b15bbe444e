"""Dates and ranges of dates as a WarmPool names them: once (`2026-12-24`) or every year (`12-24`)."""

from __future__ import annotations

import re
from calendar import isleap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

_EXPECTED = (
    'must be a list of dates such as "2026-12-24", ranges such as "2026-12-24/2027-01-01", '
    'or days of every year such as "12-24" and "12-24/01-01"'
)
_YEARLY = re.compile(r"(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LEAP_YEAR = 2024
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DateRange:
    """The days from `first` to `last`, both included, of one occasion."""

    first: date
    last: date

    def within(self, first: date, last: date) -> Iterator[DateRange]:
        """Its days from `first` to `last`, as ranges."""
        begin, end = max(self.first, first), min(self.last, last)
        if begin <= end:
            yield DateRange(begin, end)

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}/{self.last}"


@dataclass(frozen=True, slots=True)
class YearlyRange:
    """The days from `first` to `last` (month and day, both included) of every year; may cross New Year."""

    first: tuple[int, int]
    last: tuple[int, int]

    def within(self, first: date, last: date) -> Iterator[DateRange]:
        """Its days from `first` to `last`, as ranges; 29 February is a day of leap years only."""
        for year in range(first.year - 1, last.year + 1):
            end_year = year if self.first <= self.last else year + 1
            begin, end = _on_or_after(year, self.first), _on_or_before(end_year, self.last)
            yield from DateRange(begin, end).within(first, last)

    def __str__(self) -> str:
        first, last = (f"{month:02}-{day:02}" for month, day in (self.first, self.last))
        return first if first == last else f"{first}/{last}"


Dates = tuple[DateRange | YearlyRange, ...]


def parse_dates(value: object) -> Dates:
    """Read a list of dates and ranges.

    Raises:
        ValueError: the message says what is right.
    """
    if not isinstance(value, Iterable) or isinstance(value, str | dict):
        raise ValueError(_EXPECTED)  # noqa: TRY004  pydantic turns only ValueError into a field error
    return tuple(_parse_item(item) for item in value)


def merge(ranges: Iterable[DateRange]) -> list[DateRange]:
    """The same days as ranges in order with days between them."""
    merged: list[DateRange] = []
    for item in sorted(ranges, key=lambda item: item.first):
        if merged and item.first <= merged[-1].last + _DAY:
            merged[-1] = DateRange(merged[-1].first, max(merged[-1].last, item.last))
        else:
            merged.append(item)
    return merged


def days_between(first: date, last: date) -> Iterator[date]:
    """Every day from `first` to `last`, both included."""
    day = first
    while day <= last:
        yield day
        day += _DAY


def _on_or_after(year: int, month_and_day: tuple[int, int]) -> date:
    month, day = month_and_day
    if (month, day) == (2, 29) and not isleap(year):
        return date(year, 3, 1)
    return date(year, month, day)


def _on_or_before(year: int, month_and_day: tuple[int, int]) -> date:
    month, day = month_and_day
    if (month, day) == (2, 29) and not isleap(year):
        return date(year, 2, 28)
    return date(year, month, day)


def _parse_item(item: object) -> DateRange | YearlyRange:
    if isinstance(item, DateRange | YearlyRange):
        return item
    if isinstance(item, date) and not isinstance(item, datetime):  # YAML reads an unquoted date as a date
        return DateRange(item, item)
    if not isinstance(item, str):
        raise ValueError(f"{_EXPECTED}, not {item!r}")  # noqa: TRY004
    first, slash, last = item.partition("/")
    try:
        if _YEARLY.fullmatch(first):
            return YearlyRange(_month_and_day(first), _month_and_day(last if slash else first))
        span = DateRange(_full_date(first), _full_date(last if slash else first))
    except ValueError:
        raise ValueError(f"{_EXPECTED}, not {item!r}") from None
    if span.last < span.first:
        raise ValueError(f"must be ranges that end on or after their first day, not {item!r}")
    return span


def _full_date(text: str) -> date:
    """`fromisoformat` alone would take `20261224` and `2026-W52-4` as well, which the schema refuses."""
    if _DATE.fullmatch(text) is None:
        raise ValueError(text)
    return date.fromisoformat(text)


def _month_and_day(text: str) -> tuple[int, int]:
    if _YEARLY.fullmatch(text) is None:
        raise ValueError(text)
    day = date.fromisoformat(f"{_LEAP_YEAR}-{text}")  # 29 February is a day of every year that has it
    return day.month, day.day
