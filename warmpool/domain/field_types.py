"""The scalar fields of a WarmPool as annotated types, read strictly and written back as they were.

Each validator's message says what would be right; the caller puts the field and the value in front of it.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
)
from pydantic.alias_generators import to_camel

from warmpool.domain import date_ranges
from warmpool.domain.duration import format_duration, parse_duration
from warmpool.domain.time_zones import parse_zone

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
Warmth = Literal["hot", "asleep", "standby"]
WARMTHS: Final[tuple[Warmth, ...]] = ("hot", "asleep", "standby")
"""From the readiest (and dearest) to the least ready."""
Period = Literal["day", "week", "month"]
MAX_REPLICAS: Final = 10_000
"""Far more than any pool of GPUs holds and far below int32, so that a typing error is refused."""
MAX_DATES: Final = 366
"""Dates and ranges of one window or exception, as the CRD's schema limits them."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LOCAL_DATE_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]")


class StrictModel(BaseModel):
    """A frozen model that takes no unknown fields and converts no types; its fields are camelCase in YAML."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )


def _parse_label(text: str) -> str:
    if _LABEL.fullmatch(text) is None:
        raise ValueError("must be lower-case letters, digits and dashes, at most 63, e.g. office-hours")
    return text


def _parse_time_of_day(value: object) -> object:
    """`24:00`, the end of a day, becomes `time.max`, because `time` has no such value."""
    expected = 'must be a time of day in quotes, from "00:00" to "23:59" ("24:00" at the end of a window)'
    if isinstance(value, time):
        return value
    if not isinstance(value, str):
        raise ValueError(expected)  # noqa: TRY004  pydantic turns only ValueError into a field error
    if value == "24:00":
        return time.max
    if re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", value) is None:
        raise ValueError(expected)
    return time.fromisoformat(value)


def _format_time_of_day(value: time) -> str:
    return "24:00" if value == time.max else value.strftime("%H:%M")


def _parse_local_date_time(value: object) -> object:
    """A date and a time on the clock of the pool's zone, to the minute."""
    expected = 'must be a local date and time such as "2026-12-04T20:00", without an offset'
    if isinstance(value, datetime):  # YAML reads one with seconds as a timestamp
        if value.tzinfo is not None or value.second or value.microsecond:
            raise ValueError(expected)
        return value
    if not isinstance(value, str) or _LOCAL_DATE_TIME.fullmatch(value) is None:
        raise ValueError(expected)
    try:
        return datetime.fromisoformat(value)
    except ValueError:  # 30 February
        raise ValueError(expected) from None


def _parse_duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise ValueError('must be a duration such as "90s", "10m", "1h30m" or "7d"')  # noqa: TRY004
    return parse_duration(value)


def _parse_auto_or_duration(value: object) -> object:
    if value == "auto":
        return value
    try:
        return _parse_duration(value)
    except ValueError as problem:
        raise ValueError(f"{problem}, or auto") from None


def _parse_money(value: object) -> object:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number such as 400 or 99.5")  # noqa: TRY004
    if not math.isfinite(value):
        raise ValueError("must be a finite number such as 400 or 99.5")
    return Decimal(str(value))


def _parse_days(value: object) -> object:
    """`["Mon-Fri", "Sun"]` as the tuple of days; a range may wrap (`Sat-Mon`)."""
    expected = "must be a list of days (Mon, Tue, Wed, Thu, Fri, Sat, Sun) or ranges such as Mon-Fri"
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(expected)
    chosen: set[str] = set()
    for item in value:
        first, dash, last = item.partition("-") if isinstance(item, str) else ("", "", "")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"{expected}, not {item!r}")
        start = DAYS.index(first)
        following = (DAYS.index(last) - start) % 7 if dash else 0
        chosen.update(DAYS[(start + step) % 7] for step in range(following + 1))
    return tuple(day for day in DAYS if day in chosen)


Name = Annotated[str, AfterValidator(_parse_label)]
ZoneName = Annotated[str, AfterValidator(parse_zone)]
TimeOfDay = Annotated[
    time,
    BeforeValidator(_parse_time_of_day),
    PlainSerializer(_format_time_of_day, return_type=str, when_used="always"),
]
LocalDateTime = Annotated[
    datetime,
    BeforeValidator(_parse_local_date_time),
    PlainSerializer(lambda value: value.strftime("%Y-%m-%dT%H:%M"), return_type=str),
]
Duration = Annotated[
    timedelta, BeforeValidator(_parse_duration), PlainSerializer(format_duration, return_type=str)
]
AutoOrDuration = Annotated[
    Literal["auto"] | timedelta,
    BeforeValidator(_parse_auto_or_duration),
    PlainSerializer(lambda value: value if value == "auto" else format_duration(value), return_type=str),
]
Money = Annotated[
    Decimal,
    BeforeValidator(_parse_money),
    PlainSerializer(lambda value: int(value) if value == int(value) else float(value)),
]
Replicas = Annotated[int, Field(ge=0, le=MAX_REPLICAS)]
Days = Annotated[tuple[str, ...], BeforeValidator(_parse_days), Field(strict=False)]
Dates = Annotated[
    date_ranges.Dates,
    BeforeValidator(date_ranges.parse_dates),
    Field(strict=False, max_length=MAX_DATES),
    PlainSerializer(lambda value: [str(item) for item in value], return_type=list[str]),
]


def _parse_share(value: object) -> object:
    """`1%` or 0.01."""
    expected = 'must be a share such as "1%" or 0.01, above 0 and at most 1'
    if isinstance(value, str):
        try:
            value = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
        except ValueError:
            raise ValueError(expected) from None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
        raise ValueError(expected)
    return float(value)


Share = Annotated[
    float, BeforeValidator(_parse_share), PlainSerializer(lambda share: f"{share:.6g}", return_type=str)
]


class LocalSpan(StrictModel):
    """From a start to an end, once, on the clock of the pool's zone."""

    start: LocalDateTime
    end: LocalDateTime

    @field_validator("end")
    @classmethod
    def _after_start(cls, value: LocalDateTime, info: ValidationInfo) -> LocalDateTime:
        start = info.data.get("start")
        if start is not None and value <= start:
            raise ValueError(f'must be after "start" = {start:%Y-%m-%dT%H:%M}')
        return value


def _parse_margin(value: object) -> object:
    """`2%`, 0.02, or `off`."""
    if value is None or value in {"off", False}:  # YAML reads an unquoted off as false
        return None
    try:
        return _parse_share(value)
    except ValueError as problem:
        raise ValueError(f"{problem}, or off") from None


Margin = Annotated[
    float | None,
    BeforeValidator(_parse_margin),
    PlainSerializer(lambda share: "off" if share is None else f"{share:.6g}", return_type=str),
]
"""A difference that is allowed between two shares; None: they are not compared."""
