"""What the controller knows about the cluster, as views, indexed by how they belong together."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from knative.client.resources import POD_AUTOSCALER, REVISION, SERVICE, WARM_POOL, Resource
from warmpool.domain.object_key import ObjectKey
from warmpool.reconcile import parsing
from warmpool.reconcile.views import AutoscalerView, PoolView, RevisionView, ServiceView, Unscheduled

log = logging.getLogger(__name__)

WATCHED: Final = (SERVICE, REVISION, POD_AUTOSCALER, WARM_POOL)
"""The watched kinds. Pools come last, so that their targets are known when they arrive."""


class ClusterCache:
    """Views by key, and which objects belong together."""

    def __init__(self) -> None:
        self.pools: dict[ObjectKey, PoolView] = {}
        self.services: dict[ObjectKey, ServiceView] = {}
        self.revisions: dict[ObjectKey, RevisionView] = {}
        self.autoscalers: dict[ObjectKey, AutoscalerView] = {}
        self.versions: defaultdict[ObjectKey, int] = defaultdict(int)
        """By pool: increases whenever something that the pool depends on changes."""
        self._unscheduled: dict[ObjectKey, Unscheduled] = {}
        self._pools_of: defaultdict[ObjectKey, set[ObjectKey]] = defaultdict(set)
        self._revisions_of: defaultdict[ObjectKey, set[ObjectKey]] = defaultdict(set)
        self._held_by: defaultdict[ObjectKey, set[ObjectKey]] = defaultdict(set)

    def put_all(self, resource: Resource, objects: Sequence[Mapping[str, Any]]) -> set[ObjectKey]:
        """Store some objects of a kind; returns their keys."""
        keys = set()
        for obj in objects:
            self.put(resource, obj)
            if (key := parsing.object_key_or_none(obj)) is not None:
                keys.add(key)
        return keys

    def keep(self, resource: Resource, keys: Collection[ObjectKey]) -> None:
        """Remove the objects of a kind that are not among `keys`."""
        for key in [key for key in self._views(resource) if key not in keys]:
            self.remove(resource, key)

    def put(self, resource: Resource, obj: Mapping[str, Any]) -> set[ObjectKey]:
        """Store one object; returns the pools that have to be reconciled, none if nothing relevant changed.

        An object that cannot be parsed leaves its earlier view in place and affects no other object.
        """
        try:
            return self._changed(self._put(resource, obj))
        except Exception:  # anybody may write these objects; one must not stop the others
            namespace, name = parsing.object_key_or_none(obj) or ("?", "?")
            log.exception("%s %s/%s cannot be parsed and is ignored", resource.kind, namespace, name)
            return set()

    def remove(self, resource: Resource, key: ObjectKey) -> set[ObjectKey]:
        """Remove one object; returns the pools that have to be reconciled."""
        return self._changed(self._remove(resource, key))

    def _changed(self, pools: set[ObjectKey]) -> set[ObjectKey]:
        for key in pools:
            self.versions[key] += 1
        return pools

    def _put(self, resource: Resource, obj: Mapping[str, Any]) -> set[ObjectKey]:
        key = parsing.object_key(obj)
        if resource == WARM_POOL:
            before = self.pools.get(key)
            pool = parsing.parse_pool(obj, before)
            self._index_pool(key, before, pool)
            return {key} if _matters(before, pool) else set()
        if resource == SERVICE:
            service = parsing.parse_service(obj)
            if self.services.get(key) == service:
                return set()
            self.services[key] = service
            return set(self._pools_of.get(key, ()))
        if resource == REVISION:
            revision = replace(parsing.parse_revision(obj), unscheduled=self._unscheduled.get(key))
            known = self.revisions.get(key)
            if known == revision:
                return set()
            self._index_revision(key, known, revision)
            return self._concerned(revision) | (self._concerned(known) if known else set())
        autoscaler = parsing.parse_autoscaler(obj)
        same = self.autoscalers.get(key) == autoscaler
        self.autoscalers[key] = autoscaler
        owner = self.revisions.get(key)
        return set() if same or owner is None else self._concerned(owner)

    def _remove(self, resource: Resource, key: ObjectKey) -> set[ObjectKey]:
        if resource == WARM_POOL:
            pool = self.pools.pop(key, None)
            if pool is None:
                return set()
            self._unindex_pool(key, pool)
            others = self._pools_of.get(pool.target, set()) if pool.target else set()
            return {key} | set(others)
        if resource == SERVICE:
            self.services.pop(key, None)
            return set(self._pools_of.get(key, set()))
        if resource == REVISION:
            self._unscheduled.pop(key, None)
            revision = self.revisions.pop(key, None)
            if revision is None:
                return set()
            self._unindex_owner(revision)
            if revision.service:
                self._revisions_of[revision.service].discard(key)
            return self._concerned(revision)
        self.autoscalers.pop(key, None)
        owner = self.revisions.get(key)
        return self._concerned(owner) if owner else set()

    @property
    def unscheduled(self) -> set[ObjectKey]:
        """The Revisions of which the scheduler cannot place some pods."""
        return set(self._unscheduled)

    def set_unscheduled(self, key: ObjectKey, unscheduled: Unscheduled | None) -> None:
        """Note whether the scheduler can place a Revision's pods."""
        if self._unscheduled.get(key) == unscheduled or key not in self.revisions:
            return
        if unscheduled is None:
            del self._unscheduled[key]
        else:
            self._unscheduled[key] = unscheduled
        revision = self.revisions[key] = replace(self.revisions[key], unscheduled=unscheduled)
        self._changed(self._concerned(revision))

    def revisions_of(self, service: ObjectKey) -> list[RevisionView]:
        """The Revisions of a Service, by name."""
        return [self.revisions[key] for key in sorted(self._revisions_of.get(service, ()))]

    def revisions_for(self, pool: PoolView) -> list[RevisionView]:
        """The Revisions of a pool's target, and any other whose floor it holds, by name."""
        found = {revision.key: revision for revision in self.revisions_of(pool.target)} if pool.target else {}
        for key in self._held_by.get(pool.key, ()):
            found[key] = self.revisions[key]
        return [found[key] for key in sorted(found)]

    def orphaned(self) -> list[RevisionView]:
        """The Revisions whose floor is held by a pool that does not exist."""
        lost = [keys for pool, keys in self._held_by.items() if pool not in self.pools]
        return [self.revisions[key] for keys in lost for key in keys]

    def effective_pool(self, target: ObjectKey) -> PoolView | None:
        """Of several pools with one target the oldest counts."""
        claims = [self.pools[key] for key in self._pools_of.get(target, ()) if not self.pools[key].deleting]
        return min(claims, key=lambda pool: (pool.created, pool.key), default=None)

    def _views(self, resource: Resource) -> Mapping[ObjectKey, object]:
        views: dict[Resource, Mapping[ObjectKey, object]] = {
            WARM_POOL: self.pools,
            SERVICE: self.services,
            REVISION: self.revisions,
            POD_AUTOSCALER: self.autoscalers,
        }
        return views[resource]

    def _concerned(self, revision: RevisionView) -> set[ObjectKey]:
        pools = set(self._pools_of.get(revision.service, ())) if revision.service else set()
        if revision.ownership:
            pools.add((revision.key[0], revision.ownership.pool))
        return pools

    def _index_pool(self, key: ObjectKey, before: PoolView | None, pool: PoolView) -> None:
        if before is not None:
            self._unindex_pool(key, before)
        self.pools[key] = pool
        if pool.target:
            self._pools_of[pool.target].add(key)

    def _unindex_pool(self, key: ObjectKey, pool: PoolView) -> None:
        if pool.target:
            self._pools_of[pool.target].discard(key)
            if not self._pools_of[pool.target]:
                del self._pools_of[pool.target]

    def _index_revision(self, key: ObjectKey, before: RevisionView | None, revision: RevisionView) -> None:
        if before is not None and before.service and before.service != revision.service:
            self._revisions_of[before.service].discard(key)
        if before is not None:
            self._unindex_owner(before)
        self.revisions[key] = revision
        if revision.service:
            self._revisions_of[revision.service].add(key)
        if revision.ownership:
            self._held_by[key[0], revision.ownership.pool].add(key)

    def _unindex_owner(self, revision: RevisionView) -> None:
        if revision.ownership:
            pool = (revision.key[0], revision.ownership.pool)
            self._held_by[pool].discard(revision.key)
            if not self._held_by[pool]:
                del self._held_by[pool]


def _matters(before: PoolView | None, pool: PoolView) -> bool:
    """Whether anything but the status has changed, which the controller writes itself."""
    if before is None:
        return True
    return _inputs(before) != _inputs(pool)


def _inputs(pool: PoolView) -> tuple[object, ...]:
    """What of a pool is written by others."""
    orders = (pool.hold, pool.rollout_order, pool.rollout_paused)
    return (pool.uid, pool.generation, orders, pool.deleting, pool.finalizers)
