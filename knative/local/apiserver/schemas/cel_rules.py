"""CEL rules of a schema (`x-kubernetes-validations`), evaluated and worded as in Kubernetes' API server.

Not supported, because no CustomResourceDefinition of this project uses them: `oldSelf`, `fieldPath`,
`messageExpression` and Kubernetes' own function libraries. The evaluator takes 0.2 s to import, which
happens with the first object of a kind that has rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from knative.client.errors import Cause
from knative.local.apiserver.schemas.structural import Schema

_BLOCKING = frozenset(
    {
        "FieldValueNotSupported",
        "FieldValueRequired",
        "FieldValueTooLong",
        "FieldValueTooMany",
        "FieldValueTypeInvalid",
    }
)
"""Reasons of violations that keep rules from being evaluated, for rules may rely on types."""
UNCHECKED = Cause(
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation",
    "<nil>",
    "FieldValueInvalid",
)


def blocked(causes: list[Cause]) -> bool:
    """Whether these violations keep the rules from being evaluated."""
    return any(cause.reason in _BLOCKING for cause in causes)


@cache
def _program(rule: str) -> Callable[[Any], Any]:
    """The compiled rule as a function of `self`."""
    import cel  # noqa: PLC0415  # slow to import, and most objects have no rules

    program = cel.compile(rule)
    return lambda value: program.execute({"self": value})


def ready() -> bool:
    """Whether the evaluator has been imported."""
    return _program.cache_info().currsize > 0


def load() -> None:
    """Import the evaluator; to be called on a thread before a rule is evaluated on the event loop."""
    _program("true")


def has_rules(schema: Schema) -> bool:
    """Whether the schema has a rule anywhere."""
    if schema.get("x-kubernetes-validations"):
        return True
    inner = [
        schema.get("items"),
        schema.get("additionalProperties"),
        *(schema.get("properties") or {}).values(),
    ]
    return any(has_rules(item) for item in inner if isinstance(item, Mapping))


def violations(schema: Schema, value: Any, path: str = "") -> Iterator[Cause]:
    """The rules that `value`, which otherwise satisfies the schema, violates."""
    for rule in schema.get("x-kubernetes-validations") or ():
        problem = _broken(rule, _typed(schema, value))
        if problem is not None:
            yield Cause(f"Invalid value: {problem}", path, "FieldValueInvalid")
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        extra = schema.get("additionalProperties")
        for key, item in value.items():
            field = properties.get(key, extra)
            if isinstance(field, Mapping):
                yield from violations(field, item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, item in enumerate(value):
            yield from violations(schema["items"], item, f"{path}[{index}]")


def _broken(rule: Mapping[str, str], value: Any) -> str | None:
    """The message of a rule that does not hold; None if it holds."""
    try:
        held = _program(rule["rule"])(value)
    except (ValueError, TypeError, KeyError, ArithmeticError, RuntimeError) as problem:
        return f'rule "{rule["rule"]}" could not be evaluated: {problem}'
    return None if held is True else rule.get("message") or f"failed rule: {rule['rule']}"


def _typed(schema: Schema, value: Any) -> Any:
    """`value` with each number of the schema's type, since CEL does not convert between types."""
    if isinstance(value, dict):
        properties: Mapping[str, Schema] = schema.get("properties") or {}
        extra: Schema = schema.get("additionalProperties") or {}
        return {key: _typed(properties.get(key, extra), item) for key, item in value.items()}
    if isinstance(value, list):
        items: Schema = schema.get("items") or {}
        return [_typed(items, item) for item in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if schema.get("type") == "number":
        return float(value)
    return int(value) if schema.get("type") == "integer" else value
