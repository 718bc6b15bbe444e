"""Who owns which field: server-side apply and the bookkeeping of `managedFields`.

Who merely sees a value filled in (defaults, admission) does not own it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from knative.client.errors import Cause
from knative.client.resources import Object
from knative.local import objects
from knative.local.apiserver.errors import ApiError, ResourceRef
from knative.local.apiserver.field_paths import (
    NEVER,
    Fields,
    Path,
    compact,
    elements_of,
    from_v1,
    inner_schema,
    leaves,
    same_shape,
    to_v1,
    with_parents,
)
from knative.local.apiserver.schemas.structural import Schema

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_KUBECTL = "kubectl"
"""The manager of `kubectl apply --server-side`."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One manager's claim."""

    manager: str
    operation: str
    api_version: str
    subresource: str
    time: str
    fields: Fields

    @property
    def identity(self) -> tuple[str, str, str, str]:
        return self.manager, self.operation, self.api_version, self.subresource

    def with_fields(self, fields: Fields, time: str | None = None) -> _Entry:
        return _Entry(
            self.manager, self.operation, self.api_version, self.subresource, time or self.time, fields
        )


def record_update(
    schema: Schema,
    old: Object | None,
    new: Object,
    *,
    manager: str,
    operation: str,
    now: str,
    subresource: str | None = None,
) -> None:
    """Note in `new` that `manager` owns what it changed; with `Apply`, `apply` has done so.

    A writer may change the notes themselves: what `new` brings counts, unless it can't be read.
    """
    meta = new["metadata"]
    if operation == "Apply":
        return
    given = meta.get("managedFields")
    if given in ([], [{}]):
        entries: list[_Entry] = []  # the documented way to start over
    else:
        entries = _read(new if given and _is_valid(given) else old)
    before = leaves(schema, old) if old is not None else {}
    after = leaves(schema, new)
    scope = _scope(subresource)
    present = with_parents(after)
    changed = frozenset(
        path for path, value in after.items() if scope(path) and (path not in before or before[path] != value)
    )
    # Who adds a field to a struct that wasn't there has added the struct as well.
    changed |= with_parents(changed) - with_parents(before)
    mine = (manager, "Update", new["apiVersion"], subresource or "")
    kept: list[_Entry] = []
    owned = changed
    time = now
    for entry in entries:
        if entry.identity == mine:
            owned |= entry.fields & present
            time = now if changed else entry.time
        else:
            kept.append(entry.with_fields((entry.fields & present) - changed))
    if owned:
        kept.append(_Entry(*mine, time, owned))
    _write(meta, kept)


def record_status_update(schema: Schema, old: Object, new: Object, *, manager: str, now: str) -> None:
    """Like `record_update`, but cheaper, for a status that `manager` alone writes (nearly always so).

    The platform reports often, and mostly the same fields with other values: then only the time changes.
    """
    mine = (manager, "Update", new["apiVersion"], "status")
    before: Object | None = None
    kept = []
    for entry in old["metadata"].get("managedFields") or ():
        if _identity(entry) == mine:
            before = entry
        elif "f:status" in (entry.get("fieldsV1") or {}):
            record_update(
                schema, old, new, manager=manager, operation="Update", now=now, subresource="status"
            )
            return
        else:
            kept.append(entry)
    status = new.get("status") or {}
    if before is not None and same_shape(schema["properties"]["status"], old.get("status"), status):
        kept.append({**before, "time": now})
    elif status:
        paths = tuple(leaves(schema, {"status": status}))
        kept.append(_listed(_Entry(*mine, now, frozenset()), _status_fields(paths)))
    if kept:
        new["metadata"]["managedFields"] = kept
    else:
        new["metadata"].pop("managedFields", None)


@lru_cache(maxsize=1024)
def _status_fields(paths: tuple[Path, ...]) -> Object:
    """FieldsV1 of these paths; shared between objects, so never to be changed."""
    return to_v1(with_parents(paths))


def apply(
    schema: Schema,
    live: Object | None,
    config: Object,
    *,
    manager: str,
    force: bool,
    now: str,
    subject: ResourceRef,
    subresource: str | None = None,
) -> Object:
    """The object after `manager` applied `config`; the caller stores it.

    Raises:
        ApiError: 409, another manager owns a field that would change, and not `force`.
    """
    scope = _scope(subresource)
    applied = frozenset(path for path in leaves(schema, config) if scope(path))
    mine = (manager, "Apply", config["apiVersion"], subresource or "")
    if live is None:
        merged = objects.clone(config)
        _write(merged["metadata"], [_Entry(*mine, now, applied)])
        return _drop_empty(merged)
    entries = _read(live)
    before = leaves(schema, live)
    if not entries:
        everything = frozenset(path for path in before if scope(path))
        entries = [_Entry("before-first-apply", "Update", live["apiVersion"], "", now, everything)]
    last = next((entry.fields for entry in entries if entry.identity == mine), frozenset())
    others = [entry for entry in entries if entry.identity != mine]
    merged = _merge(schema, live, config)
    elsewhere = frozenset().union(*(entry.fields for entry in others)) if others else frozenset()
    for path in sorted(last - applied - elsewhere, key=len, reverse=True):
        if not any(other[: len(path)] == path for other in elsewhere | applied):
            _remove(merged, path)
    merged = _drop_empty(merged)
    after = leaves(schema, merged)
    changed = frozenset(path for path, value in after.items() if before.get(path, _MISSING) != value)
    free = _last_applied(schema, live, before) if manager == _KUBECTL else frozenset()
    clashes = [
        (entry, path) for entry in others for path in sorted((entry.fields & changed & applied) - free)
    ]
    if clashes and not force:
        raise _conflict(clashes, subject)
    present = with_parents(after)
    kept = [entry.with_fields((entry.fields & present) - (changed & applied)) for entry in others]
    kept.append(_Entry(*mine, now, applied))
    if manager == _KUBECTL and LAST_APPLIED in objects.annotations_of(merged):
        merged["metadata"]["annotations"] = {
            **merged["metadata"]["annotations"],
            LAST_APPLIED: json.dumps(config, separators=(",", ":")) + "\n",
        }
    _write(merged["metadata"], kept)
    return merged


def _last_applied(schema: Schema, live: Object, before: Mapping[Path, Any]) -> Fields:
    """What `kubectl` set by client-side apply and nobody has changed since; server-side, it may take it over.

    As in Kubernetes' managedfields/internal/lastappliedmanager.go.
    """
    text = objects.annotations_of(live).get(LAST_APPLIED)
    try:
        config = json.loads(text) if text else None
    except ValueError:
        config = None
    if not isinstance(config, dict) or config.get("apiVersion") != live["apiVersion"]:
        return frozenset()
    found = leaves(schema, config)
    return frozenset(path for path, value in found.items() if before.get(path, _MISSING) == value)


_MISSING = object()
_NOTHING: Object = {"metadata": {}}


def _scope(subresource: str | None) -> Any:
    """Which paths a write through this door may own."""
    if subresource == "status":
        return lambda path: path[0] == "f:status"
    return lambda path: path[0] != "f:status" and path[:1] not in NEVER and path[:2] not in NEVER


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
    """Take one path out of `obj`, in place; what lies on the way is copied, the live object shares it."""
    for depth, element in enumerate(path):
        last = depth == len(path) - 1
        if element.startswith("f:"):
            key = element[2:]
            if not isinstance(obj, dict) or key not in obj:
                return
            if last:
                del obj[key]
                return
            if not isinstance(obj[key], (dict, list)):
                return  # what was below has gone with what it stood in
            obj[key] = dict(obj[key]) if isinstance(obj[key], dict) else list(obj[key])
            obj = obj[key]
        else:
            index = _find(obj, element)
            if index is None:
                return
            if last:
                del obj[index]
                return
            if not isinstance(obj[index], dict):
                return
            obj[index] = dict(obj[index])
            obj = obj[index]


def _find(items: Any, element: str) -> int | None:
    wanted = json.loads(element[2:])
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if element.startswith("v:"):
            if item == wanted:
                return index
        elif isinstance(item, dict) and all(item.get(key) == value for key, value in wanted.items()):
            return index
    return None


def _drop_empty(obj: Object) -> Object:
    """Labels, annotations and the like that a removal has left empty."""
    meta = dict(obj["metadata"])
    for key in ("labels", "annotations", "finalizers", "ownerReferences"):
        if key in meta and not meta[key]:
            del meta[key]
    return {**obj, "metadata": meta}


def _conflict(clashes: Sequence[tuple[_Entry, Path]], subject: ResourceRef) -> ApiError:
    causes = []
    lines = []
    for entry, path in clashes:
        field = _dotted(path)
        who = f'conflict with "{entry.manager}"' + (
            f" with subresource {json.dumps(entry.subresource)}" if entry.subresource else ""
        )
        who += f" using {entry.api_version}"
        causes.append(Cause(who, field, "FieldManagerConflict"))
        lines.append(f"{who}: {field}")
    count = f"{len(clashes)} conflict{'s' if len(clashes) > 1 else ''}"
    joined = lines[0] if len(lines) == 1 else "\n- ".join(["", *lines]).lstrip("\n")
    return ApiError(409, "Conflict", f"Apply failed with {count}: {joined}", subject, tuple(causes))


def _dotted(path: Path) -> str:
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


def _identity(entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Manager, operation, API version and subresource of an entry of `managedFields`."""
    return (
        entry.get("manager", ""),
        entry.get("operation", "Update"),
        entry.get("apiVersion", ""),
        entry.get("subresource", ""),
    )


def _is_valid(entries: Any) -> bool:
    return isinstance(entries, list) and all(
        isinstance(entry, dict)
        and entry.get("operation") in ("Apply", "Update")
        and all(isinstance(entry.get(name, ""), str) for name in _TEXTS)
        and _is_tree(entry.get("fieldsV1"))
        for entry in entries
    )


_TEXTS = ("manager", "apiVersion", "subresource", "time")


def _is_tree(fields: Any) -> bool:
    return isinstance(fields, dict) and all(map(_is_element, fields)) and all(map(_is_tree, fields.values()))


def _is_element(key: str) -> bool:
    kind, _, rest = key.partition(":")
    if kind != "k":
        return True
    try:
        return isinstance(json.loads(rest), dict)
    except ValueError:
        return False


def _read(obj: Object | None) -> list[_Entry]:
    return [
        _Entry(
            *_identity(entry),
            entry.get("time", ""),
            frozenset(from_v1(entry.get("fieldsV1") or {}, ())),
        )
        for entry in (obj or _NOTHING)["metadata"].get("managedFields") or ()
    ]


def _write(meta: Object, entries: Iterable[_Entry]) -> None:
    listed = [_listed(entry, to_v1(entry.fields)) for entry in entries if entry.fields]
    if listed:
        meta["managedFields"] = listed
    else:
        meta.pop("managedFields", None)


def _listed(entry: _Entry, fields: Object) -> Object:
    """An entry of `managedFields`."""
    return {
        "manager": entry.manager,
        "operation": entry.operation,
        "apiVersion": entry.api_version,
        "time": entry.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
        **({"subresource": entry.subresource} if entry.subresource else {}),
    }
