"""Server-side apply: merge a configuration into an object by who owns which field (pure).

After sigs.k8s.io/structured-merge-diff, `merge/update.go`; conflicts are worded as in k8s.io/apimachinery,
`pkg/util/managedfields/internal/conflict.go`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from knative.client.errors import Cause
from knative.client.resources import Object
from knative.local import objects
from knative.local.apiserver.errors import ApiError, ResourceRef
from knative.local.apiserver.field_paths import (
    Fields,
    Path,
    compact,
    elements_of,
    inner_schema,
    leaves,
    with_parents,
)
from knative.local.apiserver.managed_fields import ManagedFields, in_scope, read_entries, write_entries
from knative.local.apiserver.schemas.structural import Schema

LAST_APPLIED_ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"
_KUBECTL = "kubectl"
"""The field manager of `kubectl apply --server-side`."""
_MISSING = object()


def apply(
    schema: Schema,
    live: Object | None,
    config: Object,
    *,
    manager: str,
    force: bool,
    now: str,
    ref: ResourceRef,
    subresource: str | None = None,
) -> Object:
    """The object after `manager` has applied `config`; `live` is left alone, the caller stores the result.

    Raises:
        ApiError: 409, another manager owns a field that would change, and not `force`.
    """
    scope = in_scope(subresource)
    applied = frozenset(path for path in leaves(schema, config) if scope(path))
    mine = ManagedFields(manager, "Apply", config["apiVersion"], subresource or "", now, applied)
    if live is None:
        merged = objects.clone(config)
        write_entries(merged["metadata"], [mine])
        return _without_empty_metadata(merged)
    before = leaves(schema, live)
    entries = read_entries(live)
    if not entries:
        everything = frozenset(path for path in before if scope(path))
        entries = [ManagedFields("before-first-apply", "Update", live["apiVersion"], "", now, everything)]
    previous = next((entry.fields for entry in entries if entry.identity == mine.identity), frozenset())
    others = [entry for entry in entries if entry.identity != mine.identity]
    merged = _without_empty_metadata(_pruned(_merge(schema, live, config), previous, applied, others))
    after = leaves(schema, merged)
    changed = frozenset(path for path, value in after.items() if before.get(path, _MISSING) != value)
    taken_over = _last_applied(schema, live, before) if manager == _KUBECTL else frozenset()
    conflicts = [
        (entry, path) for entry in others for path in sorted((entry.fields & changed & applied) - taken_over)
    ]
    if conflicts and not force:
        raise _conflict_error(conflicts, ref)
    present = with_parents(after)
    kept = [entry.with_fields((entry.fields & present) - (changed & applied)) for entry in others]
    if manager == _KUBECTL and LAST_APPLIED_ANNOTATION in objects.annotations_of(merged):
        merged["metadata"]["annotations"] = {
            **merged["metadata"]["annotations"],
            LAST_APPLIED_ANNOTATION: json.dumps(config, separators=(",", ":")) + "\n",
        }
    write_entries(merged["metadata"], [*kept, mine])
    return merged


def _pruned(merged: Object, previous: Fields, applied: Fields, others: Sequence[ManagedFields]) -> Object:
    """Without the fields that this manager applied before, applies no longer, and nobody else owns."""
    elsewhere = frozenset[Path]().union(*(entry.fields for entry in others))
    still_owned = with_parents(elsewhere | applied)
    for path in sorted(previous - applied - elsewhere, key=len):  # an item of a list before the key in it
        if path not in still_owned:
            _remove(merged, path)
    return merged


def _last_applied(schema: Schema, live: Object, before: Mapping[Path, Any]) -> Fields:
    """Fields from the last client-side `kubectl apply` that nobody has changed since.

    A server-side apply by kubectl takes them over without a conflict, as in Kubernetes'
    `managedfields/internal/lastappliedmanager.go`.
    """
    text = objects.annotations_of(live).get(LAST_APPLIED_ANNOTATION)
    try:
        config = json.loads(text) if text else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict) or config.get("apiVersion") != live["apiVersion"]:
        return frozenset()
    found = leaves(schema, config)
    return frozenset(path for path, value in found.items() if before.get(path, _MISSING) == value)


def _merge(schema: Schema, live: Any, config: Any) -> Any:
    if (
        isinstance(live, dict)
        and isinstance(config, dict)
        and schema.get("x-kubernetes-map-type") != "atomic"
    ):
        merged = dict(live)
        properties = schema.get("properties") or {}
        for key, item in config.items():
            inner = properties.get(key) or inner_schema(schema)
            merged[key] = _merge(inner, live[key], item) if key in live else objects.clone(item)
        return merged
    if isinstance(live, list) and isinstance(config, list):
        ours, theirs = elements_of(schema, config), elements_of(schema, live)
        if ours is not None and theirs is not None:
            by_element = dict(theirs)
            wanted = {
                element: _merge(schema["items"], by_element[element], item)
                if element in by_element
                else objects.clone(item)
                for element, item in ours
            }
            return [wanted.pop(element, item) for element, item in theirs] + list(wanted.values())
    return objects.clone(config)


def _remove(obj: Any, path: Path) -> None:
    """Remove one path from `obj`, in place, copying what lies on the way, which `live` shares."""
    for depth, element in enumerate(path):
        key = element[2:] if element.startswith("f:") else _index_of(obj, element)
        if not _has(obj, key):
            return
        if depth == len(path) - 1:
            del obj[key]
            return
        inner = obj[key]
        if not isinstance(inner, (dict, list)):
            return  # the path has gone with the value that held it
        obj[key] = inner.copy()
        obj = obj[key]


def _has(obj: Any, key: str | int | None) -> bool:
    if isinstance(key, str):
        return isinstance(obj, dict) and key in obj
    return key is not None


def _index_of(items: Any, element: str) -> int | None:
    """The index of the list item that a path element names."""
    wanted = json.loads(element[2:])
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if element.startswith("v:"):
            if item == wanted:
                return index
        elif isinstance(item, dict) and all(item.get(key) == value for key, value in wanted.items()):
            return index
    return None


def _without_empty_metadata(obj: Object) -> Object:
    """Without labels, annotations and the like that a removal has left empty."""
    meta = dict(obj["metadata"])
    for key in ("labels", "annotations", "finalizers", "ownerReferences"):
        if key in meta and not meta[key]:
            del meta[key]
    return {**obj, "metadata": meta}


def _conflict_error(conflicts: Sequence[tuple[ManagedFields, Path]], ref: ResourceRef) -> ApiError:
    by_manager: dict[str, list[str]] = {}
    causes = []
    for entry, path in conflicts:
        who, field = _manager_text(entry), _path_text(path)
        causes.append(Cause(f"conflict with {who}", field, "FieldManagerConflict"))
        by_manager.setdefault(who, []).append(field)
    if len(causes) == 1:
        message = f"Apply failed with 1 conflict: {causes[0].message}: {causes[0].field}"
    else:
        lines = [
            line
            for who, fields in sorted(by_manager.items())
            for line in (f"conflicts with {who}:", *(f"- {field}" for field in fields))
        ]
        message = f"Apply failed with {len(causes)} conflicts: " + "\n".join(lines)
    return ApiError(409, "Conflict", message, ref, tuple(causes))


def _manager_text(entry: ManagedFields) -> str:
    """A manager as conflicts name it; those that apply are the same manager in every version of a kind."""
    text = json.dumps(entry.manager)
    if entry.subresource:
        text += f" with subresource {json.dumps(entry.subresource)}"
    return f"{text} using {entry.api_version}" if entry.operation == "Update" else text


def _path_text(path: Path) -> str:
    text = ""
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "f":
            text += f".{rest}"
        elif kind == "k":
            text += "[" + ",".join(f"{key}={compact(value)}" for key, value in json.loads(rest).items()) + "]"
        else:
            text += f"[={rest}]"
    return text
