"""Which objects are to be reconciled when another one changes."""

from __future__ import annotations

from collections.abc import Iterator

from knative.client.resources import (
    CONFIG_MAP,
    CONFIGURATION,
    POD,
    POD_AUTOSCALER,
    REVISION,
    ROUTE,
    SERVICE,
    Object,
    Resource,
)
from knative.labels import REVISION_LABEL, SERVICE_LABEL
from knative.local import objects
from knative.local.apiserver.records import Change, EventType, Key
from knative.local.apiserver.store import Store
from knative.local.controllers import settings
from knative.local.controllers.desired_state import routes

_OWNERS: dict[str, Resource] = {res.kind: res for res in (SERVICE, CONFIGURATION, ROUTE, REVISION)}


class Dependencies:
    """Finds the keys that a change concerns, with indexes over Routes that are kept up to date by `of`.

    Args:
        store: the objects.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._standalone_routes: set[Key] = set()
        """Routes that no Service owns: they may send requests to any Configuration or Revision."""
        self._routed: dict[Key, set[Key]] = {}
        """By Route: the Configurations and Revisions whose annotation names it."""

    def rebuild(self) -> None:
        """Index all objects of the store anew."""
        self._standalone_routes.clear()
        self._routed.clear()
        for resource in (ROUTE, CONFIGURATION, REVISION):
            for record in self._store.list(resource):
                self._index(record.key, None, record.obj)

    def routed_by(self, route: Key) -> frozenset[Key]:
        """The Configurations and Revisions whose annotation says that this Route sends requests to them."""
        return frozenset(self._routed.get(route, ()))

    def of(self, change: Change) -> Iterator[Key]:
        """The keys of other objects that are to be reconciled because of a change, some perhaps twice."""
        key, obj = change.record.key, change.record.obj
        deleted = change.type is EventType.DELETED
        self._index(key, None if change.before is None else change.before.obj, None if deleted else obj)
        match key.resource:
            case resource if resource in (CONFIGURATION, REVISION, ROUTE, POD_AUTOSCALER):
                yield from _owners(key, obj)
                if resource in (CONFIGURATION, REVISION):
                    yield from self._routes(key, obj)
            case resource if resource == CONFIG_MAP:
                yield from self._configured(key)
            case resource if resource == POD:
                name = objects.labels_of(obj).get(REVISION_LABEL, "")
                yield Key(POD_AUTOSCALER, key.namespace, name)
                yield Key(REVISION, key.namespace, name)
                if _restarts(obj) != _restarts(None if change.before is None else change.before.obj):
                    yield from self._routes(key, obj)  # its Service may have failed for good

    def _index(self, key: Key, before: Object | None, obj: Object | None) -> None:
        if key.resource == ROUTE:
            if obj is not None and not objects.owner_uids(obj):
                self._standalone_routes.add(key)
            else:
                self._standalone_routes.discard(key)
        elif key.resource in (CONFIGURATION, REVISION):
            for name in routes.names_of(before) if before is not None else ():
                self._routed.get(Key(ROUTE, key.namespace, name), set()).discard(key)
            for name in routes.names_of(obj) if obj is not None else ():
                self._routed.setdefault(Key(ROUTE, key.namespace, name), set()).add(key)

    def _routes(self, key: Key, obj: Object) -> Iterator[Key]:
        """Routes that send requests to a Configuration or Revision, or may."""
        names = routes.names_of(obj)
        if (service := objects.labels_of(obj).get(SERVICE_LABEL)) is not None:
            names = names | {service}
        for name in sorted(names):
            yield Key(ROUTE, key.namespace, name)
        for route in self._standalone_routes:
            if route.namespace == key.namespace:
                yield route

    def _configured(self, key: Key) -> Iterator[Key]:
        """Objects that depend on one of Knative's ConfigMaps."""
        if key.namespace != settings.NAMESPACE:
            return
        if key.name in (settings.AUTOSCALER, settings.DEPLOYMENT):
            yield from (record.key for record in self._store.list(REVISION))
        elif key.name == settings.GC:
            yield from (record.key for record in self._store.list(CONFIGURATION))


def _restarts(pod: Object | None) -> list[object]:
    statuses = ((pod or {}).get("status") or {}).get("containerStatuses") or ()
    return [item.get("restartCount") for item in statuses]


def _owners(key: Key, obj: Object) -> Iterator[Key]:
    for owner in obj["metadata"].get("ownerReferences") or ():
        if (resource := _OWNERS.get(owner["kind"])) is not None:
            yield Key(resource, key.namespace, owner["name"])
