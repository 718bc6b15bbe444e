"""Pydantic's errors as lines that say what to change: the field, its value, and what would be right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from warmpool.domain.schedule_exceptions import EXCEPTION_KINDS
from warmpool.domain.windows import WINDOW_KINDS


class SpecError(ValueError):
    """A WarmPool or a price list that cannot be read; `problems` has one line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


TEXT_NOT_BOOLEAN: Final = (
    "must be text in quotes: YAML reads off, no, on and yes without quotes as true or false"
)
_EXPECTED: Final = {
    "missing": "must be given",
    "extra_forbidden": "is not a field of a warm pool",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be text in quotes",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "tuple_type": "must be a list",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "greater_than": "must be above {gt}",
    "less_than": "must be below {lt}",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "union_tag_invalid": "must be one of {expected_tags}",
    "union_tag_not_found": "must name its {discriminator}",
    "dict_type": "must be a mapping",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
}
_MAX_LINES: Final = 20
_LONGEST_VALUE: Final = 100
"""Characters of a value that a message repeats."""


def describe_errors(error: ValidationError, root: str = "spec") -> list[str]:
    """One line per mistake: `spec.windows[0].from = 600, must be ...`."""
    entries = error.errors(include_url=False)
    lines = [
        f"{_path(entry['loc'], root)}{_value(entry)}{_expectation(entry)}" for entry in entries[:_MAX_LINES]
    ]
    return lines if len(entries) <= _MAX_LINES else [*lines, f"and {len(entries) - _MAX_LINES} more"]


def without_kinds(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A location as a user sees it, without the kind of window that pydantic puts after its index."""
    return tuple(
        part
        for before, part in zip(("", *location), location, strict=False)
        if not (isinstance(before, int) and part in WINDOW_KINDS | EXCEPTION_KINDS)
    )


def _path(location: tuple[int | str, ...], root: str) -> str:
    return root + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in without_kinds(location)
    )


def _value(entry: Mapping[str, Any]) -> str:
    value = entry["input"]
    if entry["type"] in {"missing", "extra_forbidden"} or isinstance(value, dict | list | tuple | BaseModel):
        return " "
    shown = repr(value)
    return f" = {shown if len(shown) <= _LONGEST_VALUE else shown[:_LONGEST_VALUE] + '...'}, "


def _expectation(entry: Mapping[str, Any]) -> str:
    context = entry.get("ctx", {})
    if entry["type"] == "value_error":
        return str(context["error"])
    if entry["type"] == "string_type" and isinstance(entry["input"], bool):
        return TEXT_NOT_BOOLEAN
    pattern = _EXPECTED.get(entry["type"])
    return pattern.format(**context) if pattern else f"must be right: {entry['msg']}"
