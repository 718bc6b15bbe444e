"""Public holidays by country and region, as the `holidays` library knows them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from typing import Annotated, Final

import holidays
from pydantic import Field, ValidationInfo, field_validator

from warmpool.domain.date_ranges import DateRange
from warmpool.domain.field_types import StrictModel

_NOT_ISO: Final = {"UK": "GB", "EN": "GB", "EL": "GR"}
"""Codes in use that ISO 3166 does not assign to a country."""
_NAMES: Final = {"GB": "the United Kingdom", "GR": "Greece"}


class HolidayCalendar(StrictModel):
    """The public holidays of a country, or of one of its regions."""

    country: Annotated[str, Field(max_length=64)]
    region: Annotated[str, Field(max_length=64)] | None = None

    @field_validator("country")
    @classmethod
    def _known_country(cls, value: str) -> str:
        if value in _countries():
            return value
        raise ValueError(
            "must be a country with a known calendar, by its ISO 3166 code, e.g. DE, US or JP"
            + _country_hint(value)
        )

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

    def within(self, first: date, last: date) -> Iterator[DateRange]:
        """Its holidays from `first` to `last`."""
        for year in range(first.year, last.year + 1):
            for day in _public_holidays(self.country, self.region, year):
                yield from DateRange(day, day).within(first, last)


def _country_hint(value: str) -> str:
    code = _NOT_ISO.get(value.upper()) or _aliases().get(value.casefold().replace(" ", ""))
    if code is None and value.upper() in _countries():
        code = value.upper()
    if code is None:
        return ""
    return f"; {code} is {_NAMES[code]}" if code in _NAMES else f"; did you mean {code}?"


@lru_cache(maxsize=1)
def _countries() -> dict[str, list[str]]:
    return holidays.list_supported_countries(include_aliases=False)


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    """Three-letter codes and English names (`GBR`, `unitedkingdom`), each with its two-letter code."""
    found: dict[str, str] = {}
    for entity in holidays.registry.COUNTRIES.values():
        code = next((name for name in entity if name in _countries()), None)
        if code is not None:
            found |= {name.casefold(): code for name in entity}
    return found


@lru_cache(maxsize=1024)
def _public_holidays(country: str, region: str | None, year: int) -> frozenset[date]:
    return frozenset(holidays.country_holidays(country, subdiv=region, years=year))
