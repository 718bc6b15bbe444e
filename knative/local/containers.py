"""What the specification of a pod or a Revision says of its containers (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def serving(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The container that serves requests: the one with a port, or the only one."""
    containers: Sequence[Mapping[str, Any]] = spec["containers"]
    return next((item for item in containers if item.get("ports")), containers[0])


def port_name(spec: Mapping[str, Any]) -> str:
    """The name of the port that requests go to, which says the protocol; empty if it has none."""
    ports = serving(spec).get("ports") or [{}]
    return str(ports[0].get("name") or "")


def gpus_of(container: Mapping[str, Any]) -> int:
    """GPUs that a container asks for; limits and requests are equal by the API's rules."""
    resources = container.get("resources") or {}
    wanted = (resources.get("limits") or {}).get("nvidia.com/gpu")
    if wanted is None:
        wanted = (resources.get("requests") or {}).get("nvidia.com/gpu", 0)
    return int(wanted)


def gpus(spec: Mapping[str, Any]) -> int:
    """GPUs that a pod holds: its containers run side by side, the init containers one at a time before."""
    together = sum(map(gpus_of, spec.get("containers") or ()))
    return max([together, *map(gpus_of, spec.get("initContainers") or ())])
