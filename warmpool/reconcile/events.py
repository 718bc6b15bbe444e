"""Kubernetes Events about a pool, named by their content, so that two controllers post the same one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from warmpool.domain.pool import API_VERSION, KIND
from warmpool.reconcile import ownership
from warmpool.reconcile.views import PoolView

COMPONENT: Final = "pilotlight-warmpool"
_LONGEST_MESSAGE: Final = 1024
"""Characters that Kubernetes accepts."""


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """Something that an operator may want to know about a pool."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    occurrence: str = ""
    """What distinguishes two occurrences with the same message, e.g. the end of the window."""


def build(pool: PoolView, event: PoolEvent, now: datetime) -> dict[str, Any]:
    """The Event object (core/v1)."""
    namespace, name = pool.key
    content = f"{pool.uid}\n{event.reason}\n{event.message}\n{event.occurrence}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    stamp = ownership.timestamp(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{digest}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": namespace,
            "name": name,
            "uid": pool.uid,
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:_LONGEST_MESSAGE],
        "source": {"component": COMPONENT},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
