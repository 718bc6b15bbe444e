"""A PodAutoscaler's status, and which pods to create or delete for the desired scale (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knative.autoscaling.revision_autoscaler import ScaleDecision
from knative.client.resources import Object
from knative.labels import PORT_ANNOTATION, READY_AT_ANNOTATION, TLS_ANNOTATION
from knative.local import conditions, objects
from knative.local.conditions import Condition
from knative.local.routing import Endpoint

Pods = Sequence[Mapping[str, Any]]


def active(pods: Pods) -> list[Mapping[str, Any]]:
    """Pods that are not being deleted."""
    return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]


def ready(pods: Pods) -> list[Mapping[str, Any]]:
    """Active pods that can serve requests."""
    return [pod for pod in active(pods) if objects.condition_status(pod) == "True"]


def endpoints(pods: Pods) -> tuple[Endpoint, ...]:
    """The addresses of the ready pods."""
    return tuple(
        sorted(
            Endpoint(
                objects.name_of(pod),
                pod["status"]["podIP"],
                int(objects.annotations_of(pod)[PORT_ANNOTATION]),
                TLS_ANNOTATION in objects.annotations_of(pod),
            )
            for pod in ready(pods)
            if PORT_ANNOTATION in objects.annotations_of(pod)
        )
    )


@dataclass(frozen=True, slots=True)
class PodDifference:
    """What turns the present pods into the desired number."""

    create: int = 0
    delete: tuple[str, ...] = ()


def difference(pods: Pods, desired: int) -> PodDifference:
    """The pods to create or to delete.

    Pods are deleted in the order of a ReplicaSet: unscheduled before scheduled, not ready before ready, then
    those that became ready last, with more restarts, and the newest. Whether a replica is busy does not
    matter; it is drained before it ends.
    """
    remaining = active(pods)
    if len(remaining) <= desired:
        return PodDifference(create=desired - len(remaining))
    ranked = sorted(remaining, key=_keep_rank)
    return PodDifference(delete=tuple(objects.name_of(pod) for pod in ranked[desired:]))


def _keep_rank(pod: Mapping[str, Any]) -> tuple[Any, ...]:
    """A sort key: pods to be kept come first."""
    is_ready = objects.condition_status(pod) == "True"
    is_scheduled = objects.condition_status(pod, "PodScheduled") == "True"
    annotations = objects.annotations_of(pod)
    restarts = sum(
        item.get("restartCount", 0) for item in (pod.get("status") or {}).get("containerStatuses") or ()
    )
    return (
        not is_scheduled,
        not is_ready,
        annotations.get(READY_AT_ANNOTATION, "") if is_ready else "",
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
