"""Whether a Revision can run as a process on this machine at all (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from knative.local.reconciler import conditions
from knative.local.reconciler.conditions import Condition


def unrunnable(revision: Mapping[str, Any]) -> Condition | None:
    """Why not, as a condition of the Revision; None if it can."""
    containers = revision["spec"].get("containers") or ()
    if len(containers) > 1:
        listed = ", ".join(str(item.get("name") or item.get("image")) for item in containers)
        return conditions.false(
            "ContainerHealthy",
            "Unsupported",
            f"this platform runs one container for each replica; there are {len(containers)}: {listed}",
        )
    if not containers or not (containers[0].get("command") or containers[0].get("args")):
        return conditions.false(
            "ContainerHealthy",
            "NoCommand",
            "this platform runs a container's command as a process and pulls no images; set command in "
            "spec.template.spec.containers[0]",
        )
    return None
