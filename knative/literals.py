"""Numbers and durations as Go writes them, which is how Knative reads its annotations."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DURATION_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_S = {
    "ns": Fraction(1, 10**9), "us": Fraction(1, 10**6), "µs": Fraction(1, 10**6), "μs": Fraction(1, 10**6),
    "ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600),
}  # fmt: skip


def parse_integer(text: str) -> int | None:
    """A decimal integer; None when it is not one."""
    return int(text) if _INTEGER.fullmatch(text) else None


def parse_float(text: str) -> float | None:
    """A finite decimal number; None when it is not one."""
    if not _FLOAT.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def parse_duration(text: str) -> Fraction | None:
    """Seconds of a Go duration such as `90s`, `1h30m` or `250ms`; None when it is not one."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return Fraction(0)
    total, at = Fraction(0), 0
    while part := _DURATION_PART.match(rest, at):
        total += Fraction(part[1]) * _UNIT_S[part[2]]
        at = part.end()
    return sign * total if rest and at == len(rest) else None
