"""Structural schemas (OpenAPI v3, as in a CustomResourceDefinition): building, validating, pruning (pure).

Supported is what the kinds of this project use of structural schemas: `type`,
`properties`, `required`, `items`, `additionalProperties`, `enum`, `pattern`, `minimum`, `maximum`,
`minLength`, `maxLength`, `minItems`, `maxItems`, `format` (int32, int64), `default`, `nullable`,
`x-kubernetes-int-or-string`, `x-kubernetes-preserve-unknown-fields`, and the list and map types that
server-side apply needs. CEL rules are in `cel_rules.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from knative.client.errors import Cause

Schema = Mapping[str, Any]

_MAX_SHOWN = 256

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
INT32: Schema = {"type": "integer", "format": "int32"}
INT64: Schema = {"type": "integer", "format": "int64"}
INT_OR_STRING: Schema = {
    "x-kubernetes-int-or-string": True,
    "anyOf": [{"type": "integer"}, {"type": "string"}],
}
QUANTITY: Schema = {
    **INT_OR_STRING,
    "pattern": (
        r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)"
        r"([KMGTPE]i|[numkMGTPE]|[eE][+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+))?$"
    ),
}
FREE: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def struct(fields: Mapping[str, Schema], *, required: Sequence[str] = (), about: str | None = None) -> Schema:
    """An object with these fields."""
    schema: dict[str, Any] = {"type": "object", "properties": dict(fields)}
    if required:
        schema["required"] = list(required)
    if about:
        schema["description"] = about
    return schema


def described(schema: Schema, about: str) -> Schema:
    """`schema` with a description, which `kubectl explain` shows."""
    return {**schema, "description": about}


def atomic_list(items: Schema) -> Schema:
    """A list that is replaced as a whole."""
    return {"type": "array", "items": items, "x-kubernetes-list-type": "atomic"}


def map_list(items: Schema, *keys: str) -> Schema:
    """A list whose items are merged by these keys."""
    return {
        "type": "array",
        "items": items,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": list(keys),
    }


def set_list(items: Schema) -> Schema:
    """A list of distinct scalars."""
    return {"type": "array", "items": items, "x-kubernetes-list-type": "set"}


def mapping(values: Schema) -> Schema:
    """An object with any keys and values of one shape."""
    return {"type": "object", "additionalProperties": values}


def unknown_fields(schema: Schema, value: Any, path: str = "") -> Iterator[str]:
    """Paths of the fields that are not in the schema, as field validation reports them."""
    if isinstance(value, dict):
        properties = schema.get("properties")
        extra = schema.get("additionalProperties")
        free = schema.get("x-kubernetes-preserve-unknown-fields") or (properties is None and extra is None)
        for key, item in value.items():
            here = f"{path}.{key}" if path else key
            if properties is not None and key in properties:
                yield from unknown_fields(properties[key], item, here)
            elif isinstance(extra, Mapping):
                yield from unknown_fields(extra, item, here)
            elif not free:
                yield here
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, item in enumerate(value):
            yield from unknown_fields(schema["items"], item, f"{path}[{index}]")


def prune(schema: Schema, value: Any) -> None:
    """Drop fields that are not in the schema, in place."""
    if isinstance(value, dict):
        properties = schema.get("properties")
        extra = schema.get("additionalProperties")
        free = schema.get("x-kubernetes-preserve-unknown-fields") or (properties is None and extra is None)
        for key in list(value):
            if properties is not None and key in properties:
                prune(properties[key], value[key])
            elif isinstance(extra, Mapping):
                prune(extra, value[key])
            elif not free:
                del value[key]
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for item in value:
            prune(schema["items"], item)


def fill_defaults(schema: Schema, value: Any) -> None:
    """Fill in the defaults of the schema, in place."""
    if isinstance(value, dict):
        for key, field in (schema.get("properties") or {}).items():
            if key not in value and "default" in field:
                value[key] = json.loads(json.dumps(field["default"]))
            if key in value:
                fill_defaults(field, value[key])
        extra = schema.get("additionalProperties")
        if isinstance(extra, Mapping):
            for item in value.values():
                fill_defaults(extra, item)
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for item in value:
            fill_defaults(schema["items"], item)


def drop_nulls(schema: Schema, value: Any) -> None:
    """Drop nulls of fields that are not nullable, as the API server does, in place."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        for key in list(value):
            field = properties.get(key, {})
            if value[key] is None and not field.get("nullable"):
                del value[key]
            else:
                drop_nulls(field, value[key])
    elif isinstance(value, list):
        for item in value:
            drop_nulls(schema.get("items") or {}, item)


_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
    "array": (list,),
}


def violations(schema: Schema, value: Any, path: str = "") -> Iterator[Cause]:
    """Violations of the schema, worded as in Kubernetes' API server."""
    if value is None and schema.get("nullable"):
        return
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            yield _wrong_type(path, value, "integer,string")
            return
    elif "type" in schema and not _is(value, schema["type"]):
        yield _wrong_type(path, value, schema["type"])
        return
    yield from _scalar_violations(schema, value, path)
    if isinstance(value, dict):
        yield from _object_violations(schema, value, path)
    elif isinstance(value, list):
        yield from _list_violations(schema, value, path)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _wrong_type(path: str, value: Any, kind: str) -> Cause:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    found = names.get(type(value), "null")
    return Cause(
        f'Invalid value: "{found}": {path} in body must be of type {kind}: "{found}"',
        path,
        "FieldValueTypeInvalid",
    )


def _scalar_violations(schema: Schema, value: Any, path: str) -> Iterator[Cause]:
    shown = _shown(value)
    if "enum" in schema and value not in schema["enum"]:
        options = ", ".join(json.dumps(option) for option in schema["enum"])
        yield Cause(
            f"Unsupported value: {shown}: supported values: {options}", path, "FieldValueNotSupported"
        )
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield _invalid(path, shown, f"should match '{schema['pattern']}'")
        if len(value) < schema.get("minLength", 0):
            yield _invalid(path, shown, f"should be at least {schema['minLength']} chars long")
        if "maxLength" in schema and len(value) > schema["maxLength"]:
            yield _invalid(path, shown, f"should be at most {schema['maxLength']} chars long")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if "minimum" in schema and value < schema["minimum"]:
            yield _invalid(path, shown, f"should be greater than or equal to {schema['minimum']}")
        if "maximum" in schema and value > schema["maximum"]:
            yield _invalid(path, shown, f"should be less than or equal to {schema['maximum']}")
        bits = {"int32": 31, "int64": 63}.get(schema.get("format", ""))
        if bits is not None and not -(2**bits) <= value < 2**bits:
            yield _invalid(path, shown, f"must be of type {schema['format']}")


def _shown(value: Any) -> str:
    """A value as messages repeat it: as JSON, cut to a length that fits into a message."""
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _invalid(path: str, shown: str, rule: str) -> Cause:
    return Cause(f"Invalid value: {shown}: {path} in body {rule}", path, "FieldValueInvalid")


def _object_violations(schema: Schema, value: dict[str, Any], path: str) -> Iterator[Cause]:
    properties = schema.get("properties") or {}
    for key in schema.get("required", ()):
        if key not in value:
            here = f"{path}.{key}" if path else key
            yield Cause("Required value", here, "FieldValueRequired")
    extra = schema.get("additionalProperties")
    for key, item in value.items():
        field = properties.get(key, extra)
        if isinstance(field, Mapping):
            yield from violations(field, item, f"{path}.{key}" if path else key)


def _list_violations(schema: Schema, value: list[Any], path: str) -> Iterator[Cause]:
    if len(value) < schema.get("minItems", 0):
        yield _invalid(path, json.dumps(len(value)), f"should have at least {schema['minItems']} items")
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        yield Cause(
            f"Too many: {len(value)}: must have at most {schema['maxItems']} items", path, "FieldValueTooMany"
        )
    items = schema.get("items")
    if not isinstance(items, Mapping):
        return
    for index, item in enumerate(value):
        yield from violations(items, item, f"{path}[{index}]")
    seen: set[str] = set()
    keys = schema.get("x-kubernetes-list-map-keys")
    for index, item in enumerate(value):
        if keys and isinstance(item, dict):
            identity: Any = {key: item.get(key, items["properties"][key].get("default")) for key in keys}
        elif schema.get("x-kubernetes-list-type") == "set":
            identity = item
        else:
            return
        text = json.dumps(identity, sort_keys=True)
        if text in seen:
            yield Cause(f"Duplicate value: {_shown(identity)}", f"{path}[{index}]", "FieldValueDuplicate")
        seen.add(text)
