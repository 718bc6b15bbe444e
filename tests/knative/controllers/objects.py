"""Objects for tests of desired state, with as little in them as the rules read."""

from typing import Any

NOW = "2026-11-30T12:00:00Z"
EARLIER = "2026-11-30T11:00:00Z"


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    """A condition that has stood since `EARLIER`."""
    full = {"type": kind, "status": status, "reason": reason, "message": message}
    return {key: value for key, value in full.items() if value} | {"lastTransitionTime": EARLIER}


def configuration(
    name: str = "a",
    *,
    generation: int = 1,
    revision_name: str | None = None,
    spec: dict[str, Any] | None = None,
    latest_ready: str | None = None,
    latest_created: str | None = None,
    ready: str | None = None,
    routes: str | None = None,
) -> dict[str, Any]:
    """A Configuration."""
    template: dict[str, Any] = {"spec": spec or {"containers": [{"image": "one"}]}}
    if revision_name is not None:
        template["metadata"] = {"name": revision_name}
    status: dict[str, Any] = {"observedGeneration": generation}
    if latest_ready:
        status["latestReadyRevisionName"] = latest_ready
    if latest_created:
        status["latestCreatedRevisionName"] = latest_created
    if ready:
        status["conditions"] = [condition("Ready", ready)]
    meta: dict[str, Any] = {
        "name": name,
        "namespace": "default",
        "uid": f"{name}-uid",
        "generation": generation,
    }
    if routes is not None:
        meta["annotations"] = {"serving.knative.dev/routes": routes}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Configuration",
        "metadata": meta,
        "spec": {"template": template},
        "status": status,
    }


def revision(
    name: str,
    *,
    generation: int = 1,
    ready: str | None = "True",
    message: str = "",
    spec: dict[str, Any] | None = None,
    state: str = "pending",
    routes: str | None = None,
    configuration_name: str = "a",
    conditions: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    """A Revision of Configuration `a`."""
    listed = [condition("Ready", ready, message=message)] if ready else []
    annotations = {} if routes is None else {"serving.knative.dev/routes": routes}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Revision",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"{name}-uid",
            "generation": 1,
            "labels": {
                "serving.knative.dev/configuration": configuration_name,
                "serving.knative.dev/configurationGeneration": str(generation),
                "serving.knative.dev/routingState": state,
            },
            "annotations": annotations,
        },
        "spec": spec or {"containers": [{"image": "one"}]},
        "status": {"conditions": conditions if conditions is not None else listed},
    }


def route(
    *traffic: dict[str, Any],
    name: str = "a",
    status: list[dict[str, Any]] | None = None,
    ready: str | None = None,
    labels: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A Route with these traffic entries."""
    result: dict[str, Any] = {"observedGeneration": 1}
    if status is not None:
        result["traffic"] = status
    if ready:
        result["conditions"] = [condition("Ready", ready)]
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Route",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"{name}-route",
            "generation": 1,
            "labels": labels or {},
        },
        "spec": {"traffic": list(traffic)},
        "status": result,
    }


def service(name: str = "a", **spec: Any) -> dict[str, Any]:
    """A Service."""
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "uid": f"{name}-service", "generation": 1},
        "spec": {"template": {"spec": {"containers": [{"image": "one"}]}}, **spec},
    }


def pod(
    name: str,
    *,
    ready: bool = True,
    scheduled: str = "True",
    deleted: bool = False,
    statuses: list[dict[str, Any]] | None = None,
    ready_at: str = "",
    created: str = EARLIER,
    restarts: int = 0,
    port: str | None = "9000",
) -> dict[str, Any]:
    """A pod."""
    annotations = {key: value for key, value in (("pilotlight.dev/ready-at", ready_at),) if value}
    if port is not None:
        annotations["pilotlight.dev/port"] = port
    meta: dict[str, Any] = {
        "name": name,
        "namespace": "default",
        "creationTimestamp": created,
        "annotations": annotations,
    }
    if deleted:
        meta["deletionTimestamp"] = NOW
    return {
        "metadata": meta,
        "spec": {},
        "status": {
            "podIP": "127.0.0.1",
            "conditions": [
                condition("Ready", "True" if ready else "False"),
                condition(
                    "PodScheduled", scheduled, *(("Unschedulable", "no GPU") if scheduled == "False" else ())
                ),
            ],
            "containerStatuses": statuses or [{"name": "user-container", "restartCount": restarts}],
        },
    }


def found(status: dict[str, Any], kind: str = "Ready") -> tuple[str, str, str]:
    """Status, reason and message of a condition in a status."""
    item = next(item for item in status["conditions"] if item["type"] == kind)
    return item["status"], item.get("reason", ""), item.get("message", "")
