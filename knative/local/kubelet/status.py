"""A pod's status, from what its containers are doing (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from knative.client.resources import Object
from knative.labels import SCHEDULED_AT_ANNOTATION
from knative.local import conditions, objects
from knative.local.conditions import Condition
from knative.local.kubelet import limits

CREATING = ("ContainerCreating", "")
INITIALIZING = ("PodInitializing", "")


@dataclass(slots=True)
class ContainerState:
    """What one container is doing."""

    name: str
    image: str
    waiting: tuple[str, str] = CREATING
    """Reason and message, while it neither runs nor has ended."""
    running_since: str | None = None
    ended: Object | None = None
    """How its last run ended, for a container that isn't started again (at once)."""
    last: Object | None = None
    """How the run before this one ended."""
    started: bool = False
    ready: bool = False
    not_ready_message: str = ""
    restarts: int = 0
    pid: int | None = None
    """The first process of the newest run."""


@dataclass(slots=True)
class PodState:
    """What the pod's status is made from."""

    containers: Sequence[ContainerState]
    initial: Sequence[ContainerState] = ()
    scheduled: Condition = field(default_factory=lambda: conditions.unknown("PodScheduled"))
    initialized: bool = False
    has_run: bool = False
    """Whether a container that isn't an init container has been started."""
    marks: dict[str, str] = field(default_factory=dict)
    """The pod's annotations that the platform writes."""

    @property
    def ready(self) -> bool:
        """Whether all containers are."""
        return all(container.ready for container in self.containers)


def terminated(code: int, reason: str, message: str, begun: datetime, ended: datetime) -> Object:
    """How a run ended."""
    return {
        "exitCode": code,
        "reason": reason,
        "message": message,
        "startedAt": objects.timestamp(begun),
        "finishedAt": objects.timestamp(ended),
    }


def of(state: PodState, spec: Mapping[str, Any], host: str) -> Object:
    """The status to write."""
    scheduled = state.scheduled.status == "True"
    status: Object = {
        "phase": "Running" if state.has_run else "Pending",
        "conditions": [*_readiness(state), state.scheduled, *(_initialized(state) if scheduled else [])],
        "containerStatuses": [_container(item) for item in state.containers],
        "qosClass": limits.qos_class(spec),
    }
    if state.initial:
        status["initContainerStatuses"] = [_container(item) for item in state.initial]
    if scheduled:
        status["hostIP"] = status["podIP"] = host
        status["hostIPs"] = status["podIPs"] = [{"ip": host}]
        status["startTime"] = state.marks[SCHEDULED_AT_ANNOTATION][:19] + "Z"
    return status


def _readiness(state: PodState) -> list[Condition]:
    kinds = ("Ready", "ContainersReady")
    if state.ready:
        return [conditions.true(kind) for kind in kinds]
    waited_for = [container for container in state.containers if not container.ready]
    message = f"containers with unready status: [{' '.join(item.name for item in waited_for)}]"
    reasons = [item.not_ready_message for item in waited_for if item.not_ready_message]
    if reasons:
        message += f": {'; '.join(reasons)}"
    return [conditions.false(kind, "ContainersNotReady", message) for kind in kinds]


def _initialized(state: PodState) -> list[Condition]:
    if state.initialized:
        return [conditions.true("Initialized")]
    waited_for = [item.name for item in state.initial if not item.ready]
    message = f"containers with incomplete status: [{' '.join(waited_for)}]"
    return [conditions.false("Initialized", "ContainersNotInitialized", message)]


def _container(state: ContainerState) -> Object:
    now: Object
    if state.running_since is not None:
        now = {"running": {"startedAt": state.running_since}}
    elif state.ended is not None:
        now = {"terminated": state.ended}
    else:
        reason, message = state.waiting
        now = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
    return {
        "name": state.name,
        "image": state.image,
        "imageID": "",
        **({"containerID": f"process://{state.pid}"} if state.pid is not None else {}),
        "ready": state.ready,
        "started": state.started,
        "restartCount": state.restarts,
        "state": now,
        "lastState": {"terminated": state.last} if state.last else {},
    }
