"""Field paths: which paths of an object can be owned, and how FieldsV1 spells them (pure).

A path is a tuple of elements as FieldsV1 spells them: `f:name` for a field, `k:{"name":"x"}` for an item of a
keyed list, `v:"x"` for an item of a set. The rules are those of sigs.k8s.io/structured-merge-diff: scalars,
atomic lists and maps, and items of keyed lists are owned, and of a struct its fields. A manager that adds a
struct by an update owns the struct as well; one that applies it does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from knative.client.resources import Object
from knative.local.apiserver.schemas.structural import Schema

Path = tuple[str, ...]
Fields = frozenset[Path]

_OPEN: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_ITSELF = "."
_METADATA: Path = ("f:metadata",)
"""Every object has it, so nobody adds it."""
SERVER_OWNED: tuple[Path, ...] = (
    ("f:apiVersion",),
    ("f:kind",),
    *(
        ("f:metadata", f"f:{name}")
        for name in (
            "name",
            "namespace",
            "generateName",
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "managedFields",
        )
    ),
)
"""Fields that belong to the server and to no manager."""


def leaves(schema: Schema, obj: Object) -> dict[Path, Any]:
    """All paths of an object that can be owned, each with the value by which a change is seen."""
    return {
        path: value
        for path, value in _walk(schema, obj, ())
        if path[:1] not in SERVER_OWNED and path[:2] not in SERVER_OWNED
    }


def _walk(  # noqa: C901  # one branch for each type of value
    schema: Schema, value: Any, path: Path
) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and schema.get("x-kubernetes-map-type") != "atomic":
        if not value:
            if path:
                yield path, {}
            return
        properties = schema.get("properties") or {}
        for key, item in value.items():
            here = (*path, f"f:{key}")
            if key in properties:
                yield from _walk(properties[key], item, here)
            else:
                inner = inner_schema(schema)
                if isinstance(item, dict) and item and inner.get("x-kubernetes-map-type") != "atomic":
                    yield here, None  # a key of a map without a schema is owned itself
                yield from _walk(inner, item, here)
    elif isinstance(value, list) and value and (elements := elements_of(schema, value)) is not None:
        for element, item in elements:
            here = (*path, element)
            if isinstance(item, dict):
                yield here, None
                yield from _walk(schema["items"], item, here)
            else:
                yield here, item
    elif path:
        yield path, value


def same_shape(schema: Schema, one: Any, other: Any) -> bool:
    """Whether two values have the same paths for certain; if False, only `leaves` can tell."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return (
            isinstance(one, list) is isinstance(other, list)
            and isinstance(one, dict) is isinstance(other, dict)
            and not (isinstance(one, list) and "x-kubernetes-list-type" in schema)
        )
    if one.keys() != other.keys():
        return False
    properties = schema.get("properties") or {}
    return all(same_shape(properties.get(key) or inner_schema(schema), one[key], other[key]) for key in one)


def with_parents(paths: Iterable[Path]) -> Fields:
    """The paths and all their parents that can be owned."""
    found: set[Path] = set()
    for path in paths:
        for length in range(len(path), 0, -1):
            above = path[:length]
            if above in found:
                break
            if above != _METADATA:
                found.add(above)
    return frozenset(found)


def inner_schema(schema: Schema) -> Schema:
    """The schema of the values of a map whose keys are not in the schema."""
    extra = schema.get("additionalProperties")
    return extra if isinstance(extra, Mapping) else _OPEN


def elements_of(schema: Schema, items: Sequence[Any]) -> list[tuple[str, Any]] | None:
    """The items with their path elements, or None for an atomic list, which is owned as a whole."""
    kind = schema.get("x-kubernetes-list-type")
    if kind == "set":
        return [(f"v:{compact(item)}", item) for item in items]
    if kind == "map":
        keys = schema["x-kubernetes-list-map-keys"]
        properties = schema["items"].get("properties") or {}
        return [
            (
                "k:"
                + compact(
                    {key: item.get(key, properties.get(key, {}).get("default")) for key in sorted(keys)}
                ),
                item,
            )
            for item in items
        ]
    return None


def compact(value: Any) -> str:
    """JSON without spaces, keys sorted."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def from_v1(tree: Mapping[str, Any], path: Path) -> Iterator[Path]:
    """The paths in a FieldsV1 tree, with `path` in front."""
    for element, below in tree.items():
        if element == _ITSELF:
            yield path
        elif not below:
            yield (*path, element)
        else:
            yield from from_v1(below, (*path, element))


def to_v1(fields: Fields) -> Object:
    """The FieldsV1 tree of these paths."""
    tree: Object = {}
    for path in sorted(fields):
        node = tree
        for element in path:
            node = node.setdefault(element, {})
        node[_ITSELF] = {}
    _shorten_leaves(tree)
    return tree


def _shorten_leaves(tree: Object) -> None:
    """Write a leaf as `{}` instead of `{".": {}}`, in place."""
    for element, below in tree.items():
        if element == _ITSELF:
            continue
        if set(below) == {_ITSELF}:
            tree[element] = {}
        else:
            _shorten_leaves(below)
