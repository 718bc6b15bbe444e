"""JSON Schemas that others wrote: compiled once, never fetching anything, with patterns that end (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from pydantic import JsonValue

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MAX_ERRORS: Final = 8
_PATTERN_SECONDS: Final = 0.05
"""For one regular expression on one text; a schema's own may take exponential time."""


def compile_schema(schema: dict[str, JsonValue]) -> Validator:
    """The schema's validator.

    Raises:
        ValueError: it is not a JSON Schema, or refers to another document (nothing is ever fetched).
    """
    import jsonschema  # noqa: PLC0415 - only where there is a schema
    import referencing  # noqa: PLC0415

    for reference in references(schema):
        if not reference.startswith("#"):
            raise ValueError(f"$ref = {reference!r}, must be inside the schema and begin with #")
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"{error.json_path}: {error.message}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    bounded = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
        kind,
        {
            "pattern": _pattern,
            "patternProperties": _pattern_properties,
            "additionalProperties": _additional_properties(kind.VALIDATORS.get("additionalProperties")),
        },
    )
    validator: Validator = bounded(schema, registry=referencing.Registry())
    return validator


def references(value: JsonValue) -> Iterator[str]:
    """All `$ref` and `$dynamicRef` of a schema."""
    left: list[JsonValue] = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            for key, below in item.items():
                if key in {"$ref", "$dynamicRef"} and isinstance(below, str):
                    yield below
                else:
                    left.append(below)
        elif isinstance(item, list):
            left.extend(item)


def broken_rules(validator: Validator, value: Any) -> list[str]:
    """What of a value does not meet the schema, one sentence for each place, `MAX_ERRORS` at most."""
    found: list[str] = []
    try:
        for error in validator.iter_errors(value):
            message = error.message if len(error.message) <= 200 else f"{error.message[:200]}..."
            found.append(f"{error.json_path}: {message}")
            if len(found) == MAX_ERRORS:
                break
    except RecursionError:
        found.append("$: the schema refers to itself without end")
    except Exception as error:  # noqa: BLE001 - a reference that leads nowhere is of a private class
        found.append(f"$: the schema cannot be applied: {type(error).__name__}")
    return found


def _matches(pattern: str, text: str) -> bool:
    import regex  # noqa: PLC0415 - only for schemas with patterns

    try:
        return regex.search(pattern, text, timeout=_PATTERN_SECONDS) is not None
    except (TimeoutError, regex.error):
        # The tool itself checks what it gets; a pattern of no use must not refuse everything.
        return True


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError  # noqa: PLC0415 - loaded with the schema

    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance[:80]!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: dict[str, Any], instance: Any, _schema: Any
) -> Iterator[Any]:
    if isinstance(instance, dict):
        for pattern, below in patterns.items():
            for key, value in instance.items():
                if _matches(pattern, key):
                    yield from validator.descend(value, below, path=key, schema_path=pattern)


def _additional_properties(original: Any) -> Any:
    """The rule, with patterns that end where there are any."""

    def rule(validator: Any, allowed: Any, instance: Any, schema: dict[str, Any]) -> Iterator[Any]:
        patterns = schema.get("patternProperties")
        if patterns and isinstance(instance, dict):
            known = schema.get("properties", {})
            more = {
                key
                for key in instance
                if key not in known and not any(_matches(pattern, key) for pattern in patterns)
            }
            instance = {key: value for key, value in instance.items() if key in more or key in known}
            schema = {key: value for key, value in schema.items() if key != "patternProperties"}
        yield from original(validator, allowed, instance, schema) or ()

    return rule
