"""What a container may use, and what class of service that makes its pod (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from knative.local import containers

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
    memory, cpus = (containers.amount(container, "limits", name) for name in ("memory", "cpu"))
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
    listed = list(_all(pod_spec))
    if not any(
        containers.amount(container, kind, name)
        for container in listed
        for kind in ("limits", "requests")
        for name in RESOURCES
    ):
        return "BestEffort"
    return "Guaranteed" if all(map(_guaranteed, listed)) else "Burstable"


def _all(pod_spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from pod_spec.get("initContainers") or ()
    yield from pod_spec.get("containers") or ()


def _guaranteed(container: Mapping[str, Any]) -> bool:
    """Both limits are there, and the requests are the limits."""
    for name in RESOURCES:
        limit = containers.amount(container, "limits", name)
        if not limit or containers.amount(container, "requests", name) != limit:
            return False
    return True
