"""Whether a Revision can run as processes on this machine at all (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from knative.local import conditions
from knative.local.conditions import Condition


def unrunnable(revision: Mapping[str, Any]) -> Condition | None:
    """The condition that says why the Revision cannot run here; None if it can."""
    spec = revision["spec"]
    without = [
        f"spec.template.spec.{field}[{index}]"
        for field in ("initContainers", "containers")
        for index, container in enumerate(spec.get(field) or ())
        if not (container.get("command") or container.get("args"))
    ]
    if without or not spec.get("containers"):
        where = " and ".join(without) or "spec.template.spec.containers[0]"
        return conditions.false(
            "ContainerHealthy",
            "NoCommand",
            "this platform runs a container's command as a process and pulls no images; "
            f"set command in {where}",
        )
    return None
