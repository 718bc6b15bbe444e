"""The exceptions of a pool's schedule: times at which its weekly and cron windows do not count."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, time
from typing import Annotated, Any, Final, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from warmpool.domain.date_ranges import DateRange, merge
from warmpool.domain.field_types import (
    Dates,
    LocalSpan,
    Name,
    Replicas,
    StrictModel,
    TimeOfDay,
    Warmth,
)
from warmpool.domain.floor import Floor
from warmpool.domain.holiday_calendars import HolidayCalendar


class _Exception(StrictModel):
    name: Name
    replicas: Replicas = 0
    warmth: Warmth = "hot"

    @property
    def floor(self) -> Floor:
        """What it holds instead of the windows."""
        return Floor.of(self.replicas, self.warmth)


class DayException(_Exception):
    """Whole days without the usual windows; `replicas` are held from `from` to `to` of those days instead.

    Days are given as dates, as a holiday calendar, or both. `to` before `from` means the next day.
    """

    dates: Dates = ()
    holidays: HolidayCalendar | None = None
    from_: Annotated[TimeOfDay, Field(alias="from")] = time.min
    to: TimeOfDay = time.max

    @model_validator(mode="after")
    def _names_days(self) -> Self:
        if not self.dates and self.holidays is None:
            raise ValueError("must name its time: dates, holidays or both, or a start and an end")
        if self.to == self.from_:
            raise ValueError('must have "to" different from "from"; a whole day is from "00:00" to "24:00"')
        return self

    @property
    def overnight(self) -> bool:
        """Whether its replicas are held until the following day."""
        return self.to < self.from_

    @property
    def has_hours(self) -> bool:
        """Whether `from` or `to` is given."""
        return bool({"from_", "to"} & self.model_fields_set)

    def days(self, first: date, last: date) -> list[DateRange]:
        """The days from `first` to `last` that it names, in order."""
        named = [item for entry in self.dates for item in entry.within(first, last)]
        return merge([*named, *(self.holidays.within(first, last) if self.holidays else ())])


class SpanException(_Exception, LocalSpan):
    """One span without the usual windows, from a start to an end; `replicas` are held during it instead."""


_SPAN_FIELDS: Final = frozenset({"start", "end"})
_DAY_FIELDS: Final = ("dates", "holidays", "from", "to")


def _one_kind(value: object) -> object:
    """Refuse fields of both kinds in one exception."""
    if isinstance(value, Mapping) and _SPAN_FIELDS & value.keys():
        other = next((field for field in _DAY_FIELDS if field in value), None)
        if other is not None:
            raise ValueError(f"must have either a start and an end or days, not start and {other}")
    return value


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "span" if _SPAN_FIELDS & value.keys() else "days"
    return "span" if isinstance(value, SpanException) else "days"


ScheduleException = Annotated[
    Annotated[DayException, Tag("days")] | Annotated[SpanException, Tag("span")],
    Discriminator(_kind),
    BeforeValidator(_one_kind),
]
EXCEPTION_KINDS: Final = frozenset({"days", "span"})
"""The tags of the union, which pydantic puts into a location though they are not fields."""
