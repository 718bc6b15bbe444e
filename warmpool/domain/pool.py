"""The spec of a WarmPool as values.

One model serves the custom resource (`WarmPoolSpec`) and the `warmPool:` block of an agent file
(`WarmPoolTemplate`, the same without the target). Field names are camelCase in YAML and JSON, values are read
strictly, and `describe_errors` turns pydantic's errors into lines that name the field, the value and what
would be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, time, timedelta
from functools import lru_cache
from typing import Annotated, Any, Final, Self
from zoneinfo import ZoneInfo

import holidays
from cronsim import CronSim, CronSimError
from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from warmpool.domain.field_types import (
    DAYS,
    AutoOrDuration,
    Dates,
    Days,
    Duration,
    Money,
    Name,
    Period,
    Replicas,
    StrictModel,
    TimeOfDay,
    Warmth,
    ZoneName,
)
from warmpool.domain.spec_errors import SpecError, describe_errors

API_VERSION: Final = "pilotlight.dev/v1alpha1"
KIND: Final = "WarmPool"

_PROBE: Final = datetime(2024, 1, 1)  # noqa: DTZ001  any wall-clock time will do to try an expression


class WeeklyWindow(StrictModel):
    """A span of local time on some days of the week; `to` before `from` means the next day.

    `days` are the days on which the window opens.
    """

    name: Name
    days: Days = DAYS
    from_: Annotated[TimeOfDay, Field(alias="from")]
    to: TimeOfDay
    replicas: Annotated[Replicas, Field(ge=1)]
    warmth: Warmth = "hot"

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
    def weekdays(self) -> frozenset[int]:
        """The days on which it opens, Monday is 0."""
        return frozenset(DAYS.index(day) for day in self.days)

    @property
    def overnight(self) -> bool:
        """Whether it closes on the day after it opens."""
        return self.to < self.from_


class CronWindow(StrictModel):
    """A window that opens when a cron expression fires (local time) and stays open for a duration."""

    name: Name
    cron: str
    duration: Duration
    replicas: Annotated[Replicas, Field(ge=1)]
    warmth: Warmth = "hot"

    @field_validator("cron")
    @classmethod
    def _parses(cls, value: str) -> str:
        right = 'must be five cron fields (minute hour day month weekday), e.g. "30 7 * * MON-FRI"'
        if len(value.split()) != 5:
            raise ValueError(right)
        try:
            CronSim(value, _PROBE)
        except CronSimError as wrong:
            raise ValueError(f"{right}: {str(wrong).lower()}") from None
        return value

    @field_validator("duration")
    @classmethod
    def _bounded(cls, value: timedelta) -> timedelta:
        if not timedelta(minutes=1) <= value <= timedelta(days=7):
            raise ValueError('must be from "1m" to "7d"')
        return value


def _window_kind(value: object) -> str:
    if isinstance(value, Mapping):
        return "cron" if "cron" in value or "duration" in value else "weekly"
    return "cron" if isinstance(value, CronWindow) else "weekly"


Window = Annotated[
    Annotated[WeeklyWindow, Tag("weekly")] | Annotated[CronWindow, Tag("cron")], Discriminator(_window_kind)
]


class HolidayCalendar(StrictModel):
    """The public holidays of a country, or of one of its regions."""

    country: str
    region: str | None = None

    @field_validator("country")
    @classmethod
    def _known_country(cls, value: str) -> str:
        if value not in _countries():
            raise ValueError(
                "must be a country with a known calendar, by its ISO 3166 code, e.g. DE, US or JP"
            )
        return value

    @field_validator("region")
    @classmethod
    def _known_region(cls, value: str | None, info: ValidationInfo) -> str | None:
        country = info.data.get("country")
        if value is None or country is None:
            return value
        regions = _countries()[country]
        if value not in regions:
            known = f"one of {', '.join(sorted(regions))}" if regions else "left out: its calendar has none"
            raise ValueError(f"must be a region of {country}: {known}")
        return value


@lru_cache(maxsize=1)
def _countries() -> dict[str, list[str]]:
    return holidays.list_supported_countries(include_aliases=False)


class DayException(StrictModel):
    """Days on which the windows do not count; `replicas` holds from `from` to `to` of those days instead.

    Days are given as dates, as a holiday calendar, or both. Where several exceptions name a day, the first
    counts.
    """

    name: Name
    dates: Dates = ()
    holidays: HolidayCalendar | None = None
    replicas: Replicas = 0
    from_: Annotated[TimeOfDay, Field(alias="from")] = time.min
    to: TimeOfDay = time.max
    warmth: Warmth = "hot"

    @model_validator(mode="after")
    def _names_days(self) -> Self:
        if not self.dates and self.holidays is None:
            raise ValueError("must name days: dates, holidays or both")
        if self.to <= self.from_:
            raise ValueError('must have "to" after "from": an exception does not cross midnight')
        return self


class Budget(StrictModel):
    """What the pool may cost per calendar period (in the pool's time zone; weeks start on Monday)."""

    amount: Annotated[Money, Field(ge=0)]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    period: Period = "month"


class Limits(StrictModel):
    """The bounds of the floor, and of its cost."""

    min: Replicas = 0
    max: Replicas | None = None
    budget: Budget | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"must have max at or above min = {self.min}")
        return self


class WarmPoolTemplate(StrictModel):
    """Everything about a pool but its target: an agent file puts it under a stage."""

    time_zone: ZoneName = "UTC"
    windows: Annotated[tuple[Window, ...], Field(strict=False, max_length=100)] = ()
    exceptions: Annotated[tuple[DayException, ...], Field(strict=False, max_length=100)] = ()
    keep_alive: AutoOrDuration | None = None
    """How long the last replica is kept after the last request; `auto` is the break-even time."""
    lead_time: AutoOrDuration = "auto"
    """How long before a window opens the floor rises; `auto` is the cold start's measured p95."""
    limits: Limits = Limits()
    enabled: bool = True

    @field_validator("windows", "exceptions")
    @classmethod
    def _unique_names(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [item.name for item in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"must have a different name each; {', '.join(twice)} is there more than once")
        return value

    @field_validator("time_zone", "windows", "exceptions", "limits")
    @classmethod
    def _one_of_each(cls, value: Any) -> Any:
        return _shared(value)

    @field_validator("lead_time")
    @classmethod
    def _bounded_lead(cls, value: timedelta | str) -> timedelta | str:
        if isinstance(value, timedelta) and value > timedelta(hours=2):
            raise ValueError('must be at most "2h", or auto')
        return value

    @property
    def zone(self) -> ZoneInfo:
        """The zone in which windows, exceptions and budget periods are read."""
        return ZoneInfo(self.time_zone)

    def to_wire(self) -> dict[str, Any]:
        """The spec as JSON values, without what was left at its default."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def to_object(self, name: str, namespace: str, target: str) -> dict[str, Any]:
        """The WarmPool object that holds this template for the Service `target`."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"target": target, **self.to_wire()},
        }


class WarmPoolSpec(WarmPoolTemplate):
    """The spec of a WarmPool object."""

    target: Name
    """The Knative Service, in the same namespace."""

    @classmethod
    def parse(cls, spec: object) -> Self:
        """Read a spec from the wire.

        Raises:
            SpecError: with one line per problem.
        """
        try:
            return cls.model_validate(spec)
        except ValidationError as wrong:
            raise SpecError(describe_errors(wrong)) from None


@lru_cache(maxsize=4096)
def _shared(value: Any) -> Any:
    """The first value that was equal to this one: many pools have the same windows, and these are large."""
    return value
