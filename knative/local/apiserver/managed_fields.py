"""`metadata.managedFields`: which manager owns which fields (pure).

A field that defaulting or admission fills in is not owned by the manager whose write led to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from knative.client.resources import Object
from knative.local.apiserver.field_paths import (
    SERVER_OWNED,
    Fields,
    Path,
    from_v1,
    leaves,
    same_shape,
    to_v1,
    with_parents,
)
from knative.local.apiserver.schemas.structural import Schema


@dataclass(frozen=True, slots=True)
class ManagedFields:
    """The fields of one manager: an entry of `managedFields`."""

    manager: str
    operation: str
    """`Apply` or `Update`."""
    api_version: str
    subresource: str
    time: str
    fields: Fields

    @property
    def identity(self) -> tuple[str, ...]:
        """By which two entries are the same manager's; one that applies keeps it across API versions."""
        version = "" if self.operation == "Apply" else self.api_version
        return self.manager, self.operation, version, self.subresource

    def with_fields(self, fields: Fields) -> ManagedFields:
        """The entry with other fields."""
        return replace(self, fields=fields)


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
    """Record in `new` that `manager` owns what an update has changed; `server_side_apply` does so itself.

    A client may rewrite `managedFields`: those that `new` brings count, unless they are invalid.
    """
    meta = new["metadata"]
    if operation == "Apply":
        return
    given = meta.get("managedFields")
    if given in ([], [{}]):
        entries: list[ManagedFields] = []  # the documented way to start over
    else:
        entries = read_entries(new if given and _are_valid(given) else old)
    before = leaves(schema, old) if old is not None else {}
    after = leaves(schema, new)
    scope = in_scope(subresource)
    present = with_parents(after)
    changed = frozenset(
        path for path, value in after.items() if scope(path) and (path not in before or before[path] != value)
    )
    # A manager that adds a field of a struct that was not there has added the struct as well.
    changed |= with_parents(changed) - with_parents(before)
    mine = ManagedFields(manager, "Update", new["apiVersion"], subresource or "", now, changed)
    kept: list[ManagedFields] = []
    for entry in entries:
        if entry.identity == mine.identity:
            time = now if changed else entry.time
            mine = replace(mine, fields=mine.fields | (entry.fields & present), time=time)
        else:
            kept.append(entry.with_fields((entry.fields & present) - changed))
    write_entries(meta, [*kept, mine])


def record_status_update(schema: Schema, old: Object, new: Object, *, manager: str, now: str) -> None:
    """Like `record_update`, but cheaper, for a status that `manager` alone writes (nearly always so).

    The platform writes status often, and mostly the same fields with other values: then only the time of its
    entry changes.
    """
    mine = ManagedFields(manager, "Update", new["apiVersion"], "status", now, frozenset())
    previous: Object | None = None
    kept = []
    for raw in old["metadata"].get("managedFields") or ():
        if _entry(raw, frozenset()).identity == mine.identity:
            previous = raw
        elif "f:status" in (raw.get("fieldsV1") or {}):
            record_update(
                schema, old, new, manager=manager, operation="Update", now=now, subresource="status"
            )
            return
        else:
            kept.append(raw)
    status = new.get("status") or {}
    if previous is not None and same_shape(schema["properties"]["status"], old.get("status"), status):
        kept.append({**previous, "time": now})
    elif status:
        paths = tuple(leaves(schema, {"status": status}))
        kept.append(_raw(mine, _status_fields(paths)))
    if kept:
        new["metadata"]["managedFields"] = kept
    else:
        new["metadata"].pop("managedFields", None)


@lru_cache(maxsize=1024)
def _status_fields(paths: tuple[Path, ...]) -> Object:
    """FieldsV1 of these paths; shared between objects, so never to be changed."""
    return to_v1(with_parents(paths))


def in_scope(subresource: str | None) -> Callable[[Path], bool]:
    """Which paths a write to an object, or to its status, may own."""
    if subresource == "status":
        return lambda path: path[0] == "f:status"
    return lambda path: (
        path[0] != "f:status" and path[:1] not in SERVER_OWNED and path[:2] not in SERVER_OWNED
    )


def read_entries(obj: Object | None) -> list[ManagedFields]:
    """The entries of an object's `managedFields`."""
    found = obj["metadata"].get("managedFields") or () if obj is not None else ()
    return [_entry(raw, frozenset(from_v1(raw.get("fieldsV1") or {}, ()))) for raw in found]


def write_entries(meta: Object, entries: Iterable[ManagedFields]) -> None:
    """Put the entries that own something into an object's metadata, in place."""
    listed = [_raw(entry, to_v1(entry.fields)) for entry in entries if entry.fields]
    if listed:
        meta["managedFields"] = listed
    else:
        meta.pop("managedFields", None)


def _entry(raw: Mapping[str, Any], fields: Fields) -> ManagedFields:
    return ManagedFields(
        raw.get("manager", ""),
        raw.get("operation", "Update"),
        raw.get("apiVersion", ""),
        raw.get("subresource", ""),
        raw.get("time", ""),
        fields,
    )


def _raw(entry: ManagedFields, fields: Object) -> Object:
    return {
        "manager": entry.manager,
        "operation": entry.operation,
        "apiVersion": entry.api_version,
        "time": entry.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
        **({"subresource": entry.subresource} if entry.subresource else {}),
    }


def _are_valid(entries: Any) -> bool:
    """Whether `managedFields` that a client has sent can be read."""
    return isinstance(entries, list) and all(
        isinstance(entry, dict)
        and entry.get("operation") in ("Apply", "Update")
        and all(
            isinstance(entry.get(key, ""), str) for key in ("manager", "apiVersion", "subresource", "time")
        )
        and _is_tree(entry.get("fieldsV1"))
        for entry in entries
    )


def _is_tree(fields: Any) -> bool:
    return isinstance(fields, dict) and all(map(_is_element, fields)) and all(map(_is_tree, fields.values()))


def _is_element(key: str) -> bool:
    kind, _, rest = key.partition(":")
    try:
        if kind == "k":
            return isinstance(json.loads(rest), dict)
        if kind == "v":
            json.loads(rest)
    except ValueError:
        return False
    return True
