"""The scalar fields of a WarmPool as annotated types: read strictly from the wire, written back as they were.

Each message says what would be right, so that the caller only has to put field and value in front of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Final, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from warmpool.domain.duration import format_duration, parse_duration

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
Warmth = Literal["hot", "asleep", "standby"]
WARMTHS: Final[tuple[Warmth, ...]] = ("hot", "asleep", "standby")
"""From the readiest (and dearest) to the least ready."""
Period = Literal["day", "week", "month"]
MAX_REPLICAS: Final = 10_000
"""Far above any pool of GPUs, far below int32: a slipped finger is refused."""

_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")


def _dns_label(text: str) -> str:
    if _LABEL.match(text) is None:
        raise ValueError("must be lower-case letters, digits and dashes, at most 63, e.g. office-hours")
    return text


def _read_time(value: object) -> object:
    """Midnight at a day's end is `24:00`, kept as `time.max` because `time` has no such value."""
    right = 'must be a time of day in quotes, from "00:00" to "23:59" ("24:00" at the end of a window)'
    if isinstance(value, time):
        return value
    if not isinstance(value, str):
        raise ValueError(right)  # noqa: TRY004  pydantic turns only ValueError into a field error
    if value == "24:00":
        return time.max
    if re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", value) is None:
        raise ValueError(right)
    return time.fromisoformat(value)


def _show_time(value: time) -> str:
    return "24:00" if value == time.max else value.strftime("%H:%M")


def _read_duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise ValueError('must be a duration such as "90s", "10m", "1h30m" or "7d"')  # noqa: TRY004
    return parse_duration(value)


def _read_auto_or_duration(value: object) -> object:
    if value == "auto":
        return value
    try:
        return _read_duration(value)
    except ValueError as wrong:
        raise ValueError(f"{wrong}, or auto") from None


def _read_money(value: object) -> object:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number such as 400 or 99.5")  # noqa: TRY004
    return Decimal(str(value))


def _zone(name: str) -> str:
    if name not in _zones():
        raise ValueError("must be an IANA time zone such as Europe/Berlin, America/New_York or UTC")
    return name


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    """Every zone of the time-zone database; a name like `localtime` is the machine's, not the user's."""
    return frozenset(available_timezones() - {"localtime"})


Name = Annotated[str, AfterValidator(_dns_label)]
ZoneName = Annotated[str, AfterValidator(_zone)]
TimeOfDay = Annotated[
    time, BeforeValidator(_read_time), PlainSerializer(_show_time, return_type=str, when_used="always")
]
Duration = Annotated[
    timedelta, BeforeValidator(_read_duration), PlainSerializer(format_duration, return_type=str)
]
AutoOrDuration = Annotated[
    Literal["auto"] | timedelta,
    BeforeValidator(_read_auto_or_duration),
    PlainSerializer(lambda value: value if value == "auto" else format_duration(value), return_type=str),
]
Money = Annotated[
    Decimal,
    BeforeValidator(_read_money),
    PlainSerializer(lambda value: int(value) if value == int(value) else float(value)),
]
Replicas = Annotated[int, Field(ge=0, le=MAX_REPLICAS)]


class StrictModel(BaseModel):
    """Strict, frozen, camelCase, no unknown fields."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )


def _expand_days(value: object) -> object:
    """`["Mon-Fri", "Sun"]` as the tuple of days; a range may wrap (`Sat-Mon`)."""
    right = "must be a list of days (Mon, Tue, Wed, Thu, Fri, Sat, Sun) or ranges such as Mon-Fri"
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(right)
    chosen: set[str] = set()
    for item in value:
        first, dash, last = item.partition("-") if isinstance(item, str) else ("", "", "")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"{right}, not {item!r}")
        start = DAYS.index(first)
        span = (DAYS.index(last) - start) % 7 if dash else 0
        chosen.update(DAYS[(start + step) % 7] for step in range(span + 1))
    return tuple(day for day in DAYS if day in chosen)


Days = Annotated[tuple[str, ...], BeforeValidator(_expand_days), Field(strict=False)]


def _read_dates(value: object) -> object:
    """Dates and ranges of dates (`2026-12-24/2027-01-01`, both ends included), as pairs."""
    right = 'must be a list of dates such as "2026-12-24" or ranges such as "2026-12-24/2027-01-01"'
    if not isinstance(value, Iterable) or isinstance(value, str | dict):
        raise ValueError(right)  # noqa: TRY004  pydantic turns only ValueError into a field error
    spans = []
    for item in value:
        if isinstance(item, tuple):  # already read
            spans.append(item)
            continue
        if isinstance(item, date) and not isinstance(item, datetime):  # YAML reads a bare date as a date
            spans.append((item, item))
            continue
        first, slash, last = item.partition("/") if isinstance(item, str) else ("", "", "")
        try:
            span = (date.fromisoformat(first), date.fromisoformat(last if slash else first))
        except ValueError:
            raise ValueError(f"{right}, not {item!r}") from None
        if span[1] < span[0]:
            raise ValueError(f"must be ranges that end on or after their first day, not {item!r}")
        spans.append(span)
    return tuple(spans)


def _show_dates(value: tuple[tuple[date, date], ...]) -> list[str]:
    return [str(first) if first == last else f"{first}/{last}" for first, last in value]


Dates = Annotated[
    tuple[tuple[date, date], ...],
    BeforeValidator(_read_dates),
    Field(strict=False),
    PlainSerializer(_show_dates, return_type=list[str]),
]
