"""Types of single values in a Trigger, the base of its models, and their errors in words (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from knative.literals import parse_duration


class SpecModel(BaseModel):
    """A frozen model that takes no unknown fields and converts no types; its fields are camelCase in YAML."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )


class SpecError(ValueError):
    """A Trigger that cannot be read; `problems` has one line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


PATTERN_OF_DURATION: Final = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
"""Of the CRD's schema."""
LONGEST_DURATION_S: Final = 14 * 86_400.0
"""Two weeks, which is how long SQS keeps a message at most."""

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")
_LONGEST_VALUE: Final = 100
_MAX_LINES: Final = 20
_EXPECTED: Final = {
    "missing": "must be given",
    "extra_forbidden": "is not a field of a Trigger",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text in quotes",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "greater_than": "must be above {gt}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
    "string_pattern_mismatch": "must match {pattern}",
}


def _label(text: str) -> str:
    if _LABEL.fullmatch(text) is None:
        raise ValueError("must be lower-case letters, digits and dashes, at most 63, e.g. support-orders")
    return text


def _seconds(value: object) -> object:
    if isinstance(value, float):
        return value
    seconds = parse_duration(value) if isinstance(value, str) else None
    if seconds is None or not 0 <= seconds <= LONGEST_DURATION_S:
        raise ValueError('must be a duration from "0s" to "336h" such as "500ms", "90s" or "10m"')
    return float(seconds)


def format_seconds(seconds: float) -> str:
    """Seconds as a Go duration, to the millisecond: `1h30m`, `1500ms`."""
    if (milliseconds := round(seconds * 1000)) % 1000:
        return f"{milliseconds}ms"
    left, text = milliseconds // 1000, ""
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or _PRINTABLE.fullmatch(text) is None:
        raise ValueError("must be a URL such as https://HOST/PATH")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must be a URL without credentials: they come from the environment or a Secret")
    return text


def _printable(text: str) -> str:
    if _PRINTABLE.fullmatch(text) is None:
        raise ValueError("must be printable ASCII without spaces")
    return text


def _path(text: str) -> str:
    if not text.startswith("/") or _PRINTABLE.fullmatch(text) is None or "#" in text:
        raise ValueError("must be a path such as /invoke, printable ASCII without spaces and without '#'")
    return text


Name = Annotated[str, AfterValidator(_label)]
Seconds = Annotated[
    float, BeforeValidator(_seconds), PlainSerializer(format_seconds, return_type=str, when_used="json")
]
"""A Go duration in YAML, seconds as a value."""
Url = Annotated[str, Field(max_length=2048), AfterValidator(_url)]
QueueName = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_printable)]
SecretName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
"""The name of a Secret in the Trigger's namespace."""
Path = Annotated[str, Field(max_length=1024), AfterValidator(_path)]


def describe_errors(error: ValidationError, root: str = "spec") -> list[str]:
    """One line per mistake: `spec.retry.attempts = 0, must be at least 1`."""
    entries = error.errors(include_url=False)
    lines = [f"{_location(entry['loc'], root)}{_value(entry)}{_expectation(entry)}" for entry in entries]
    return lines if len(lines) <= _MAX_LINES else [*lines[:_MAX_LINES], f"and {len(lines) - _MAX_LINES} more"]


def _location(location: tuple[int | str, ...], root: str) -> str:
    return root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def _value(entry: Mapping[str, Any]) -> str:
    value = entry["input"]
    if entry["type"] in {"missing", "extra_forbidden"} or isinstance(value, dict | list | tuple | BaseModel):
        return " "
    if "://" in str(value) and "@" in str(value):
        return " "  # a URL with a password in it is not repeated
    shown = repr(value)
    return f" = {shown if len(shown) <= _LONGEST_VALUE else shown[:_LONGEST_VALUE] + '...'}, "


def _expectation(entry: Mapping[str, Any]) -> str:
    context = entry.get("ctx", {})
    if entry["type"] == "value_error":
        return str(context["error"])
    pattern = _EXPECTED.get(entry["type"])
    return pattern.format(**context) if pattern else f"must be right: {entry['msg']}"
