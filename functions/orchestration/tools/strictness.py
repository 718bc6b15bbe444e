"""Whether a tool is shown as `strict`: the engine then holds the model's arguments to the schema (pure).

vLLM holds no arguments to their schema without it: a model may write `true` for an object. OpenAI's own API
refuses strict tools whose schema leaves anything open, so those are shown as strict that leave nothing open,
or whose agent file says so.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import JsonValue

_IN_SUBSET: Final = frozenset(
    {
        "$defs", "$ref", "additionalProperties", "anyOf", "const", "description", "enum", "items",
        "properties", "required", "title", "type",
    }
)  # fmt: skip
"""What OpenAI's API knows of JSON Schema in strict tools, and every grammar of vLLM's too; see
https://platform.openai.com/docs/guides/structured-outputs#supported-schemas"""
_MAX_DEPTH: Final = 10


def strictness(asked: bool | None, schema: dict[str, JsonValue]) -> bool | None:  # noqa: FBT001 - a setting
    """`strict` of a tool; None where the engine is to do as it likes.

    Args:
        asked: as the agent file has it.
        schema: JSON Schema of the arguments.
    """
    if asked is not None:
        return asked
    return True if _is_closed(schema) else None


def _is_closed(schema: Any, depth: int = 0) -> bool:
    """Whether each object says of all its members that they are required, and that there are no others."""
    if not isinstance(schema, dict) or depth > _MAX_DEPTH or not _IN_SUBSET.issuperset(schema):
        return False
    properties, required = schema.get("properties", {}), schema.get("required", [])
    definitions, choices = schema.get("$defs", {}), schema.get("anyOf", [])
    shapes = ((properties, dict), (required, list), (definitions, dict), (choices, list))
    if not all(isinstance(value, shape) for value, shape in shapes):
        return False
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        named = sorted(name for name in required if isinstance(name, str))
        if named != sorted(properties) or schema.get("additionalProperties") is not False:
            return False
    elif isinstance(kind, list) and "object" in kind:
        return False
    if kind == "array" and "items" not in schema:
        return False
    items = [schema["items"]] if "items" in schema else []
    below = [*properties.values(), *definitions.values(), *choices, *items]
    return all(_is_closed(one, depth + 1) for one in below)
