"""Kubernetes Events about a pool. Their names follow from what they say, so two controllers tell it once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from warmpool.domain.pool import API_VERSION, KIND
from warmpool.reconcile import ownership
from warmpool.reconcile.views import PoolView

COMPONENT = "pilotlight-warmpool"


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """Something a person may want to know about a pool."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    once: str = ""
    """What tells this occurrence from the next of the same text, e.g. the end of the window."""


def build(pool: PoolView, event: PoolEvent, now: datetime) -> dict[str, Any]:
    """The Event object."""
    namespace, name = pool.key
    told = f"{pool.uid}\n{event.reason}\n{event.message}\n{event.once}"
    digest = hashlib.sha256(told.encode()).hexdigest()[:16]
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
        "message": event.message[:1024],
        "source": {"component": COMPONENT},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
