"""Reconciles Services: each owns a Configuration and a Route of its name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from knative.client.resources import CONFIGURATION, ROUTE, Object
from knative.local import objects
from knative.local.apiserver.records import Key
from knative.local.apiserver.registry import Registry
from knative.local.controllers.desired_state import services
from knative.local.controllers.reconcilers.child_objects import ChildObjects
from knative.local.controllers.work_queue import WorkQueue

FAILURE_DELAY_S = 0.3
"""Seconds after a Service's change before its status may say that it failed.

`kn` writes, reads and then watches, and would never learn of a failure that it has read already.
"""


class ServiceReconciler:
    """Reconciles Services.

    Args:
        registry: reads and writes objects.
        queue: takes a Service whose failure is to be told later.
        now: the wall clock.
    """

    def __init__(self, registry: Registry, queue: WorkQueue, now: Callable[[], datetime]) -> None:
        self._registry = registry
        self._objects = ChildObjects(registry)
        self._queue = queue
        self._clock = now
        self._just_changed: dict[Key, int] = {}
        """Services that changed less than `FAILURE_DELAY_S` ago, with their generation."""

    def reconcile(self, key: Key, obj: Object) -> None:
        """Make the Service's Configuration and Route, and draw its status from theirs."""
        config_key = Key(CONFIGURATION, key.namespace, key.name)
        route_key = Key(ROUTE, key.namespace, key.name)
        self._objects.ensure(config_key, services.configuration(obj, self._objects.get(config_key)), obj)
        self._objects.ensure(route_key, services.route(obj, self._objects.get(route_key)), obj)
        config, route = self._objects.get(config_key), self._objects.get(route_key)
        now = objects.timestamp(self._clock())
        status = services.status(obj, config, route, now)
        if self._changed_just_now(key, obj) and services.failed(status):
            status = services.status(obj, config, route, now, failures_are_final=False)
        self._registry.set_status(key, status)

    def forget(self, key: Key) -> None:
        """The Service is gone; its children are deleted as owned objects."""
        self._just_changed.pop(key, None)

    def _changed_just_now(self, key: Key, service: Object) -> bool:
        generation = service["metadata"]["generation"]
        if (service.get("status") or {}).get("observedGeneration") != generation:
            self._just_changed[key] = generation
            asyncio.get_running_loop().call_later(FAILURE_DELAY_S, self._delay_over, key, generation)
        return key in self._just_changed

    def _delay_over(self, key: Key, generation: int) -> None:
        if self._just_changed.get(key) == generation:
            del self._just_changed[key]
            service = self._objects.get(key)
            if service is not None and objects.condition_status(service) == "Unknown":
                self._queue.add(key)
