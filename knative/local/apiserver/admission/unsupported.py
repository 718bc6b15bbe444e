"""Warnings of what a Revision asks for and one machine cannot give (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from knative.local import containers
from knative.local.runnable import unrunnable


def warnings(spec: Mapping[str, Any], *, limits_cpu: bool) -> Iterator[str]:
    """What a Revision with this spec will not get.

    Args:
        spec: the spec of a Revision.
        limits_cpu: whether CPU limits are enforced on this machine.
    """
    problem = unrunnable({"spec": spec})
    if problem is not None:
        yield problem.message
    if containers.port_name(spec) == "h2c":
        yield (
            "port h2c: this platform speaks HTTP/1.1 only, to clients and to containers; requests arrive as "
            "HTTP/1.1, and a server that speaks nothing but HTTP/2, such as gRPC, cannot be reached"
        )
    limited = [
        str(container.get("name"))
        for container in spec["containers"]
        if (((container.get("resources") or {}).get("limits")) or {}).get("cpu") is not None
    ]
    if limited and not limits_cpu:
        yield (
            f"limits.cpu of {', '.join(limited)} is not enforced: this machine permits no control groups; "
            "the container may use every processor"
        )
