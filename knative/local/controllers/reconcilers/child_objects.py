"""The reconcilers' access to the API's objects: read one, list those that another owns, create or update."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from knative.client.resources import Object, Resource
from knative.local import objects
from knative.local.apiserver.records import Key
from knative.local.apiserver.registry import Registry

log = logging.getLogger(__name__)


class ChildObjects:
    """Reads objects, and makes those that a reconciler owns equal to what it wants.

    Args:
        registry: reads and writes objects.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store

    def get(self, key: Key) -> Object | None:
        """An object; None if it does not exist."""
        record = self._store.get(key)
        return None if record is None else record.obj

    def owned(self, owner: Mapping[str, Any], resource: Resource) -> list[Object]:
        """The objects of that kind that `owner` owns, by name."""
        found = [
            record.obj
            for record in self._store.owned(owner["metadata"]["uid"])
            if record.key.resource == resource
        ]
        return sorted(found, key=objects.name_of)

    def ensure(self, key: Key, wanted: Object, owner: Mapping[str, Any]) -> None:
        """Make an owned object exist with this specification, these labels and these annotations.

        An object of that name that `owner` does not own is left alone.
        """
        record = self._store.get(key)
        if record is None:
            self._registry.create(key.resource, key.namespace, wanted)
            return
        have = record.obj
        if owner["metadata"]["uid"] not in objects.owner_uids(have):
            log.warning("%s %s belongs to another owner and is left alone", key.resource.kind, key.name)
            return
        if have["metadata"].get("deletionTimestamp"):
            return
        labels, annotations = wanted["metadata"]["labels"], wanted["metadata"]["annotations"]
        same = (
            have["spec"] == wanted["spec"]
            and objects.labels_of(have) == labels
            and objects.annotations_of(have) == annotations
        )
        if not same:
            changed = objects.clone(have)
            changed["spec"] = wanted["spec"]
            changed["metadata"]["labels"], changed["metadata"]["annotations"] = labels, annotations
            self._registry.update(key, changed)
