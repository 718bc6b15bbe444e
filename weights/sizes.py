"""Sizes in bytes as people write and read them. Pure."""

from __future__ import annotations

import re

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _UNITS |= {_letter: 1000**_power, f"{_letter}B": 1000**_power, f"{_letter}IB": 1024**_power}
_FORM = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]{0,3})\s*")


def parse_size(text: str) -> int:
    """Bytes of "2GB" (powers of 1000), "512MiB" (powers of 1024) or "1048576".

    Raises:
        ValueError: it is none of these, or has more than twenty digits.
    """
    match = _FORM.fullmatch(text)
    unit = None if match is None else _UNITS.get(match[2].upper())
    if match is None or unit is None:
        raise ValueError(f"size = {text[:40]!r}, must be a number with a unit, such as 2GB or 512MiB")
    return round(float(match[1]) * unit)


def format_size(count: float) -> str:
    """A number of bytes in the largest decimal unit that it reaches."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
