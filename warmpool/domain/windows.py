"""The windows of a pool: spans of time in which a floor holds.

Four kinds, told apart by their fields: days of the week, dates, a cron expression, or one span from a start
to an end. All times are on the clock of the pool's zone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from typing import Annotated, Final, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from warmpool.domain.cron import CronError, CronSchedule, parse_cron
from warmpool.domain.date_ranges import days_between, merge
from warmpool.domain.field_types import (
    DAYS,
    Dates,
    Days,
    Duration,
    LocalSpan,
    Name,
    Replicas,
    StrictModel,
    TimeOfDay,
    Warmth,
)
from warmpool.domain.floor import Floor

MAX_OPENINGS_PER_DAY: Final = 48
"""How often a cron window may open on one day. Knative keeps a replica for about 90 s after its floor fell
and each opening may cost a cold start, so that shorter pauses save nothing."""


class _Window(StrictModel):
    """What every window has: a name and the floor that it holds."""

    name: Name
    replicas: Annotated[Replicas, Field(ge=1)]
    warmth: Warmth = "hot"

    @property
    def floor(self) -> Floor:
        """What it holds while it is open."""
        return Floor.of(self.replicas, self.warmth)

    @property
    def openings_per_day(self) -> int:
        """How often it opens on one day at most."""
        return 1


class _DailyWindow(_Window):
    """A span between two times of day; `to` before `from` means the next day."""

    from_: Annotated[TimeOfDay, Field(alias="from")]
    to: TimeOfDay

    @field_validator("from_")
    @classmethod
    def _opens_before_midnight(cls, value: time) -> time:
        if value == time.max:
            raise ValueError(
                'must be from "00:00" to "23:59"; a window that opens at midnight is from "00:00"'
            )
        return value

    @field_validator("to")
    @classmethod
    def _not_empty(cls, value: time, info: ValidationInfo) -> time:
        if value == info.data.get("from_"):
            raise ValueError('must differ from "from"; a whole day is from "00:00" to "24:00"')
        return value

    @property
    def overnight(self) -> bool:
        """Whether it closes on the day after it opens."""
        return self.to < self.from_


class WeeklyWindow(_DailyWindow):
    """A span of local time on some days of the week: those on which it opens."""

    days: Days = DAYS

    def opening_days(self, first: date, last: date) -> Iterator[date]:
        """The days from `first` to `last` on which it opens."""
        weekdays = {DAYS.index(day) for day in self.days}
        return (day for day in days_between(first, last) if day.weekday() in weekdays)


class DatedWindow(_DailyWindow):
    """A span of local time that opens on the dates named, in addition to every other window."""

    dates: Annotated[Dates, Field(min_length=1)]

    def opening_days(self, first: date, last: date) -> Iterator[date]:
        """The days from `first` to `last` on which it opens."""
        named = merge(item for entry in self.dates for item in entry.within(first, last))
        return (day for item in named for day in days_between(item.first, item.last))


class CronWindow(_Window):
    """A window that opens when a cron expression fires (local time) and stays open for a duration."""

    cron: Annotated[str, Field(max_length=128)]
    duration: Duration

    @field_validator("cron")
    @classmethod
    def _valid_expression(cls, value: str) -> str:
        try:
            parse_cron(value)
        except CronError as problem:
            expected = 'must be five cron fields (minute hour day month weekday), e.g. "30 7 * * MON-FRI"'
            raise ValueError(f"{expected}: {problem}") from None
        return value

    @field_validator("duration")
    @classmethod
    def _bounded(cls, value: timedelta) -> timedelta:
        if not timedelta(minutes=1) <= value <= timedelta(days=7):
            raise ValueError('must be from "1m" to "7d"')
        return value

    @model_validator(mode="after")
    def _opens_seldom_enough(self) -> Self:
        openings = self.openings_per_day
        if openings > MAX_OPENINGS_PER_DAY:
            raise ValueError(
                f"must open at most {MAX_OPENINGS_PER_DAY} times a day, not {openings}: with a longer "
                "duration openings run together and count as one"
            )
        return self

    @property
    def schedule(self) -> CronSchedule:
        """The expression, parsed."""
        return parse_cron(self.cron)

    @property
    def openings_per_day(self) -> int:
        """How often it opens on a day on which it fires; firings that the duration joins are one opening."""
        return len(self.schedule.daily_spans(self.duration))


class SpanWindow(_Window, LocalSpan):
    """A window that is open once, from a start to an end on the clock of the pool's zone."""


_KINDS: Final = {
    "weekly": frozenset({"days"}),
    "dated": frozenset({"dates"}),
    "cron": frozenset({"cron", "duration"}),
    "span": frozenset({"start", "end"}),
}
"""The fields that only this kind of window has."""


def _one_kind(value: object) -> object:
    """Refuse fields of two kinds of window in one."""
    if not isinstance(value, Mapping):
        return value
    found = [sorted(own & value.keys()) for own in _KINDS.values() if own & value.keys()]
    if len(found) > 1:
        named = " and ".join(names[0] for names in found)
        raise ValueError(f"must be one kind of window, not one with {named}")
    return value


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return next((kind for kind, own in _KINDS.items() if own & value.keys()), "weekly")
    kinds = ((DatedWindow, "dated"), (CronWindow, "cron"), (SpanWindow, "span"))
    return next((kind for model, kind in kinds if isinstance(value, model)), "weekly")


Window = Annotated[
    Annotated[WeeklyWindow, Tag("weekly")]
    | Annotated[DatedWindow, Tag("dated")]
    | Annotated[CronWindow, Tag("cron")]
    | Annotated[SpanWindow, Tag("span")],
    Discriminator(_kind),
    BeforeValidator(_one_kind),
]
WINDOW_KINDS: Final = frozenset(_KINDS)
"""The tags of the union, which pydantic puts into a location though they are not fields."""
