"""Durations as a WarmPool writes them: `90s`, `10m`, `1h30m`, `7d`.

Go's notation, as Knative's annotations use it, plus days, in whole seconds.
"""

from __future__ import annotations

import re
from datetime import timedelta

PATTERN = r"^(?:[0-9]+d)?(?:[0-9]+h)?(?:[0-9]+m)?(?:[0-9]+s)?$"
"""The same as in the CRD's schema; it matches the empty string too, which is refused separately."""

_MAX_LENGTH = 32
"""As in the CRD's schema."""
_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_PART = re.compile(r"([0-9]+)([dhms])")


def parse_duration(text: str) -> timedelta:
    """Read `1h30m` as a timedelta.

    Raises:
        ValueError: when the text is not a duration; the message says what is right.
    """
    if not text or len(text) > _MAX_LENGTH or re.fullmatch(PATTERN, text) is None:
        raise ValueError('must be a duration such as "90s", "10m", "1h30m" or "7d"')
    seconds = sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if seconds > 366 * 86_400:
        raise ValueError('must be a duration of at most "366d"')
    return timedelta(seconds=seconds)


def format_duration(span: timedelta) -> str:
    """A timedelta in the same notation, rounded to the second; zero is `0s`."""
    left = round(span.total_seconds())
    if left == 0:
        return "0s"
    sign, left = ("-", -left) if left < 0 else ("", left)
    parts = []
    for unit, size in _UNITS.items():
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return sign + "".join(parts)
