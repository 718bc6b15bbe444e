"""A PodAutoscaler's status, and which pods make the difference between wished and actual scale (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knative.client.resources import Object
from knative.labels import PORT_ANNOTATION, READY_AT_ANNOTATION
from knative.local import objects
from knative.local.controllers.autoscaler import ScaleDecision
from knative.local.controllers.reconcilers import conditions
from knative.local.controllers.reconcilers.conditions import Condition
from knative.local.routing import Endpoint

Pods = Sequence[Mapping[str, Any]]


def living(pods: Pods) -> list[Mapping[str, Any]]:
    """Pods that nobody has asked to end."""
    return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]


def ready(pods: Pods) -> list[Mapping[str, Any]]:
    """Living pods that can take requests."""
    return [pod for pod in living(pods) if objects.condition_status(pod) == "True"]


def endpoints(pods: Pods) -> tuple[Endpoint, ...]:
    """Where the ready pods listen."""
    return tuple(
        sorted(
            Endpoint(
                objects.name_of(pod),
                pod["status"]["podIP"],
                int(objects.annotations_of(pod)[PORT_ANNOTATION]),
            )
            for pod in ready(pods)
            if PORT_ANNOTATION in objects.annotations_of(pod)
        )
    )


@dataclass(frozen=True, slots=True)
class Step:
    """What brings the pods to the wished number."""

    create: int = 0
    delete: tuple[str, ...] = ()


def step(pods: Pods, wanted: int) -> Step:
    """Create what is missing, or delete what is too much.

    Victims are chosen as a ReplicaSet chooses them: unscheduled before scheduled, not ready before ready,
    then the one that became ready last, more restarts, and the newest. Whether a replica is busy doesn't
    count; it is drained before it ends.
    """
    alive = living(pods)
    if len(alive) <= wanted:
        return Step(create=wanted - len(alive))
    ranked = sorted(alive, key=_keep_rank)
    return Step(delete=tuple(objects.name_of(pod) for pod in ranked[wanted:]))


def _keep_rank(pod: Mapping[str, Any]) -> tuple[Any, ...]:
    """Sorts what is to be kept first."""
    is_ready = objects.condition_status(pod) == "True"
    is_scheduled = objects.condition_status(pod, "PodScheduled") == "True"
    marks = objects.annotations_of(pod)
    restarts = sum(
        item.get("restartCount", 0) for item in (pod.get("status") or {}).get("containerStatuses") or ()
    )
    return (
        not is_scheduled,
        not is_ready,
        marks.get(READY_AT_ANNOTATION, "") if is_ready else "",
        restarts,
        pod["metadata"]["creationTimestamp"],
        objects.name_of(pod),
    )


def status(autoscaler: Mapping[str, Any], decision: ScaleDecision, ready_count: int, now: str) -> Object:
    """The PodAutoscaler's status."""
    meta = autoscaler["metadata"]
    active = Condition("Active", decision.active.value, decision.reason, decision.message)
    if decision.initialized:
        initialized = conditions.true("ScaleTargetInitialized")
        services = conditions.true("SKSReady")
    else:
        initialized = conditions.unknown("ScaleTargetInitialized")
        services = conditions.unknown("SKSReady", "NotReady", "SKS Services are not ready yet")
    return {
        "actualScale": ready_count,
        "conditions": conditions.written(
            conditions.with_ready([active, initialized, services]), conditions.before(autoscaler), now
        ),
        "desiredScale": decision.replicas,
        "metricsServiceName": f"{meta['name']}-private",
        "observedGeneration": meta["generation"],
        "serviceName": meta["name"],
    }
