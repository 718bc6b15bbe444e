"""A container's resource limits, and the quality-of-service class of its pod (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from knative.local import containers

_QOS_RESOURCES = ("cpu", "memory")
_UNITS = ((1 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki"))


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """A container's limits; None: no limit of that resource."""

    memory_bytes: int | None = None
    cpus: float | None = None

    def __bool__(self) -> bool:
        return self.memory_bytes is not None or self.cpus is not None


def of(container: Mapping[str, Any]) -> ResourceLimits:
    """The limits of a container that has passed admission."""
    memory, cpus = (containers.amount(container, "limits", name) for name in ("memory", "cpu"))
    # Zero is no limit, as in Kubernetes' kubelet.
    return ResourceLimits(int(memory) if memory else None, float(cpus) if cpus else None)


def format_bytes(size: int) -> str:
    """Bytes with a binary unit: `131.5Mi`."""
    for unit_size, unit in _UNITS:
        if size >= unit_size:
            return f"{size / unit_size:.1f}".removesuffix(".0") + unit
    return str(size)


def qos_class(pod_spec: Mapping[str, Any]) -> str:
    """Guaranteed, Burstable or BestEffort, after Kubernetes' pkg/apis/core/v1/helper/qos."""
    listed = pod_spec.get("containers") or ()
    if not any(
        containers.amount(container, kind, name)
        for container in listed
        for kind in ("limits", "requests")
        for name in _QOS_RESOURCES
    ):
        return "BestEffort"
    return "Guaranteed" if all(map(_is_guaranteed, listed)) else "Burstable"


def _is_guaranteed(container: Mapping[str, Any]) -> bool:
    """Both limits are set, and the requests equal them."""
    for name in _QOS_RESOURCES:
        limit = containers.amount(container, "limits", name)
        if not limit or containers.amount(container, "requests", name) != limit:
            return False
    return True
