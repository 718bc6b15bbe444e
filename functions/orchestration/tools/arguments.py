"""A model's arguments for a tool: parsed, and checked against the tool's JSON Schema.

The schema may be another party's and the arguments are a model's, so both are bounded. What may take long is
done in a thread, and not waited for without end.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from pydantic import JsonValue

from functions.text.json_schema import broken_rules, compile_schema, references

MAX_ARGUMENT_CHARS: Final = 65_536
MAX_SCHEMA_CHARS: Final = 65_536
_QUICK: Final = 2_000_000
"""Characters of the schema times those of the arguments: up to there a check takes milliseconds."""
_CHECK_SECONDS: Final = 5.0


class ArgumentsError(Exception):
    """Arguments that a tool does not take; the message is for the model."""


class ArgumentsSchema:
    """The schema of a tool's arguments; compiled once.

    Args:
        schema: JSON Schema of an object; None: any object.

    Raises:
        ValueError: it is none, is too long, or refers to another document.
    """

    def __init__(self, schema: dict[str, JsonValue] | None) -> None:
        text = "" if schema is None else json.dumps(schema)
        if len(text) > MAX_SCHEMA_CHARS:
            raise ValueError(f"has {len(text)} characters, must have at most {MAX_SCHEMA_CHARS}")
        if schema is not None and schema.get("type", "object") != "object":
            raise ValueError(f"type = {schema['type']!r}, must be object")
        self._validator = None if schema is None else compile_schema(schema)
        self._chars = len(text)
        # References may make the walk exponential in the schema's length, and so may patterns each match.
        self._may_take_long = "pattern" in text or (
            schema is not None and next(references(schema), None) is not None
        )

    async def parse(self, text: str) -> dict[str, Any]:
        """The arguments in a JSON text.

        Raises:
            ArgumentsError: they are not a JSON object, or do not meet the schema.
        """
        arguments = _parsed(text)
        validator = self._validator
        if validator is None:
            return arguments
        if not self._may_take_long and self._chars * len(text) <= _QUICK:
            broken = broken_rules(validator, arguments)
        else:
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    broken = await asyncio.to_thread(broken_rules, validator, arguments)
            except TimeoutError:
                broken = [f"$: could not be checked in {_CHECK_SECONDS:.0f} s"]
        if broken:
            raise ArgumentsError(
                "the arguments do not meet the tool's schema; call it again with others: " + "; ".join(broken)
            )
        return arguments


def _parsed(text: str) -> dict[str, Any]:
    if len(text) > MAX_ARGUMENT_CHARS:
        raise ArgumentsError(
            f"the arguments have {len(text)} characters, must have at most {MAX_ARGUMENT_CHARS}"
        )
    if not text.strip():
        return {}  # what engines give for a call of a tool without parameters
    try:
        value = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise ArgumentsError("the arguments are nested too deeply") from None
    except ValueError as error:
        raise ArgumentsError(f"the arguments are not JSON: {error}; call the tool again") from None
    if not isinstance(value, dict):
        raise ArgumentsError(f"the arguments are {text[:80]!r}, must be a JSON object of the parameters")
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")
