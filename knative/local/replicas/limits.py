"""What a container may use, and what class of service that makes its pod (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from knative.literals import parse_quantity

RESOURCES = ("cpu", "memory")
"""What the class of a pod depends on."""
_UNITS = ((1 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki"))


@dataclass(frozen=True, slots=True)
class Limits:
    """A container's limits; None: it has none of that kind."""

    memory_bytes: int | None = None
    cpus: float | None = None

    def __bool__(self) -> bool:
        return self.memory_bytes is not None or self.cpus is not None


def of(container: Mapping[str, Any]) -> Limits:
    """The limits of a container that admission has passed."""
    limits = (container.get("resources") or {}).get("limits") or {}
    memory, cpus = parse_quantity(str(limits.get("memory", ""))), parse_quantity(str(limits.get("cpu", "")))
    # Zero is no limit, as for the kubelet.
    return Limits(int(memory) if memory else None, float(cpus) if cpus else None)


def shown(amount: int) -> str:
    """Bytes for people: `131.5Mi`."""
    for size, unit in _UNITS:
        if amount >= size:
            return f"{amount / size:.1f}".removesuffix(".0") + unit
    return str(amount)


def qos_class(pod_spec: Mapping[str, Any]) -> str:
    """Guaranteed, Burstable or BestEffort, after Kubernetes' pkg/apis/core/v1/helper/qos."""
    containers = list(_all(pod_spec))
    amounts = [
        ((container.get("resources") or {}).get(kind) or {}).get(name)
        for container in containers
        for kind in ("limits", "requests")
        for name in RESOURCES
    ]
    if not any(amount is not None and parse_quantity(str(amount)) for amount in amounts):
        return "BestEffort"
    return "Guaranteed" if all(map(_guaranteed, containers)) else "Burstable"


def _all(pod_spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from pod_spec.get("initContainers") or ()
    yield from pod_spec.get("containers") or ()


def _guaranteed(container: Mapping[str, Any]) -> bool:
    """Both limits are there; a request that is missing is the limit."""
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name in RESOURCES:
        limit = parse_quantity(str(limits.get(name, "")))
        if not limit or parse_quantity(str(requests.get(name, limits[name]))) != limit:
            return False
    return True
