"""Whether Services and replicas are ready, as their conditions say (pure)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Readiness:
    """The Ready condition of one Service; `status` is True, False or Unknown as Kubernetes writes it."""

    name: str
    status: str
    reason: str
    message: str

    @property
    def failed(self) -> bool:
        """Ready is False: Knative has given up for now."""
        return self.status == "False"

    @property
    def shown(self) -> str:
        """`yes`, `no` or `not yet`."""
        return {"True": "yes", "False": "no"}.get(self.status, "not yet")


def ready_condition(service: Mapping[str, Any]) -> Readiness:
    """The Ready condition in a Service object; Unknown while its latest generation is unobserved."""
    name = service["metadata"]["name"]
    status = service.get("status", {})
    if status.get("observedGeneration") != service["metadata"].get("generation"):
        return Readiness(name, "Unknown", "Outdated", "the latest change has not been seen yet")
    for condition in status.get("conditions", ()):
        if condition["type"] == "Ready":
            return Readiness(
                name, condition["status"], condition.get("reason", ""), condition.get("message", "")
            )
    return Readiness(name, "Unknown", "", "")


def pod_is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a replica can answer."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
