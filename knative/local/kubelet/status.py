"""A pod's status, from the state of its containers (pure)."""

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


@dataclass(slots=True)
class ContainerState:
    """What one container is doing now."""

    name: str
    image: str
    waiting: tuple[str, str] = CREATING
    """Reason and message, while it does not run."""
    running_since: str | None = None
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
    """What a pod's status is made of."""

    containers: Sequence[ContainerState]
    scheduled: Condition = field(default_factory=lambda: conditions.unknown("PodScheduled"))
    has_run: bool = False
    """Whether a container has been started."""
    annotations: dict[str, str] = field(default_factory=dict)
    """The pod's annotations that the platform writes."""

    @property
    def ready(self) -> bool:
        """Whether all containers are ready."""
        return all(container.ready for container in self.containers)


def terminated(code: int, reason: str, message: str, begun: datetime, ended: datetime) -> Object:
    """A ContainerStateTerminated."""
    return {
        "exitCode": code,
        "reason": reason,
        "message": message,
        "startedAt": objects.timestamp(begun),
        "finishedAt": objects.timestamp(ended),
    }


def pod_status(state: PodState, spec: Mapping[str, Any], host: str) -> Object:
    """The PodStatus to write; its conditions still lack lastTransitionTime."""
    scheduled = state.scheduled.status == "True"
    status: Object = {
        "phase": "Running" if state.has_run else "Pending",
        "conditions": [*_readiness(state), state.scheduled],
        "containerStatuses": [_container_status(item) for item in state.containers],
        "qosClass": limits.qos_class(spec),
    }
    if scheduled:
        status["conditions"].append(conditions.true("Initialized"))
        status["hostIP"] = status["podIP"] = host
        status["hostIPs"] = status["podIPs"] = [{"ip": host}]
        status["startTime"] = state.annotations[SCHEDULED_AT_ANNOTATION][:19] + "Z"
    return status


def _readiness(state: PodState) -> list[Condition]:
    kinds = ("Ready", "ContainersReady")
    if state.ready:
        return [conditions.true(kind) for kind in kinds]
    unready = [container for container in state.containers if not container.ready]
    message = f"containers with unready status: [{' '.join(item.name for item in unready)}]"
    reasons = [item.not_ready_message for item in unready if item.not_ready_message]
    if reasons:
        message += f": {'; '.join(reasons)}"
    return [conditions.false(kind, "ContainersNotReady", message) for kind in kinds]


def _container_status(state: ContainerState) -> Object:
    now: Object
    if state.running_since is not None:
        now = {"running": {"startedAt": state.running_since}}
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
