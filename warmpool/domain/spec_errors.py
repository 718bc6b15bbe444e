"""Pydantic's errors as lines that a person can act on: field, value, and what would be right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError


class SpecError(ValueError):
    """A WarmPool that cannot be read: `problems` has one line for each thing that is wrong."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.problems = lines


_TAGS: Final = {"weekly", "cron"}
"""The kinds of a window, which pydantic puts into a location though they are no fields."""

_RIGHT: Final = {
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
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "too_long": "must have at most {max_length} entries",
}


def describe_errors(error: ValidationError, root: str = "spec") -> list[str]:
    """One line per problem: `spec.windows[0].from = 600, must be ...`."""
    lines = []
    for entry in error.errors(include_url=False):
        path = root
        before: int | str = ""
        for part in entry["loc"]:
            if not (isinstance(before, int) and part in _TAGS):
                path += f"[{part}]" if isinstance(part, int) else f".{part}"
            before = part
        lines.append(f"{path}{_show_input(entry)}{_right(entry)}")
    return lines


def _show_input(entry: Mapping[str, Any]) -> str:
    value = entry["input"]
    if entry["type"] in {"missing", "extra_forbidden"} or isinstance(value, dict | list | tuple | BaseModel):
        return " "
    return f" = {value!r}, "


def _right(entry: Mapping[str, Any]) -> str:
    context = entry.get("ctx", {})
    if entry["type"] == "value_error":
        return str(context["error"])
    pattern = _RIGHT.get(entry["type"])
    return pattern.format(**context) if pattern else f"must be right: {entry['msg']}"
