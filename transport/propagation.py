"""Header fields in which the servers on a request's way tell each other about it: names and parsers.

| field | direction | meaning |
|---|---|---|
| `X-Pilotlight-Deadline` | request | seconds that are left for the answer |
| `X-Pilotlight-Held` | request | seconds for which an activator held it before it passed it on |
| `X-Pilotlight-Retries` | request | how often it may still be sent again, by all servers behind together |
| `X-Pilotlight-Retries-Used` | response | how many of those were used |
| `X-Pilotlight-Undelivered` | response | `true`: an activator answered, and no replica has seen the request |

Names are in lower case, as ASGI has them.
"""

from __future__ import annotations

import math
import re

DEADLINE = b"x-pilotlight-deadline"
HELD = b"x-pilotlight-held"
RETRIES = b"x-pilotlight-retries"
RETRIES_USED = b"x-pilotlight-retries-used"
UNDELIVERED = b"x-pilotlight-undelivered"

MAX_DEADLINE_S = 7 * 24 * 3600.0
"""A week: longer than any answer takes. A greater number is a mistake, and too large for a timer."""
MAX_RETRIES = 100
"""A greater number is read as this one."""

_LONGEST_NUMBER = 32
_DECIMAL = re.compile(rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def parse_deadline(value: bytes) -> float:
    """Seconds that are left; not positive: the deadline has passed.

    Raises:
        ValueError: says what would be right.
    """
    seconds = _number(value)
    if seconds is None or seconds > MAX_DEADLINE_S:
        raise ValueError(f"must be the seconds left, a decimal number up to {MAX_DEADLINE_S:.0f}")
    return seconds


def parse_held(value: bytes | None) -> float | None:
    """Seconds for which the request was held; None for a field that is missing or says nothing."""
    seconds = None if value is None else _number(value)
    return seconds if seconds is not None and seconds >= 0 else None


def parse_retries(value: bytes | None) -> int | None:
    """A number of retries, at most `MAX_RETRIES`; None for a field that is missing or says nothing."""
    if value is None or not value.isdigit():
        return None
    digits = value.lstrip(b"0")
    return MAX_RETRIES if len(digits) > 3 else min(MAX_RETRIES, int(digits or b"0"))


def _number(value: bytes) -> float | None:
    """A finite decimal number; None for anything else."""
    if len(value) > _LONGEST_NUMBER or not _DECIMAL.fullmatch(value):
        return None
    number = float(value)
    return number if math.isfinite(number) else None
