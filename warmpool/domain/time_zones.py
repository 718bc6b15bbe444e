"""Names of time zones: which are known, what a misspelt one may mean, and which ones surprise people."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import lru_cache
from typing import Final
from zoneinfo import available_timezones

_ABBREVIATIONS: Final = {
    "AEST": "Australia/Sydney",
    "BST": "Europe/London",
    "CDT": "America/Chicago",
    "CEST": "Europe/Berlin",
    "CST": "America/Chicago",
    "EDT": "America/New_York",
    "IST": "Asia/Kolkata",
    "JST": "Asia/Tokyo",
    "MDT": "America/Denver",
    "PDT": "America/Los_Angeles",
    "PST": "America/Los_Angeles",
}
"""What people write who mean a place."""

_WITHOUT_SUMMER_TIME: Final = {"EST": "America/New_York", "MST": "America/Denver"}
"""Zones of the database that keep standard time all year, each with a place that does not."""

_OFFSET = re.compile(r"Etc/GMT([+-])([0-9]{1,2})")


def parse_zone(name: str) -> str:
    """The name, if the time-zone database has it.

    Raises:
        ValueError: the message says what is right, and names the likeliest zone.
    """
    if name in _zones():
        return name
    close = _likely(name)
    hint = f"; did you mean {close}?" if close else ""
    raise ValueError(f"must be an IANA time zone such as Europe/Berlin, America/New_York or UTC{hint}")


def zone_warning(name: str) -> str | None:
    """What surprises people about a zone that they may well have meant; None for most."""
    if name in _WITHOUT_SUMMER_TIME:
        return f"{name} has no summer time; {_WITHOUT_SUMMER_TIME[name]} has"
    offset = _OFFSET.fullmatch(name)
    if offset and int(offset[2]):
        behind = "behind" if offset[1] == "+" else "ahead of"
        return f"{name} is {offset[2]} hours {behind} UTC: the sign of these names is reversed"
    return None


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    """Every zone of the database but `localtime`, which is the machine's and not the user's."""
    return frozenset(available_timezones() - {"localtime"})


def _likely(name: str) -> str | None:
    if name.upper() in _ABBREVIATIONS:
        return _ABBREVIATIONS[name.upper()]
    wanted = name.casefold().replace(" ", "_")[:64]
    by_name = {zone.casefold(): zone for zone in _zones()}
    if wanted in by_name:
        return by_name[wanted]
    cities = {zone.casefold().rpartition("/")[2]: zone for zone in sorted(_zones())}
    close = get_close_matches(wanted, by_name, n=1, cutoff=0.8)
    if close:
        return by_name[close[0]]
    close = get_close_matches(wanted.rpartition("/")[2], cities, n=1, cutoff=0.8)
    return cities[close[0]] if close else None
