"""The end of objects: finalizers, dependents and owners, processes that need time, namespaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from knative.client import resources
from knative.client.resources import Resource
from knative.local import objects
from knative.local.apiserver.kinds import KindInfo
from knative.local.apiserver.store import Key, Record, Store

Propagation = Literal["Background", "Foreground", "Orphan"]

FOREGROUND = "foregroundDeletion"
GRACEFUL = frozenset({resources.POD})
"""Kinds that stay until a process has ended."""
_GRACE_SECONDS = 30


class Deleter:
    """Deletes objects and all that goes with them.

    Args:
        store: where they are kept.
        kinds: the kinds that exist; owners of other kinds are taken for alive.
        now: the wall clock.
    """

    def __init__(self, store: Store, kinds: Mapping[Resource, KindInfo], now: Callable[[], datetime]) -> None:
        self._store = store
        self._by_kind = {(res.group, res.version, res.kind): res for res in kinds}
        self._resources = tuple(kinds)
        self._now = now

    def begin(  # noqa: C901  # one branch for each of what may hold an object
        self, old: Record, propagation: Propagation | None, grace_seconds: int | None
    ) -> Record:
        """Delete at once, or mark as being deleted what something still holds; the object's last state."""
        key, meta = old.key, old.obj["metadata"]
        if key.resource == resources.NAMESPACE:
            return self._namespace(old)
        finalizers: list[str] = list(meta.get("finalizers") or ())
        if propagation == "Orphan":
            self._orphan(meta["uid"])
        elif propagation == "Foreground" and FOREGROUND not in finalizers and self._blocked(meta["uid"]):
            finalizers.append(FOREGROUND)
        graceful = key.resource in GRACEFUL and grace_seconds != 0
        if not finalizers and not graceful:
            return self.remove(key)
        obj = objects.clone(old.obj)
        if "deletionTimestamp" not in meta:
            grace = _GRACE_SECONDS if grace_seconds is None else grace_seconds
            obj["metadata"]["deletionTimestamp"] = objects.timestamp(self._now())
            obj["metadata"]["deletionGracePeriodSeconds"] = grace if graceful else 0
            if generation := meta.get("generation"):
                obj["metadata"]["generation"] = generation + 1
        if finalizers:
            obj["metadata"]["finalizers"] = finalizers
        if obj == old.obj:
            return old
        record = self._store.put(key, obj, expect=old.version)
        if FOREGROUND in finalizers:
            for dependent in self._store.owned(meta["uid"]):
                self._quietly(dependent.key, "Foreground")
        return record

    def finish_deletion(self, key: Key) -> None:
        """Remove a gracefully deleted object whose process has ended; finalizers still hold it."""
        record = self._store.get(key)
        if record is not None and not record.obj["metadata"].get("finalizers"):
            self.remove(key)

    def collect_garbage(self) -> None:
        """Delete what has lost all its owners, and finish namespaces."""
        for resource in self._resources:
            for record in self._store.list(resource):
                owners = _owners(record.obj)
                if owners and not any(self._owner(owner, record) for owner in owners):
                    self._quietly(record.key)
        for record in self._store.list(resources.NAMESPACE):
            if record.obj["metadata"].get("deletionTimestamp"):
                self._namespace(record)

    def remove(self, key: Key) -> Record:
        """Remove an object and, by and by, its dependents; its last state."""
        record = self._store.remove(key)
        uid = record.obj["metadata"]["uid"]
        for dependent in self._store.owned(uid):
            others = (owner for owner in _owners(dependent.obj) if owner["uid"] != uid)
            if not any(self._owner(owner, dependent) for owner in others):
                self._quietly(dependent.key)
        self._release_owners(record)
        namespace = self._store.get(Key(resources.NAMESPACE, "", key.namespace)) if key.namespace else None
        if namespace is not None and namespace.obj["metadata"].get("deletionTimestamp"):
            self._finish_namespace(namespace.key)
        return record

    def _quietly(self, key: Key, propagation: Propagation | None = None) -> None:
        record = self._store.get(key)
        if record is not None:
            self.begin(record, propagation, None)

    def _owner(self, owner: Mapping[str, Any], dependent: Record) -> Record | bool:
        """The owner if it lives; True for a kind that isn't served here: nobody can say that it is gone."""
        group, _, version = owner["apiVersion"].rpartition("/")
        resource = self._by_kind.get((group, version, owner["kind"]))
        if resource is None:
            return True
        where = dependent.key.namespace if resource.namespaced else ""
        record = self._store.get(Key(resource, where, owner["name"]))
        return record if record is not None and record.obj["metadata"]["uid"] == owner["uid"] else False

    def _blocked(self, uid: str) -> bool:
        return any(
            owner.get("blockOwnerDeletion")
            for dependent in self._store.owned(uid)
            for owner in _owners(dependent.obj)
            if owner["uid"] == uid
        )

    def _release_owners(self, gone: Record) -> None:
        """The owners that waited for this dependent need wait no longer."""
        for reference in _owners(gone.obj):
            owner = self._owner(reference, gone)
            if not isinstance(owner, Record):
                continue
            finalizers = owner.obj["metadata"].get("finalizers") or []
            if FOREGROUND not in finalizers or self._blocked(reference["uid"]):
                continue
            obj = objects.clone(owner.obj)
            obj["metadata"]["finalizers"] = [item for item in finalizers if item != FOREGROUND]
            if not obj["metadata"]["finalizers"]:
                del obj["metadata"]["finalizers"]
            self._store.put(owner.key, obj, expect=owner.version)
            if "finalizers" not in obj["metadata"] and owner.key.resource not in GRACEFUL:
                self.remove(owner.key)

    def _orphan(self, uid: str) -> None:
        for dependent in self._store.owned(uid):
            obj = objects.clone(dependent.obj)
            remaining = [owner for owner in _owners(obj) if owner["uid"] != uid]
            obj["metadata"]["ownerReferences"] = remaining
            if not remaining:
                del obj["metadata"]["ownerReferences"]
            self._store.put(dependent.key, obj, expect=dependent.version)

    def _namespace(self, old: Record) -> Record:
        if "deletionTimestamp" not in old.obj["metadata"]:
            obj = objects.clone(old.obj)
            obj["metadata"]["deletionTimestamp"] = objects.timestamp(self._now())
            obj["status"] = {"phase": "Terminating"}
            old = self._store.put(old.key, obj, expect=old.version)
        for record in self._content(old.key.name):
            self._quietly(record.key)
        self._finish_namespace(old.key)
        return old

    def _finish_namespace(self, key: Key) -> None:
        if self._store.get(key) is not None and next(self._content(key.name), None) is None:
            self._store.remove(key)

    def _content(self, namespace: str) -> Iterator[Record]:
        return self._store.in_namespace(namespace)


def _owners(obj: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return obj["metadata"].get("ownerReferences") or []
