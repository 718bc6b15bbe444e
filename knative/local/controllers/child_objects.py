"""Objects that belong to another: found, and made to be as that one wants them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from knative.client.resources import Object, Resource
from knative.local import objects
from knative.local.apiserver.registry import Registry
from knative.local.apiserver.store import Key

log = logging.getLogger(__name__)


class ChildObjects:
    """The reconcilers' view of the registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store

    def get(self, key: Key) -> Object | None:
        """An object, if it is there."""
        record = self._store.get(key)
        return None if record is None else record.obj

    def owned(self, owner: Mapping[str, Any], resource: Resource) -> list[Object]:
        """An object's children of that kind, by name."""
        found = [
            record.obj
            for record in self._store.owned(owner["metadata"]["uid"])
            if record.key.resource == resource
        ]
        return sorted(found, key=objects.name_of)

    def ensure(self, key: Key, wanted: Object, owner: Mapping[str, Any]) -> None:
        """Make the child exist with this spec and, at least, these labels and annotations."""
        record = self._store.get(key)
        if record is None:
            self._registry.create(key.resource, key.namespace, wanted)
            return
        have = record.obj
        if owner["metadata"]["uid"] not in objects.owner_uids(have):
            log.warning("%s %s belongs to someone else; left alone", key.resource.kind, key.name)
            return
        if have["metadata"].get("deletionTimestamp"):
            return
        labels, marks = wanted["metadata"]["labels"], wanted["metadata"]["annotations"]
        same = (
            have["spec"] == wanted["spec"]
            and objects.labels_of(have) == labels
            and objects.annotations_of(have) == marks
        )
        if not same:
            changed = objects.clone(have)
            changed["spec"] = wanted["spec"]
            changed["metadata"]["labels"], changed["metadata"]["annotations"] = labels, marks
            self._registry.update(key, changed)
