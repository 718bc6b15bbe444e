"""Whether a Revision can run as processes on this machine at all (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from knative.local import conditions
from knative.local.conditions import Condition


def unrunnable(revision: Mapping[str, Any]) -> Condition | None:
    """The Revision's failed condition if a container names no command; None if it can run."""
    listed = revision["spec"].get("containers") or [{}]
    without = [
        f"spec.template.spec.containers[{index}]"
        for index, container in enumerate(listed)
        if not (container.get("command") or container.get("args"))
    ]
    if without:
        return conditions.false(
            "ContainerHealthy",
            "NoCommand",
            "this platform runs a container's command as a process and pulls no images; "
            f"set command in {' and '.join(without)}",
        )
    return None
