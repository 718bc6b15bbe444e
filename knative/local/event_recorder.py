"""Writes Kubernetes Events, which are kept for an hour."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from knative.client import resources
from knative.client.resources import Object
from knative.local import objects
from knative.local.apiserver.records import Key
from knative.local.apiserver.registry import Registry

KEPT = timedelta(hours=1)
MOST = 5_000
"""At most so many Events are kept; the oldest are deleted first."""


class EventRecorder:
    """Writes Events; one that repeats another increases its count.

    Args:
        registry: reads and writes objects.
        now: the wall clock.
        component: the source of the Events; None: the controller of the involved object's kind.
    """

    def __init__(self, registry: Registry, now: Callable[[], datetime], component: str | None = None) -> None:
        self._registry = registry
        self._now = now
        self._component = component

    def normal(
        self, about: Mapping[str, Any], reason: str, message: str, *, component: str | None = None
    ) -> None:
        """Record an Event of type Normal."""
        self._record(about, "Normal", reason, message, component)

    def warning(
        self, about: Mapping[str, Any], reason: str, message: str, *, component: str | None = None
    ) -> None:
        """Record an Event of type Warning."""
        self._record(about, "Warning", reason, message, component)

    def _record(
        self, about: Mapping[str, Any], kind: str, reason: str, message: str, component: str | None
    ) -> None:
        meta = about["metadata"]
        component = component or self._component or f"{about['kind'].lower()}-controller"
        namespace = meta.get("namespace") or "default"
        content = "\x1f".join((meta.get("uid", ""), kind, reason, message))
        name = f"{meta['name']}.{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        key = Key(resources.EVENT, namespace, name)
        now = objects.timestamp(self._now())
        store = self._registry.store
        before = store.get(key)
        if before is not None:
            again = objects.clone(before.obj)
            again["count"] = before.obj.get("count", 1) + 1
            again["lastTimestamp"] = now
            store.put(key, again)
            return
        place = store.get(Key(resources.NAMESPACE, "", namespace))
        if place is None or place.obj["metadata"].get("deletionTimestamp"):
            return
        event: Object = objects.typed(
            resources.EVENT,
            {
                "metadata": {"name": name, "namespace": namespace},
                "involvedObject": {
                    "apiVersion": about["apiVersion"],
                    "kind": about["kind"],
                    "name": meta["name"],
                    "namespace": namespace,
                    "uid": meta.get("uid", ""),
                    "resourceVersion": meta.get("resourceVersion", ""),
                },
                "reason": reason,
                "message": message[:1024],
                "type": kind,
                "count": 1,
                "source": {"component": component},
                "reportingComponent": component,
                "reportingInstance": "",
                "firstTimestamp": now,
                "lastTimestamp": now,
                "eventTime": None,
            },
        )
        self._registry.create(resources.EVENT, namespace, event)

    def expire(self) -> None:
        """Delete Events older than an hour, and the oldest beyond `MOST`."""
        store = self._registry.store
        oldest = objects.timestamp(self._now() - KEPT)
        found = sorted(
            store.list(resources.EVENT), key=lambda record: str(record.obj.get("lastTimestamp") or "")
        )
        surplus = len(found) - MOST
        for index, record in enumerate(found):
            last = record.obj.get("lastTimestamp") or record.obj["metadata"]["creationTimestamp"]
            if index < surplus or str(last) < oldest:
                store.remove(record.key)
