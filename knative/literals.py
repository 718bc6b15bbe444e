"""Numbers, durations and quantities as Go and Kubernetes parse and print them (pure).

Knative's annotations and ConfigMaps are written in them. The `parse_*` functions return None for what Go
would refuse; the `read_*` functions raise an error with Go's own message (packages strconv and time).
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

_INTEGER = re.compile(r"[+-]?[0-9]+")
_DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_FLOAT = re.compile(rf"[+-]?{_DECIMAL}(?:[eE][+-]?[0-9]+)?")
_DURATION_PART = re.compile(rf"({_DECIMAL})(ns|us|µs|μs|ms|s|m|h)")
_UNIT_S = {
    "ns": Fraction(1, 10**9), "us": Fraction(1, 10**6), "µs": Fraction(1, 10**6), "μs": Fraction(1, 10**6),
    "ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600),
}  # fmt: skip


MAX_LENGTH = 1000
"""Characters of a number that are parsed at all. Conversion takes time in the square of the digits, and
Python refuses more than 4,300; no valid number of the settings is anywhere near as long."""
_SHOWN = 100
"""Characters of a longer text that an error message shows."""


def parse_integer(text: str) -> int | None:
    """A decimal integer; None if it is not one, or longer than `MAX_LENGTH`."""
    if len(text) > MAX_LENGTH or not _INTEGER.fullmatch(text):
        return None
    return int(text)


def parse_float(text: str) -> float | None:
    """A finite decimal number; None if it is not one, or longer than `MAX_LENGTH`."""
    if len(text) > MAX_LENGTH or not _FLOAT.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


_LONGEST_S = Fraction(2**63 - 1, 10**9)
"""Go counts a duration's nanoseconds in 64 bits and takes nothing longer."""


def parse_duration(text: str) -> Fraction | None:
    """Seconds of a Go duration such as `90s`, `1h30m` or `250ms`; None if it is not one, or too long."""
    if len(text) > MAX_LENGTH:
        return None
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return Fraction(0)
    total, at = Fraction(0), 0
    while part := _DURATION_PART.match(rest, at):
        total += Fraction(part[1]) * _UNIT_S[part[2]]
        at = part.end()
    return sign * total if rest and at == len(rest) and total <= _LONGEST_S else None


_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}


def _shown(text: str) -> str:
    """The text for an error message, cut if it is too long to be parsed."""
    return text if len(text) <= MAX_LENGTH else f"{text[:_SHOWN]}..."


class LiteralError(ValueError):
    """A text that Go refuses to parse; the message is Go's."""


def read_boolean(text: str) -> bool:
    """A boolean as `strconv.ParseBool` parses it."""
    if text not in _BOOLEANS:
        raise LiteralError(f'strconv.ParseBool: parsing "{_shown(text)}": invalid syntax')
    return _BOOLEANS[text]


def read_integer(text: str, bits: int = 64) -> int:
    """A signed integer of `bits` bits as `strconv.ParseInt` parses it."""
    value = parse_integer(text)
    if value is None and _INTEGER.fullmatch(text) is None:
        raise LiteralError(f'strconv.ParseInt: parsing "{_shown(text)}": invalid syntax')
    if value is None or not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise LiteralError(f'strconv.ParseInt: parsing "{_shown(text)}": value out of range')
    return value


def read_unsigned(text: str) -> int:
    """An unsigned integer of 64 bits as `strconv.ParseUint` parses it."""
    if not text.isascii() or not text.isdigit():
        raise LiteralError(f'strconv.ParseUint: parsing "{_shown(text)}": invalid syntax')
    value = parse_integer(text)
    if value is None or value >= 2**64:
        raise LiteralError(f'strconv.ParseUint: parsing "{_shown(text)}": value out of range')
    return value


def read_float(text: str) -> float:
    """A number as `strconv.ParseFloat` parses it, except that infinity and NaN are refused."""
    value = parse_float(text)
    if value is None:
        raise LiteralError(f'strconv.ParseFloat: parsing "{_shown(text)}": invalid syntax')
    return value


def read_duration(text: str) -> Fraction:
    """The seconds of a duration as `time.ParseDuration` parses it."""
    value = parse_duration(text)
    if value is not None:
        return value
    if len(text) > MAX_LENGTH:
        raise LiteralError(f'time: invalid duration "{_shown(text)}"')
    rest = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    while part := _DURATION_PART.match(rest):
        rest = rest[part.end() :]
    number = re.match(rf"({_DECIMAL})([^0-9.]*)", rest)
    if number is None:
        raise LiteralError(f'time: invalid duration "{text}"')
    if not number[2]:
        raise LiteralError(f'time: missing unit in duration "{text}"')
    raise LiteralError(f'time: unknown unit "{number[2]}" in duration "{text}"')


def format_float(value: float) -> str:
    """A number as Go's `%v` formats it."""
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    return repr(value)


def format_duration(seconds: Fraction) -> str:
    """A duration as Go formats it, in whole nanoseconds: `1h0m0s`, `1.5s`, `250ms`, `0s`."""
    nanoseconds = int(seconds * 10**9)
    if nanoseconds == 0:
        return "0s"
    sign, left = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    for unit, size in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if left < size * 1000:
            return f"{sign}{_decimal(left, size)}{unit}"
    whole, left = divmod(left, 60 * 10**9)
    text = f"{_decimal(left, 10**9)}s"
    if whole:
        hours, minutes = divmod(whole, 60)
        text = f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"
    return sign + text


def _decimal(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    digits = f"{rest:0{len(str(size)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)


_QUANTITY = re.compile(rf"([+-]?{_DECIMAL})([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?")
_POWERS = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1),
    **{suffix: Fraction(1000) ** power for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Fraction(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}  # fmt: skip
_MAX_QUANTITY = Fraction(2**63 - 1)


def parse_quantity(text: str) -> Fraction | None:
    """A Kubernetes quantity such as `500m`, `1.5Gi` or `2e3`; None if it is not one, or too long."""
    found = _QUANTITY.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if found is None:
        return None
    suffix = found[2] or ""
    if suffix in _POWERS:
        factor = _POWERS[suffix]
    else:
        # Bounded before it is computed: an exponent of six digits would take hours.
        exponent = max(-MAX_LENGTH, min(int(suffix[1:]), MAX_LENGTH))
        factor = Fraction(10) ** exponent
    # Kubernetes takes a larger quantity for the largest that it can represent.
    return max(-_MAX_QUANTITY, min(Fraction(found[1]) * factor, _MAX_QUANTITY))


def read_quantity(text: str) -> str:
    """The text of a quantity, unchanged.

    Raises:
        LiteralError: it is not a quantity.
    """
    if parse_quantity(text) is None:
        raise LiteralError(
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        )
    return text
