"""Whole numbers in annotations and quantities, which anybody may write: read strictly, in bounded time."""

from __future__ import annotations

import re
from typing import Final

_COUNT: Final = re.compile(r"\+?[0-9]{1,9}", re.ASCII)


def parse_count(value: object) -> int | None:
    """A number from 0 to 999,999,999, as an integer or in ASCII digits; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if 0 <= value < 1_000_000_000 else None
    if isinstance(value, str) and _COUNT.fullmatch(value):
        return int(value)
    return None
