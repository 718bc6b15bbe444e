"""A Revision's status, drawn from its PodAutoscaler and its pods (pure).

Which observation becomes which condition follows pkg/reconciler/revision/reconcile_resources.go and
pkg/apis/serving/v1/revision_lifecycle.go of Knative Serving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from knative.client.resources import Object
from knative.local import conditions, objects
from knative.local.conditions import Condition
from knative.local.controllers.desired_state import revisions

_DEPLOYING = "Deploying"


def status(
    revision: Mapping[str, Any],
    autoscaler: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
    now: str,
    *,
    problem: Condition | None = None,
) -> Object:
    """The Revision's status.

    Args:
        revision: as it is.
        autoscaler: its PodAutoscaler, if there is one.
        pods: all of its pods.
        now: RFC 3339; when conditions that differ have changed.
        problem: why it cannot run on this platform at all.
    """
    observed = _observed(revision, autoscaler, pods) if problem is None else [problem]
    by_type = {condition.type: condition for condition in observed}
    for kind in ("ContainerHealthy", "ResourcesAvailable"):
        by_type.setdefault(kind, conditions.unknown(kind, _DEPLOYING))
    by_type.setdefault("Active", conditions.unknown("Active", _DEPLOYING, severity="Info"))
    # If several are False, Ready has the reason of the first.
    ordered = [by_type[kind] for kind in ("ContainerHealthy", "ResourcesAvailable", "Active")]
    result: Object = {
        "conditions": conditions.written(conditions.with_ready(ordered), conditions.before(revision), now),
        "containerStatuses": _images(revision["spec"]["containers"]),
        "observedGeneration": revision["metadata"]["generation"],
    }
    scale = (autoscaler or {}).get("status") or {}
    for field, source in (("actualReplicas", "actualScale"), ("desiredReplicas", "desiredScale")):
        if scale.get(source) is not None:
            result[field] = scale[source]
    return result


def _images(listed: Sequence[Mapping[str, Any]]) -> list[Object]:
    """Each container's image by digest. No image is pulled here, so that a tag is not resolved to one."""
    return [
        {
            "name": container.get("name") or revisions.CONTAINER,
            **({"imageDigest": container["image"]} if "@sha256:" in str(container.get("image")) else {}),
        }
        for container in listed
    ]


def _observed(
    revision: Mapping[str, Any],
    autoscaler: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
) -> list[Condition]:
    found: dict[str, Condition] = {}
    for kind in ("ContainerHealthy", "ResourcesAvailable"):
        known = conditions.named(revision, kind)
        if known is not None:
            found[kind] = known
    living = [item for item in pods if not item["metadata"].get("deletionTimestamp")]
    available = any(objects.condition_status(item) == "True" for item in living)
    if living and not available:
        for condition in _pod_problems(living[0]):
            found[condition.type] = condition
    elif available:
        if objects.condition_status(revision, "ContainerHealthy") == "False":
            found["ContainerHealthy"] = conditions.true("ContainerHealthy")
        if objects.condition_status(revision, "ResourcesAvailable") == "False":
            found["ResourcesAvailable"] = conditions.true("ResourcesAvailable")
    found |= _from_autoscaler(autoscaler, found)
    return list(found.values())


def _pod_problems(pod_obj: Mapping[str, Any]) -> list[Condition]:
    """The conditions that follow from one pod that is not ready."""
    problems: list[Condition] = []
    scheduled = conditions.named(pod_obj, "PodScheduled")
    if scheduled is not None and scheduled.status == "False":
        problems.append(conditions.false("ResourcesAvailable", scheduled.reason, scheduled.message))
    elif scheduled is not None:
        problems.append(conditions.unknown("ResourcesAvailable", _DEPLOYING))
    state = pod_obj.get("status") or {}
    for container in state.get("containerStatuses") or ():
        terminated = (container.get("lastState") or {}).get("terminated")
        waiting = (container.get("state") or {}).get("waiting") or {}
        if terminated:
            output = terminated.get("message") or (
                "" if terminated["exitCode"] else "container exited with no error"
            )
            reason = f"ExitCode{terminated['exitCode']}"
            problems.append(conditions.false("ContainerHealthy", reason, f"Container failed with: {output}"))
            break
        if waiting.get("reason") in ("CreateContainerConfigError", "CreateContainerError"):
            problems.append(
                conditions.false("ContainerHealthy", waiting["reason"], waiting.get("message", ""))
            )
            break
    return problems


def _from_autoscaler(
    autoscaler: Mapping[str, Any] | None, found: Mapping[str, Condition]
) -> dict[str, Condition]:
    ready = conditions.named(autoscaler)
    if autoscaler is None or ready is None:
        return {"Active": conditions.unknown("Active", _DEPLOYING, severity="Info")}
    result: dict[str, Condition] = {}
    unavailable = any(
        (known := found.get(kind)) is not None and known.status == "False"
        for kind in ("ResourcesAvailable", "ContainerHealthy")
    )
    initialized = objects.condition_status(autoscaler, "ScaleTargetInitialized") == "True"
    active = conditions.named(autoscaler, "Active")
    if initialized and not unavailable:
        result["ResourcesAvailable"] = conditions.true("ResourcesAvailable")
        result["ContainerHealthy"] = conditions.true("ContainerHealthy")
    elif not initialized and not unavailable and active is not None and active.status == "False":
        result["ResourcesAvailable"] = conditions.false(
            "ResourcesAvailable", "ProgressDeadlineExceeded", "Initial scale was never achieved"
        )
    result["Active"] = Condition("Active", ready.status, ready.reason, ready.message, "Info")
    return result
