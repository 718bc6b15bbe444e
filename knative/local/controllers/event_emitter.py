"""Records the Events that follow from changes of objects: the end of `kubectl describe`'s output.

Reasons, messages and sources are those of Knative's controllers, the scheduler and the kubelet. What no
change shows (a failed probe, a pod that waits for a GPU) is recorded where it happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from knative.client import resources
from knative.client.resources import Object, Resource
from knative.local import objects
from knative.local.apiserver.records import Change, EventType, Key
from knative.local.apiserver.store import Store
from knative.local.event_recorder import EventRecorder


@dataclass(frozen=True, slots=True)
class _Event:
    involved: Mapping[str, Any]
    reason: str
    message: str
    component: str | None = None
    """The source; None: the controller of the kind."""
    type: str = "Normal"


Emitter: TypeAlias = Callable[[Change], Iterator[_Event]]


class EventEmitter:
    """Follows the store and records Events.

    Args:
        store: whose changes are followed.
        recorder: takes the Events.
    """

    def __init__(self, store: Store, recorder: EventRecorder) -> None:
        self._store = store
        self._recorder = recorder
        self._emitters: Mapping[Resource, Emitter] = {
            resources.CONFIGURATION: self._configuration,
            resources.ROUTE: self._created,
            resources.POD: _pod,
        }
        store.subscribe(self._changed)

    def _changed(self, change: Change) -> None:
        emitter = self._emitters.get(change.record.key.resource)
        if emitter is not None:
            # Later, so that all subscribers learn of this change before that of the Event.
            asyncio.get_running_loop().call_soon(self._emit, emitter, change)

    def _emit(self, emitter: Emitter, change: Change) -> None:
        for event in emitter(change):
            self._record(event)

    def _record(self, event: _Event) -> None:
        record = self._recorder.normal if event.type == "Normal" else self._recorder.warning
        record(event.involved, event.reason, event.message, component=event.component)

    def _created(self, change: Change) -> Iterator[_Event]:
        """A Service has created its Configuration or its Route."""
        key = change.record.key
        if change.type is not EventType.ADDED:
            return
        for owner in change.record.obj["metadata"].get("ownerReferences") or ():
            service = self._store.get(Key(resources.SERVICE, key.namespace, owner["name"]))
            if service is not None and service.obj["metadata"]["uid"] == owner["uid"]:
                yield _Event(service.obj, "Created", f'Created {key.resource.kind} "{key.name}"')

    def _configuration(self, change: Change) -> Iterator[_Event]:
        yield from self._created(change)
        if change.type is EventType.DELETED:
            return
        config = change.record.obj
        before = (change.before.obj.get("status") if change.before else None) or {}
        after = config.get("status") or {}
        ready, created = after.get("latestReadyRevisionName"), after.get("latestCreatedRevisionName")
        if ready and ready != before.get("latestReadyRevisionName"):
            if not before.get("latestReadyRevisionName"):
                yield _Event(config, "ConfigurationReady", "Configuration becomes ready")
            yield _Event(config, "LatestReadyUpdate", f'LatestReadyRevisionName updated to "{ready}"')
        failed = objects.condition_status(config) == "False"
        if failed and (
            change.before is None
            or objects.condition(change.before.obj, "Ready") != objects.condition(config, "Ready")
        ):
            which = "Ready" if ready == created else "Created"
            yield _Event(
                config,
                f"Latest{which}Failed",
                f'Latest {which.lower()} revision "{created}" has failed',
                type="Warning",
            )


def _pod(change: Change) -> Iterator[_Event]:
    if change.type is EventType.DELETED:
        return
    pod, before = change.record.obj, change.before.obj if change.before else {"metadata": {}}
    meta = pod["metadata"]
    if pod["spec"].get("nodeName") and not (before.get("spec") or {}).get("nodeName"):
        where = f"{meta['namespace']}/{meta['name']} to {pod['spec']['nodeName']}"
        yield _Event(pod, "Scheduled", f"Successfully assigned {where}", "default-scheduler")
    running = _running(before)
    for name, since in _running(pod).items():
        if running.get(name) != since:
            yield _Event(pod, "Created", f"Created container: {name}", "kubelet")
            yield _Event(pod, "Started", f"Started container {name}", "kubelet")
    if meta.get("deletionTimestamp") and not before["metadata"].get("deletionTimestamp"):
        for name in _running(pod):
            yield _Event(pod, "Killing", f"Stopping container {name}", "kubelet")


def _running(pod: Object) -> dict[str, str]:
    """The containers that run, and when each started (RFC 3339)."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return {
        str(item.get("name")): str(running.get("startedAt"))
        for item in statuses
        if (running := (item.get("state") or {}).get("running")) is not None
    }
