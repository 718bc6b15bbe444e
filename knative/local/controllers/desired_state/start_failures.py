"""Whether requests for a Revision or a Route wait in vain, because no replica will start (pure).

On a cluster the activator holds such requests until they time out. Here they are answered at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from knative.local import conditions, objects
from knative.local.conditions import Condition
from knative.local.controllers.desired_state import pod_autoscalers, routes
from knative.local.routing import StartFailure

WAITING_REASONS = frozenset({"Unschedulable", "Deploying", ""})
"""Reasons of a Revision that is not ready, for which waiting may help: a GPU becomes free."""
_MAY_RECOVER = frozenset({"CreateContainerConfigError", "CreateContainerError"})
"""Reasons that go away without a new Revision: what the container needs is looked for again and again."""


def of_revision(
    revision: Mapping[str, Any],
    autoscaler: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
) -> StartFailure | None:
    """Why a Revision's replicas do not start; None while they may.

    One that was never ready fails with its first crash, and for good with the second. One that was ready
    before fails while all of its pods wait for a restart after three crashes or more; without pods, the next
    request has one started.

    Args:
        revision: with its present status.
        autoscaler: its PodAutoscaler.
        pods: all of its pods.
    """
    ready = conditions.named(revision)
    if ready is None or ready.status != "False" or ready.reason in WAITING_REASONS:
        return None
    starting = pod_autoscalers.active(pods)
    if any(objects.condition_status(pod) == "True" for pod in starting):
        return None
    if autoscaler is not None and objects.condition_status(autoscaler, "ScaleTargetInitialized") == "True":
        looping = bool(starting) and all(
            _waits(pod, "CrashLoopBackOff") and _crashes(pod) >= 3 for pod in starting
        )
        return _failure(revision, ready, retryable=True) if looping else None
    final = ready.reason not in _MAY_RECOVER and all(_crashes(pod) >= 2 for pod in starting)
    return _failure(revision, ready, retryable=not final)


def of_route(
    route: Mapping[str, Any],
    configurations: routes.Lookup,
    failure_of: Callable[[str], StartFailure | None],
) -> StartFailure | None:
    """Why a Route has no Revision to send requests to; None if it has, or may soon.

    Args:
        route: with its present status.
        configurations: finds Configurations.
        failure_of: why the named Revision does not start.
    """
    if (route.get("status") or {}).get("traffic"):
        return None
    assigned = conditions.named(route, "AllTrafficAssigned")
    if assigned is None or assigned.status != "False":
        return None
    for entry in route["spec"].get("traffic") or ():
        name = entry.get("revisionName")
        if not name:
            config = configurations(entry.get("configurationName") or objects.name_of(route))
            name = ((config or {}).get("status") or {}).get("latestCreatedRevisionName")
            failed = conditions.named(config)
            if config is not None and not name and failed is not None and failed.status == "False":
                return StartFailure("", failed.reason, failed.message, retryable=False)
        if name and (failure := failure_of(name)) is not None:
            return failure
    if assigned.reason == "RevisionMissing" and "not found" not in assigned.message:
        return None  # its Revision waits for something
    return StartFailure("", assigned.reason, assigned.message, retryable=True)


def _failure(revision: Mapping[str, Any], ready: Condition, *, retryable: bool) -> StartFailure:
    return StartFailure(objects.name_of(revision), ready.reason, ready.message, retryable)


def _containers(pod: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    listed: Sequence[Mapping[str, Any]] = (pod.get("status") or {}).get("containerStatuses") or ()
    return listed


def _waits(pod: Mapping[str, Any], reason: str) -> bool:
    """Whether a container waits to be started for this reason."""
    waiting = ((item.get("state") or {}).get("waiting") or {} for item in _containers(pod))
    return any(item.get("reason") == reason for item in waiting)


def _crashes(pod: Mapping[str, Any]) -> int:
    """How often the container of a pod that exited most often has exited."""
    return max(
        (
            int(item.get("restartCount") or 0) + ("waiting" in (item.get("state") or {}))
            for item in _containers(pod)
            if (item.get("lastState") or {}).get("terminated")
        ),
        default=0,
    )
