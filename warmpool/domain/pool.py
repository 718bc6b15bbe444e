"""The spec of a WarmPool as values.

One model serves the custom resource (`WarmPoolSpec`) and the `warmPool:` block of an agent file
(`WarmPoolTemplate`, the same without the target). Field names are camelCase in YAML and JSON, values are read
strictly, and `describe_errors` turns pydantic's errors into lines that name the field, the value and what
would be right.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import Annotated, Any, Final, Self
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationError, field_validator, model_validator

from warmpool.domain.field_types import (
    AutoOrDuration,
    Duration,
    Money,
    Name,
    Period,
    Replicas,
    Share,
    StrictModel,
    ZoneName,
)
from warmpool.domain.rollout import Rollout
from warmpool.domain.schedule_exceptions import DayException, ScheduleException
from warmpool.domain.signals import MAX_SIGNALS, Signal
from warmpool.domain.spec_errors import SpecError, describe_errors
from warmpool.domain.windows import CronWindow, DatedWindow, Window

API_VERSION: Final = "pilotlight.dev/v1alpha1"
KIND: Final = "WarmPool"
MAX_CRON_OPENINGS_PER_DAY: Final = 240
"""How often all cron windows of a pool together may open on one day, which bounds the work of a decision."""
_SIMPLE_OPENINGS: Final = 10
_SHORTEST_TTFT: Final = timedelta(seconds=1)
_LONGEST_TTFT: Final = timedelta(hours=1)
MAX_DATES_PER_POOL: Final = 2_000
"""Dates and ranges of all windows and exceptions of a pool, for the same reason."""


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


class ForecastObjective(StrictModel):
    """What the forecast is to achieve, in one of three ways to say it."""

    cold_start_rate: Share | None = None
    """The acceptable share of requests that wait for a start: `1%` or 0.01."""
    cold_start_price: Annotated[float, Field(strict=False, ge=0, le=1_000_000)] | None = None
    """GPU-seconds that sparing one user one cold start is worth, beyond those of the start itself."""
    ttft_p95: Annotated[Duration | None, Field(alias="ttftP95")] = None
    """The 95th percentile of the time to the first token, as far as cold starts make it."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [self.cold_start_rate, self.cold_start_price, self.ttft_p95]
        if sum(value is not None for value in given) != 1:
            raise ValueError("must have exactly one of coldStartRate, coldStartPrice and ttftP95")
        if self.ttft_p95 is not None and not _SHORTEST_TTFT <= self.ttft_p95 <= _LONGEST_TTFT:
            raise ValueError('must have a ttftP95 from "1s" to "1h"')
        return self


class Forecast(StrictModel):
    """Hold what demand has brought for as long as it is likely to be needed again."""

    objective: ForecastObjective


class WarmPoolTemplate(StrictModel):
    """Everything about a pool but its target, which an agent file takes from the stage."""

    time_zone: ZoneName = "UTC"
    windows: Annotated[tuple[Window, ...], Field(strict=False, max_length=100)] = ()
    exceptions: Annotated[tuple[ScheduleException, ...], Field(strict=False, max_length=100)] = ()
    keep_alive: AutoOrDuration | None = None
    """How long the last replica is kept after the last request; `auto` is the break-even time."""
    forecast: Forecast | None = None
    """Hold what demand has brought for as long as it is likely to be needed again; None: no forecast."""
    signals: Annotated[tuple[Signal, ...], Field(strict=False, max_length=MAX_SIGNALS)] = ()
    """Metrics of which each asks for as many replicas as bring it to its target."""
    lead_time: AutoOrDuration = "auto"
    """How long before a window opens the floor rises; `auto` is the cold start's measured p95."""
    limits: Limits = Limits()
    rollout: Rollout | None = None
    """How a new Revision gets the traffic; None: as the Service says."""
    enabled: bool = True

    @field_validator("windows", "exceptions", "signals")
    @classmethod
    def _unique_names(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [item.name for item in value]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"must have unique names; {', '.join(repeated)} is used more than once")
        return value

    @model_validator(mode="after")
    def _few_dates(self) -> Self:
        entries = (*self.windows, *self.exceptions)
        dates = sum(len(entry.dates) for entry in entries if isinstance(entry, DatedWindow | DayException))
        if dates > MAX_DATES_PER_POOL:
            raise ValueError(
                f"must name at most {MAX_DATES_PER_POOL} dates and ranges in all, not {dates}: "
                "public holidays are named by country, and days of every year as 12-24"
            )
        return self

    @field_validator("windows")
    @classmethod
    def _few_openings(cls, value: tuple[Window, ...]) -> tuple[Window, ...]:
        openings = sum(window.openings_per_day for window in value if isinstance(window, CronWindow))
        if openings > MAX_CRON_OPENINGS_PER_DAY:
            raise ValueError(
                f"must have cron windows that open at most {MAX_CRON_OPENINGS_PER_DAY} times a day together, "
                f"not {openings}"
            )
        return value

    @field_validator("time_zone", "windows", "exceptions", "signals", "limits")
    @classmethod
    def _share_equal_values(cls, value: Any) -> Any:
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

    @property
    def has_complex_schedule(self) -> bool:
        """Whether its schedule opens so often that working it out may take more than some milliseconds."""
        openings = sum(window.openings_per_day for window in self.windows)
        return openings + len(self.exceptions) > _SIMPLE_OPENINGS

    def to_wire(self) -> dict[str, Any]:
        """The spec as JSON values, without fields that have their default."""
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
        """Read a spec from JSON values.

        Raises:
            SpecError: with one line per problem.
        """
        try:
            return cls.model_validate(spec)
        except ValidationError as error:
            raise SpecError(describe_errors(error)) from None


@lru_cache(maxsize=4096)
def _shared(value: Any) -> Any:
    """An equal value that was seen before: many pools have the same windows, which take up much memory."""
    return value
