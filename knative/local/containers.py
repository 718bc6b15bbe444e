"""Reading the containers in the specification of a pod or a Revision (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from knative.literals import parse_quantity


def serving(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The container that serves requests: the one with a port, or the only one."""
    containers: Sequence[Mapping[str, Any]] = spec["containers"]
    return next((item for item in containers if item.get("ports")), containers[0])


def port_name(spec: Mapping[str, Any]) -> str:
    """The name of the port that requests go to, which says the protocol; empty if it has none."""
    ports = serving(spec).get("ports") or [{}]
    return str(ports[0].get("name") or "")


def amount(container: Mapping[str, Any], kind: str, name: str) -> Fraction | None:
    """A container's limit or request of a resource; None where it sets none.

    Args:
        container: one that has passed admission.
        kind: `limits` or `requests`; a missing request equals the limit, as the API server fills it in.
        name: the resource's name, such as `cpu`.
    """
    resources = container.get("resources") or {}
    written = (resources.get(kind) or {}).get(name)
    if written is None and kind == "requests":
        written = (resources.get("limits") or {}).get(name)
    return None if written is None else parse_quantity(str(written))


def gpus_of(container: Mapping[str, Any]) -> int:
    """GPUs that a container requests; the API requires limit and request to be equal."""
    return int(amount(container, "requests", "nvidia.com/gpu") or 0)


def gpus(spec: Mapping[str, Any]) -> int:
    """GPUs that a pod holds: the sum over its containers, which run side by side."""
    return sum(map(gpus_of, spec.get("containers") or ()))
