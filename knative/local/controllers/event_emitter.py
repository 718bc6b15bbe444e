"""Events of what happened to objects, told from the changes themselves: what `kubectl describe` ends with.

Words and sources are those of Knative's controllers, the scheduler and the kubelet. What no change shows (a
probe that failed, a pod without a GPU) is told by whoever knows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from knative.client import resources
from knative.client.resources import Object, Resource
from knative.local import objects
from knative.local.apiserver.store import Change, EventType, Key, Store
from knative.local.controllers.event_recorder import EventRecorder


@dataclass(frozen=True, slots=True)
class _Saying:
    about: Mapping[str, Any]
    reason: str
    message: str
    component: str | None = None
    """Who says it; None: the controller of the kind."""
    kind: str = "Normal"


Teller: TypeAlias = Callable[[Change], Iterator[_Saying]]


class EventEmitter:
    """Listens to the store and records Events.

    Args:
        store: whose changes are told.
        recorder: takes the Events.
    """

    def __init__(self, store: Store, recorder: EventRecorder) -> None:
        self._store = store
        self._recorder = recorder
        self._tellers: Mapping[Resource, Teller] = {
            resources.CONFIGURATION: self._configuration,
            resources.ROUTE: self._created,
            resources.POD: _pod,
        }
        store.subscribe(self._changed)

    def _changed(self, change: Change) -> None:
        teller = self._tellers.get(change.record.key.resource)
        if teller is not None:
            # Later, so that everybody hears of this change before the one that the Event is.
            asyncio.get_running_loop().call_soon(self._tell, teller, change)

    def _tell(self, teller: Teller, change: Change) -> None:
        for saying in teller(change):
            self._say(saying)

    def _say(self, saying: _Saying) -> None:
        say = self._recorder.normal if saying.kind == "Normal" else self._recorder.warning
        say(saying.about, saying.reason, saying.message, component=saying.component)

    def _created(self, change: Change) -> Iterator[_Saying]:
        """A Service has made its Configuration or its Route."""
        key = change.record.key
        if change.type is not EventType.ADDED:
            return
        for owner in change.record.obj["metadata"].get("ownerReferences") or ():
            service = self._store.get(Key(resources.SERVICE, key.namespace, owner["name"]))
            if service is not None and service.obj["metadata"]["uid"] == owner["uid"]:
                yield _Saying(service.obj, "Created", f'Created {key.resource.kind} "{key.name}"')

    def _configuration(self, change: Change) -> Iterator[_Saying]:
        yield from self._created(change)
        if change.type is EventType.DELETED:
            return
        config = change.record.obj
        before = (change.before.obj.get("status") if change.before else None) or {}
        after = config.get("status") or {}
        ready, created = after.get("latestReadyRevisionName"), after.get("latestCreatedRevisionName")
        if ready and ready != before.get("latestReadyRevisionName"):
            if not before.get("latestReadyRevisionName"):
                yield _Saying(config, "ConfigurationReady", "Configuration becomes ready")
            yield _Saying(config, "LatestReadyUpdate", f'LatestReadyRevisionName updated to "{ready}"')
        failed = objects.condition_status(config) == "False"
        if failed and (
            change.before is None
            or objects.condition(change.before.obj, "Ready") != objects.condition(config, "Ready")
        ):
            which = "Ready" if ready == created else "Created"
            yield _Saying(
                config,
                f"Latest{which}Failed",
                f'Latest {which.lower()} revision "{created}" has failed',
                kind="Warning",
            )


def _pod(change: Change) -> Iterator[_Saying]:
    if change.type is EventType.DELETED:
        return
    pod, before = change.record.obj, change.before.obj if change.before else {"metadata": {}}
    meta = pod["metadata"]
    if pod["spec"].get("nodeName") and not (before.get("spec") or {}).get("nodeName"):
        where = f"{meta['namespace']}/{meta['name']} to {pod['spec']['nodeName']}"
        yield _Saying(pod, "Scheduled", f"Successfully assigned {where}", "default-scheduler")
    running = _running(before)
    for name, since in _running(pod).items():
        if running.get(name) != since:
            yield _Saying(pod, "Created", f"Created container: {name}", "kubelet")
            yield _Saying(pod, "Started", f"Started container {name}", "kubelet")
    if meta.get("deletionTimestamp") and not before["metadata"].get("deletionTimestamp"):
        for name in _running(pod):
            yield _Saying(pod, "Killing", f"Stopping container {name}", "kubelet")


def _running(pod: Object) -> dict[str, str]:
    """The containers that run, and since when."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return {
        str(item.get("name")): str(running.get("startedAt"))
        for item in statuses
        if (running := (item.get("state") or {}).get("running")) is not None
    }
