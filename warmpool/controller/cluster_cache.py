"""What the controller has seen of the cluster, indexed the way that ticks ask for it."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from knative.client.resources import POD_AUTOSCALER, REVISION, SERVICE, WARM_POOL, Resource
from warmpool.reconcile import views
from warmpool.reconcile.views import Key, PoolView, RevisionView, ScaleView, ServiceView

WATCHED: Final = (SERVICE, REVISION, POD_AUTOSCALER, WARM_POOL)
"""Pools come last, so that what they point at is known when they arrive."""


class ClusterCache:
    """Views by key, and who belongs to whom."""

    def __init__(self) -> None:
        self.pools: dict[Key, PoolView] = {}
        self.services: dict[Key, ServiceView] = {}
        self.revisions: dict[Key, RevisionView] = {}
        self.scales: dict[Key, ScaleView] = {}
        self.versions: defaultdict[Key, int] = defaultdict(int)
        """By pool: grows whenever something that concerns it changes."""
        self._unplaced: dict[Key, str] = {}
        self._pools_of: defaultdict[Key, set[Key]] = defaultdict(set)
        self._revisions_of: defaultdict[Key, set[Key]] = defaultdict(set)
        self._marked_by: defaultdict[Key, set[Key]] = defaultdict(set)

    def put_all(self, resource: Resource, objects: Sequence[Mapping[str, Any]]) -> set[Key]:
        """Take in some objects of a kind; returns their keys."""
        for obj in objects:
            self.put(resource, obj)
        return {_key(obj) for obj in objects}

    def keep(self, resource: Resource, there: Collection[Key]) -> None:
        """Forget what of a kind is not there any more."""
        for key in [key for key in self._shelf(resource) if key not in there]:
            self.remove(resource, key)

    def put(self, resource: Resource, obj: Mapping[str, Any]) -> set[Key]:
        """Take in one object; returns the pools concerned, none when nothing that matters has changed."""
        return self._note(self._put(resource, obj))

    def remove(self, resource: Resource, key: Key) -> set[Key]:
        """Forget one object; returns the pools concerned."""
        return self._note(self._remove(resource, key))

    def _note(self, concerned: set[Key]) -> set[Key]:
        for key in concerned:
            self.versions[key] += 1
        return concerned

    def _put(self, resource: Resource, obj: Mapping[str, Any]) -> set[Key]:
        key = _key(obj)
        if resource == WARM_POOL:
            before = self.pools.get(key)
            seen = views.pool(obj, before)
            self._index_pool(key, before, seen)
            return {key} if _matters(before, seen) else set()
        if resource == SERVICE:
            service = views.service(obj)
            if self.services.get(key) == service:
                return set()
            self.services[key] = service
            return set(self._pools_of.get(key, ()))
        if resource == REVISION:
            revision = replace(views.revision(obj), unplaced=self._unplaced.get(key))
            known = self.revisions.get(key)
            if known == revision:
                return set()
            self._index_revision(key, known, revision)
            return self._concerned(revision) | (self._concerned(known) if known else set())
        scale = views.scale(obj)
        same = self.scales.get(key) == scale
        self.scales[key] = scale
        owner = self.revisions.get(key)
        return set() if same or owner is None else self._concerned(owner)

    def _remove(self, resource: Resource, key: Key) -> set[Key]:
        if resource == WARM_POOL:
            pool = self.pools.pop(key, None)
            if pool is None:
                return set()
            self._unindex_pool(key, pool)
            target = _target(pool)
            return {key} | (set(self._pools_of.get(target, set())) if target else set())
        if resource == SERVICE:
            self.services.pop(key, None)
            return set(self._pools_of.get(key, set()))
        if resource == REVISION:
            self._unplaced.pop(key, None)
            revision = self.revisions.pop(key, None)
            if revision is None:
                return set()
            self._unmark(revision)
            if revision.service:
                self._revisions_of[revision.service].discard(key)
            return self._concerned(revision)
        self.scales.pop(key, None)
        return set()

    @property
    def unplaced(self) -> set[Key]:
        """The Revisions of which some pods find no place."""
        return set(self._unplaced)

    def place(self, key: Key, unplaced: str | None) -> None:
        """Note whether some of a Revision's pods find no place."""
        if self._unplaced.get(key) == unplaced or key not in self.revisions:
            return
        if unplaced is None:
            del self._unplaced[key]
        else:
            self._unplaced[key] = unplaced
        seen = self.revisions[key] = replace(self.revisions[key], unplaced=unplaced)
        self._note(self._concerned(seen))

    def revisions_of(self, service: Key) -> list[RevisionView]:
        """The Revisions of a Service, by name."""
        return [self.revisions[key] for key in sorted(self._revisions_of.get(service, ()))]

    def revisions_for(self, pool: PoolView) -> list[RevisionView]:
        """The Revisions of a pool's target, and any other that carries its marks."""
        target = _target(pool)
        found = {revision.key: revision for revision in self.revisions_of(target)} if target else {}
        for key in self._marked_by.get(pool.key, ()):
            found[key] = self.revisions[key]
        return [found[key] for key in sorted(found)]

    def marked(self) -> Iterator[RevisionView]:
        """Every Revision that some pool has marks on."""
        for keys in self._marked_by.values():
            for key in keys:
                yield self.revisions[key]

    def orphaned(self) -> list[RevisionView]:
        """The Revisions with marks of pools that are not there."""
        lost = [keys for pool, keys in self._marked_by.items() if pool not in self.pools]
        return [self.revisions[key] for keys in lost for key in keys]

    def rightful(self, target: Key) -> PoolView | None:
        """Of several pools with one target the oldest counts."""
        claims = [self.pools[key] for key in self._pools_of.get(target, ()) if not self.pools[key].deleting]
        return min(claims, key=lambda pool: (pool.created, pool.key), default=None)

    def _shelf(self, resource: Resource) -> Mapping[Key, object]:
        shelves: dict[Resource, Mapping[Key, object]] = {
            WARM_POOL: self.pools,
            SERVICE: self.services,
            REVISION: self.revisions,
            POD_AUTOSCALER: self.scales,
        }
        return shelves[resource]

    def _concerned(self, revision: RevisionView) -> set[Key]:
        pools = set(self._pools_of.get(revision.service, ())) if revision.service else set()
        if revision.ownership:
            pools.add((revision.key[0], revision.ownership.pool))
        return pools

    def _index_pool(self, key: Key, before: PoolView | None, seen: PoolView) -> None:
        if before is not None:
            self._unindex_pool(key, before)
        self.pools[key] = seen
        target = _target(seen)
        if target:
            self._pools_of[target].add(key)

    def _unindex_pool(self, key: Key, pool: PoolView) -> None:
        target = _target(pool)
        if target:
            self._pools_of[target].discard(key)
            if not self._pools_of[target]:
                del self._pools_of[target]

    def _index_revision(self, key: Key, before: RevisionView | None, seen: RevisionView) -> None:
        if before is not None and before.service and before.service != seen.service:
            self._revisions_of[before.service].discard(key)
        if before is not None:
            self._unmark(before)
        self.revisions[key] = seen
        if seen.service:
            self._revisions_of[seen.service].add(key)
        if seen.ownership:
            self._marked_by[key[0], seen.ownership.pool].add(key)

    def _unmark(self, revision: RevisionView) -> None:
        if revision.ownership:
            pool = (revision.key[0], revision.ownership.pool)
            self._marked_by[pool].discard(revision.key)
            if not self._marked_by[pool]:
                del self._marked_by[pool]


def _target(pool: PoolView) -> Key | None:
    return (pool.key[0], pool.spec.target) if pool.spec else None


def _matters(before: PoolView | None, seen: PoolView) -> bool:
    """Whether more than the status that we write ourselves has changed."""
    if before is None:
        return True
    return (before.uid, before.generation, before.hold, before.deleting, before.finalizers) != (
        seen.uid,
        seen.generation,
        seen.hold,
        seen.deleting,
        seen.finalizers,
    )


def _key(obj: Mapping[str, Any]) -> Key:
    meta = obj["metadata"]
    return sys.intern(meta.get("namespace", "")), sys.intern(meta["name"])
