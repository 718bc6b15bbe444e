"""The loop that makes actual what is wished: one queue, one reconcile for each kind, all effects here.

Level-triggered: a change of an object puts it and whoever depends on it into the queue; a reconcile reads
the present state, asks the pure modules what should be, and writes only differences. Nothing is remembered
between two reconciles, so a crash at any point heals at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from knative.client import resources
from knative.client.resources import Object, Resource
from knative.labels import REVISION_LABEL, ROUTES_ANNOTATION, SERVICE_LABEL
from knative.local import objects
from knative.local.activator import Activator
from knative.local.apiserver.registry import Registry
from knative.local.apiserver.store import Change, EventType, Key, Record
from knative.local.controllers import settings as settings_of_knative
from knative.local.controllers.child_objects import ChildObjects
from knative.local.controllers.event_recorder import EventRecorder
from knative.local.controllers.pod_autoscaler_reconciler import PodAutoscalerReconciler
from knative.local.controllers.reconcilers import (
    conditions,
    configurations,
    revisions,
    routes,
    services,
)
from knative.local.controllers.settings import KnativeSettings
from knative.local.routing import RevisionKey

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_TURN_S = 0.002
_FRESH_S = 0.3


class ControllerManager:
    """Reconciles everything.

    Args:
        registry: reads and writes objects.
        activator: is told what exists and where it runs.
        scaling: brings Revisions to their autoscalers and pods to the number that those want.
        settings: Knative's ConfigMaps; a change acts at once.
        now: the wall clock.
        url_of: the public URL of a name in a namespace.
        recorder: takes Events.
        unrunnable: why a Revision can't run on this platform, or None.
        before_removal: told that a Revision goes, while the activator still knows what it did.
    """

    def __init__(
        self,
        registry: Registry,
        activator: Activator,
        scaling: PodAutoscalerReconciler,
        *,
        settings: KnativeSettings,
        now: Callable[[], datetime],
        url_of: Callable[[str, str], str],
        recorder: EventRecorder,
        unrunnable: Callable[[Mapping[str, Any]], conditions.Condition | None],
        before_removal: Callable[[RevisionKey], None],
    ) -> None:
        self._registry = registry
        self._store = registry.store
        self._activator = activator
        self._scaling = scaling
        self._children = ChildObjects(registry)
        self._settings = settings
        self._clock = now
        self._url_of = url_of
        self._events = recorder
        self._unrunnable = unrunnable
        self._before_removal = before_removal
        self._queue: dict[Key, None] = {}
        self._free_routes: dict[Key, None] = {}
        self._fresh: dict[Key, int] = {}  # Services that have just changed, with the new generation
        self._wake = asyncio.Event()
        self._reconcilers: Mapping[Resource, Callable[[Key, Record], None]] = {
            resources.SERVICE: self._service,
            resources.CONFIGURATION: self._configuration,
            resources.ROUTE: self._route,
            resources.REVISION: self._revision,
            resources.POD_AUTOSCALER: self._pod_autoscaler,
        }

    # life

    def start(self) -> None:
        """Follow the store from now on and look at everything once."""
        self._store.subscribe(self._changed)
        self._store.on_reset(self._later)
        self._look_at_everything()

    def _later(self) -> None:
        """The disk refused a change: start again, but not so soon that a full disk keeps the loop busy."""
        asyncio.get_running_loop().call_later(_RETRY_S, self._look_at_everything)

    def _look_at_everything(self) -> None:
        for resource in self._reconcilers:
            for record in self._store.list(resource):
                self._enqueue(record.key)
        self._free_routes = {
            record.key: None
            for record in self._store.list(resources.ROUTE)
            if not objects.owner_uids(record.obj)
        }

    def collect(self) -> None:
        """Look for Revisions to delete; time alone makes them due."""
        for record in self._store.list(resources.CONFIGURATION):
            self._enqueue(record.key)

    async def run(self) -> None:
        """Work on the queue until cancelled."""
        while True:
            await self._wake.wait()
            self.work()
            if self._queue:
                await asyncio.sleep(0)

    async def settle(self) -> None:
        """Work until the queue is empty."""
        while self._queue:
            self.work()
            await asyncio.sleep(0)

    def work(self) -> None:
        """Reconcile from the queue for a moment; then requests on the same event loop get their turn."""
        until = time.monotonic() + _TURN_S
        while self._queue and time.monotonic() < until:
            key = next(iter(self._queue))
            del self._queue[key]
            self._reconcile(key)
        if not self._queue:
            self._wake.clear()

    def on_scale(self, key: RevisionKey) -> None:
        """An autoscaler's word, read when its turn comes so that the newest counts."""
        self._enqueue(Key(resources.POD_AUTOSCALER, key.namespace, key.name))

    def _enqueue(self, key: Key) -> None:
        self._queue[key] = None
        self._wake.set()

    def _reconcile(self, key: Key) -> None:
        record = self._store.get(key)
        if record is None or record.obj["metadata"].get("deletionTimestamp"):
            return
        try:
            self._reconcilers[key.resource](key, record)
        except Exception:  # one broken object must not stop the others; it is tried again
            log.exception("reconciling %s %s/%s failed", key.resource.kind, key.namespace, key.name)
            asyncio.get_running_loop().call_later(_RETRY_S, self._enqueue, key)

    # what a change concerns

    def _changed(self, change: Change) -> None:
        key, obj = change.record.key, change.record.obj
        gone = change.type is EventType.DELETED
        if key.resource in self._reconcilers and not gone:
            self._enqueue(key)
        match key.resource:
            case resources.CONFIGURATION | resources.REVISION | resources.ROUTE | resources.POD_AUTOSCALER:
                self._enqueue_owners(key, obj)
            case resources.CONFIG_MAP:
                self._settings_changed(key)
            case resources.POD:
                name = objects.labels_of(obj).get(REVISION_LABEL, "")
                self._enqueue(Key(resources.POD_AUTOSCALER, key.namespace, name))
                self._enqueue(Key(resources.REVISION, key.namespace, name))
        if key.resource in (resources.CONFIGURATION, resources.REVISION):
            self._enqueue_routes(key, obj)
        if key.resource == resources.ROUTE and not objects.owner_uids(obj):
            if gone:
                self._free_routes.pop(key, None)
            else:
                self._free_routes[key] = None
        if gone:
            self._forget(key)

    def _forget(self, key: Key) -> None:
        if key.resource == resources.ROUTE:
            self._activator.remove_service(key.namespace, key.name)
            self._unroute(key)
        if key.resource == resources.REVISION:
            revision = RevisionKey(key.namespace, key.name)
            self._before_removal(revision)
            self._scaling.forget(revision)
            self._activator.remove_revision(revision)

    def _settings_changed(self, key: Key) -> None:
        if key.namespace != settings_of_knative.NAMESPACE:
            return
        if key.name in (settings_of_knative.AUTOSCALER, settings_of_knative.DEPLOYMENT):
            for record in self._store.list(resources.REVISION):
                self._enqueue(record.key)
        elif key.name == settings_of_knative.GC:
            self.collect()

    def _enqueue_owners(self, key: Key, obj: Object) -> None:
        for owner in obj["metadata"].get("ownerReferences") or ():
            for resource in self._reconcilers:
                if resource.kind == owner["kind"]:
                    self._enqueue(Key(resource, key.namespace, owner["name"]))

    def _enqueue_routes(self, key: Key, obj: Object) -> None:
        """Routes that may lead to this Revision or Configuration: the Service's, and those of no Service."""
        name = objects.labels_of(obj).get(SERVICE_LABEL)
        if name is not None:
            self._enqueue(Key(resources.ROUTE, key.namespace, name))
        for route in self._free_routes:
            if route.namespace == key.namespace:
                self._enqueue(route)

    # reconciles

    def _service(self, key: Key, record: Record) -> None:
        service = record.obj
        config_key = Key(resources.CONFIGURATION, key.namespace, key.name)
        route_key = Key(resources.ROUTE, key.namespace, key.name)
        self._ensure(config_key, services.configuration(service), service)
        self._ensure(route_key, services.route(service), service)
        children = self._obj(config_key), self._obj(route_key)
        status = services.status(service, *children, self._now())
        if self._is_fresh(key, service) and services.failed(status):
            status = services.status(service, *children, self._now(), early=True)
        self._registry.set_status(key, status)

    def _is_fresh(self, key: Key, service: Object) -> bool:
        """Whether the Service has changed so lately that who changed it may not be watching it yet.

        `kn` writes, reads and then watches, and never learns of a failure that was there when it read.
        """
        generation = service["metadata"]["generation"]
        if (service.get("status") or {}).get("observedGeneration") != generation:
            self._fresh[key] = generation
            asyncio.get_running_loop().call_later(_FRESH_S, self._no_longer_fresh, key, generation)
        return key in self._fresh

    def _no_longer_fresh(self, key: Key, generation: int) -> None:
        if self._fresh.get(key) == generation:
            del self._fresh[key]
            service = self._obj(key)
            if service is not None and objects.condition_status(service) == "Unknown":
                self._enqueue(key)

    def _configuration(self, key: Key, record: Record) -> None:
        config = record.obj
        made = self._owned(config, resources.REVISION)
        problem = None
        if configurations.of_generation(config, made) is None:
            name = configurations.revision_name(config)
            taken = self._obj(Key(resources.REVISION, key.namespace, name))
            if taken is None:
                wanted = configurations.revision(config, self._now())
                self._registry.create(resources.REVISION, key.namespace, wanted)
                self._events.normal(config, "Created", f'Created Revision "{name}"')
                made = self._owned(config, resources.REVISION)
            else:
                problem = f'Revision "{name}" already exists and was made from another template.'
        status = configurations.status(config, made, self._now(), problem=problem)
        self._registry.set_status(key, status)
        self._collect(self._obj(key) or config, made)

    def _collect(self, config: Object, made: Sequence[Object]) -> None:
        """Delete the Revisions that have been out of use for long."""
        retention = self._settings.retention
        for name in configurations.collectable(config, made, self._clock(), retention):
            namespace = objects.namespace_of(config)
            self._registry.delete(Key(resources.REVISION, namespace, name))
            self._events.normal(config, "RevisionCollected", f'Deleted Revision "{name}", long out of use')

    def _route(self, key: Key, record: Record) -> None:
        resolved = routes.resolve(
            record.obj,
            lambda name: self._obj(Key(resources.CONFIGURATION, key.namespace, name)),
            lambda name: self._obj(Key(resources.REVISION, key.namespace, name)),
            self._url_of,
        )
        self._registry.set_status(key, routes.status(record.obj, resolved, self._url_of, self._now()))
        route = self._obj(key)
        assert route is not None
        self._activator.set_service(key.namespace, key.name, routes.splits(route))
        self._label_revisions(key, routes.routed(route))

    def _label_revisions(self, route: Key, routed: frozenset[str]) -> None:
        """Tell the Revisions that this Route leads to, and those that it no longer leads to."""
        candidates = {
            name: revision
            for name in routed
            if (revision := self._obj(Key(resources.REVISION, route.namespace, name))) is not None
        }
        config = self._obj(Key(resources.CONFIGURATION, route.namespace, route.name))
        for revision in self._owned(config, resources.REVISION) if config is not None else ():
            candidates.setdefault(objects.name_of(revision), revision)
        for name, revision in candidates.items():
            listed = objects.annotations_of(revision).get(ROUTES_ANNOTATION, "")
            through = {item for item in listed.split(",") if item}
            through = through | {route.name} if name in routed else through - {route.name}
            changed = routes.routing_labels(revision, sorted(through), self._now())
            if changed is not None:
                self._registry.update(Key(resources.REVISION, route.namespace, name), changed)

    def _unroute(self, route: Key) -> None:
        for record in self._store.list(resources.REVISION, route.namespace):
            if route.name in objects.annotations_of(record.obj).get(ROUTES_ANNOTATION, "").split(","):
                through = set(objects.annotations_of(record.obj)[ROUTES_ANNOTATION].split(",")) - {route.name}
                changed = routes.routing_labels(record.obj, sorted(through), self._now())
                if changed is not None:
                    self._registry.update(record.key, changed)

    def _revision(self, key: Key, record: Record) -> None:
        revision = record.obj
        autoscaler_key = Key(resources.POD_AUTOSCALER, key.namespace, key.name)
        problem = self._unrunnable(revision)
        if problem is None:
            self._scaling.adopt(revision)
        status = revisions.status(
            revision,
            self._obj(autoscaler_key),
            self._owned(revision, resources.POD),
            self._now(),
            problem=problem,
        )
        before = objects.condition_status(revision)
        if self._registry.set_status(key, status):
            self._tell_readiness(key, before)

    def _tell_readiness(self, key: Key, before: str | None) -> None:
        revision = self._obj(key)
        ready = None if revision is None else conditions.named(revision)
        if revision is None or ready is None or ready.status == before:
            return
        if ready.status == "True":
            self._events.normal(
                revision, "RevisionReady", "Revision becomes ready upon all resources being ready"
            )
        elif ready.status == "False":
            self._events.warning(revision, ready.reason, ready.message)

    def _pod_autoscaler(self, key: Key, record: Record) -> None:
        self._scaling.reconcile(key, record.obj)

    # tools

    def _now(self) -> str:
        return objects.timestamp(self._clock())

    def _obj(self, key: Key) -> Object | None:
        return self._children.get(key)

    def _owned(self, owner: Mapping[str, Any], resource: Resource) -> list[Object]:
        return self._children.owned(owner, resource)

    def _ensure(self, key: Key, wanted: Object, owner: Mapping[str, Any]) -> None:
        self._children.ensure(key, wanted, owner)
