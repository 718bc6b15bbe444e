"""Deleting objects: finalizers, garbage collection by owner references, graceful deletion, namespaces."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from knative.client import resources
from knative.client.resources import Resource
from knative.local import objects
from knative.local.apiserver.kind_info import KindInfo
from knative.local.apiserver.records import Key, Record
from knative.local.apiserver.store import Store

Propagation = Literal["Background", "Foreground", "Orphan"]

GRACEFUL = frozenset({resources.POD})
"""Kinds whose objects stay until a process has ended."""
_FOREGROUND_FINALIZER = "foregroundDeletion"
_GRACE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """How a deletion is to be done."""

    propagation: Propagation | None = None
    """What happens to dependents; None means Background."""
    uid: str | None = None
    """A precondition: the object's identity."""
    resource_version: str | None = None
    """A precondition: the object's version."""
    grace_seconds: int | None = None
    """Of graceful kinds: from SIGTERM to SIGKILL; 0 deletes at once."""
    dry_run: bool = False


class Deleter:
    """Deletes objects and their dependents.

    Args:
        store: holds them.
        kinds: the kinds that are served; owners of other kinds are taken to exist.
        now: the wall clock.
    """

    def __init__(self, store: Store, kinds: Mapping[Resource, KindInfo], now: Callable[[], datetime]) -> None:
        self._store = store
        self._by_kind = {(res.group, res.version, res.kind): res for res in kinds}
        self._resources = tuple(kinds)
        self._now = now
        self._dependents: deque[tuple[Key, Propagation | None]] = deque()
        """Objects still to be deleted with their owners: a queue, since chains of owners may be long."""
        self._deleting_dependents = False

    def delete(self, old: Record, options: DeleteOptions) -> Record:
        """Remove an object, or mark it as being deleted if something still holds it; its last state."""
        record = self._delete(old, options)
        self._delete_dependents()
        return record

    def remove(self, key: Key) -> Record:
        """Remove an object and delete its dependents; returns its last state."""
        record = self._remove(key)
        self._delete_dependents()
        return record

    def finish(self, key: Key) -> None:
        """Remove a gracefully deleted object whose process has ended, unless finalizers hold it."""
        record = self._store.get(key)
        if record is not None and not record.obj["metadata"].get("finalizers"):
            self.remove(key)

    def collect_garbage(self) -> None:
        """Delete objects that have lost all their owners, and finish namespaces."""
        for resource in self._resources:
            for record in self._store.list(resource):
                owners = _owners(record.obj)
                if owners and not any(self._owner(owner, record) for owner in owners):
                    self._dependents.append((record.key, None))
        for record in self._store.list(resources.NAMESPACE):
            if record.obj["metadata"].get("deletionTimestamp"):
                self._namespace(record)
        self._delete_dependents()

    def _delete_dependents(self) -> None:
        """Work off the queue, unless that is where this call comes from."""
        if self._deleting_dependents:
            return
        self._deleting_dependents = True
        try:
            while self._dependents:
                key, propagation = self._dependents.popleft()
                record = self._store.get(key)
                if record is not None:
                    self._delete(record, DeleteOptions(propagation))
        finally:
            self._deleting_dependents = False
            self._dependents.clear()  # after an error, what is left is garbage for the next start

    def _delete(  # noqa: C901  # one branch for each thing that may hold an object
        self, old: Record, options: DeleteOptions
    ) -> Record:
        propagation, grace_seconds = options.propagation, options.grace_seconds
        key, meta = old.key, old.obj["metadata"]
        if key.resource == resources.NAMESPACE:
            return self._namespace(old)
        finalizers: list[str] = list(meta.get("finalizers") or ())
        if propagation == "Orphan":
            self._orphan(meta["uid"])
        elif (
            propagation == "Foreground"
            and _FOREGROUND_FINALIZER not in finalizers
            and self._blocked(meta["uid"])
        ):
            finalizers.append(_FOREGROUND_FINALIZER)
        graceful = key.resource in GRACEFUL and grace_seconds != 0
        if not finalizers and not graceful:
            return self._remove(key)
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
        if _FOREGROUND_FINALIZER in finalizers:
            for dependent in self._store.owned(meta["uid"]):
                self._dependents.append((dependent.key, "Foreground"))
        return record

    def _remove(self, key: Key) -> Record:
        record = self._store.remove(key)
        uid = record.obj["metadata"]["uid"]
        for dependent in self._store.owned(uid):
            others = (owner for owner in _owners(dependent.obj) if owner["uid"] != uid)
            if not any(self._owner(owner, dependent) for owner in others):
                self._dependents.append((dependent.key, None))
        self._release_owners(record)
        namespace = self._store.get(Key(resources.NAMESPACE, "", key.namespace)) if key.namespace else None
        if namespace is not None and namespace.obj["metadata"].get("deletionTimestamp"):
            self._finish_namespace(namespace.key)
        return record

    def _owner(self, owner: Mapping[str, Any], dependent: Record) -> Record | bool:
        """The owner, if it exists; True for a kind that isn't served here: it can't be known to be gone."""
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
        """Remove owners whose foreground deletion waited for this dependent alone."""
        for reference in _owners(gone.obj):
            owner = self._owner(reference, gone)
            if not isinstance(owner, Record):
                continue
            finalizers = owner.obj["metadata"].get("finalizers") or []
            if _FOREGROUND_FINALIZER not in finalizers or self._blocked(reference["uid"]):
                continue
            obj = objects.clone(owner.obj)
            obj["metadata"]["finalizers"] = [item for item in finalizers if item != _FOREGROUND_FINALIZER]
            if not obj["metadata"]["finalizers"]:
                del obj["metadata"]["finalizers"]
            self._store.put(owner.key, obj, expect=owner.version)
            if "finalizers" not in obj["metadata"] and owner.key.resource not in GRACEFUL:
                self._dependents.append((owner.key, None))

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
        self._dependents.extend((record.key, None) for record in self._store.in_namespace(old.key.name))
        self._finish_namespace(old.key)
        return old

    def _finish_namespace(self, key: Key) -> None:
        if self._store.get(key) is not None and next(self._store.in_namespace(key.name), None) is None:
            self._store.remove(key)


def _owners(obj: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return obj["metadata"].get("ownerReferences") or []
