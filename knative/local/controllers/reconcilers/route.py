"""Reconciles Routes: tells the activator where requests go, and Revisions which Routes send them requests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from knative.client.resources import CONFIGURATION, POD, POD_AUTOSCALER, REVISION, Object, Resource
from knative.local import objects
from knative.local.activator import Activator
from knative.local.apiserver.records import Key
from knative.local.apiserver.registry import Registry
from knative.local.controllers.dependencies import Dependencies
from knative.local.controllers.desired_state import routes, start_failures
from knative.local.controllers.reconcilers.child_objects import ChildObjects
from knative.local.controllers.work_queue import WorkQueue
from knative.local.routing import StartFailure

_SOONEST_STEP_S = 0.05


class RouteReconciler:
    """Reconciles Routes.

    Args:
        registry: reads and writes objects.
        activator: routes the requests.
        dependencies: which Configurations and Revisions name a Route.
        queue: takes the Route again when its rollout takes the next step.
        url_of: the public URL of a name in a namespace.
        now: the wall clock.
    """

    def __init__(
        self,
        registry: Registry,
        activator: Activator,
        dependencies: Dependencies,
        *,
        queue: WorkQueue,
        url_of: routes.UrlOf,
        now: Callable[[], datetime],
    ) -> None:
        self._registry = registry
        self._objects = ChildObjects(registry)
        self._activator = activator
        self._dependencies = dependencies
        self._queue = queue
        self._url_of = url_of
        self._clock = now

    def reconcile(self, key: Key, obj: Object) -> None:
        """Resolve the Route's traffic to Revisions and put it into effect."""

        def configuration(name: str) -> Object | None:
            return self._objects.get(Key(CONFIGURATION, key.namespace, name))

        def revision(name: str) -> Object | None:
            return self._objects.get(Key(REVISION, key.namespace, name))

        now = self._clock().timestamp()
        resolved = routes.resolve(obj, configuration, revision, self._url_of, now)
        changed = routes.with_rollouts(obj, resolved)
        if changed is not None:
            self._registry.update(key, changed)
        if resolved.next_step_at is not None:
            self._queue.add_after(key, max(_SOONEST_STEP_S, resolved.next_step_at - now))
        self._registry.set_status(key, routes.status(obj, resolved, self._url_of, self._now()))
        route = self._objects.get(key) or obj
        failure = start_failures.of_route(
            route, configuration, lambda name: self._start_failure(Key(REVISION, key.namespace, name))
        )
        self._activator.set_service(key.namespace, key.name, routes.splits(route), failure)
        targets = routes.targets(route, configuration, revision)
        self._annotate(key, CONFIGURATION, targets.configurations)
        self._annotate(key, REVISION, targets.revisions)

    def forget(self, key: Key) -> None:
        """The Route is gone: its URLs are unknown, and Revisions lose it."""
        self._activator.remove_service(key.namespace, key.name)
        for resource in (CONFIGURATION, REVISION):
            self._annotate(key, resource, frozenset())

    def _start_failure(self, key: Key) -> StartFailure | None:
        revision = self._objects.get(key)
        if revision is None:
            return None
        autoscaler = self._objects.get(key._replace(resource=POD_AUTOSCALER))
        return start_failures.of_revision(revision, autoscaler, self._objects.owned(revision, POD))

    def _annotate(self, route: Key, resource: Resource, named: frozenset[str]) -> None:
        """Note the Route on its targets of one kind, and take it from those that no longer are."""
        keys = {Key(resource, route.namespace, name) for name in named}
        keys |= {key for key in self._dependencies.routed_by(route) if key.resource == resource}
        for key in sorted(keys, key=lambda item: item.name):
            target = self._objects.get(key)
            if target is None:
                continue
            changed = routes.with_route(target, route.name, routed=key.name in named, now=self._now())
            if changed is not None:
                self._registry.update(key, changed)

    def _now(self) -> str:
        return objects.timestamp(self._clock())
