"""Columns of `kubectl get`, as a CustomResourceDefinition or the built-in kinds define them (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from knative.local import objects


@dataclass(frozen=True, slots=True)
class Column:
    """One column; with a `priority` above 0 it is shown by `-o wide` only."""

    name: str
    type: str
    path: str
    """JSONPath, as in `additionalPrinterColumns` of a CustomResourceDefinition."""
    priority: int = 0
    description: str = ""
    compute: Callable[[Mapping[str, Any], datetime], Any] | None = None
    """Makes the cell from the object and the current time, where no path can."""
    empty: str | None = None
    """What is shown instead of nothing; None leaves the cell empty."""


NAME = Column("Name", "string", ".metadata.name")
AGE = Column("Age", "date", ".metadata.creationTimestamp")
READY = (
    Column("Ready", "string", ".status.conditions[?(@.type=='Ready')].status"),
    Column("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason"),
)
LATEST = (
    Column("LatestCreated", "string", ".status.latestCreatedRevisionName"),
    Column("LatestReady", "string", ".status.latestReadyRevisionName"),
)


def ready_containers(pod: Mapping[str, Any], _: datetime) -> str:
    """Ready and all containers of a Pod: `1/2`."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return f"{sum(bool(item.get('ready')) for item in statuses)}/{len(pod['spec']['containers'])}"


def pod_status(pod: Mapping[str, Any], _: datetime) -> str:
    """Why a Pod waits or has failed, else its phase."""
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    status = pod.get("status") or {}
    if "podIP" not in status:
        return str(status.get("phase") or "Pending")
    reasons = [reason for item in status.get("containerStatuses") or () if (reason := _reason(item))]
    return reasons[0] if reasons else str(status.get("phase") or "Pending")


def _reason(container: Mapping[str, Any]) -> str | None:
    """Why a container does not run, or None."""
    state = container.get("state") or {}
    reason = (state.get("waiting") or state.get("terminated") or {}).get("reason")
    return None if reason in (None, "PodInitializing") else str(reason)


def pod_restarts(pod: Mapping[str, Any], now: datetime) -> str:
    """How often a Pod's containers were restarted, and how long ago the last one ended: `3 (2m ago)`."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    count = sum(int(item.get("restartCount") or 0) for item in statuses)
    ends = [((item.get("lastState") or {}).get("terminated") or {}).get("finishedAt") for item in statuses]
    last = max((end for end in ends if end), default=None)
    if not count or last is None:
        return str(count)
    return f"{count} ({objects.age((now - objects.parse_timestamp(last)).total_seconds())} ago)"


def event_object(event: Mapping[str, Any], _: datetime) -> str:
    """Kind and name of the object that an Event is about."""
    about = event.get("involvedObject") or {}
    return f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"


def event_source(event: Mapping[str, Any], _: datetime) -> str:
    """Component and host that reported an Event."""
    source = event.get("source") or {}
    return ", ".join(part for part in (source.get("component"), source.get("host")) if part)


def data_count(obj: Mapping[str, Any], _: datetime) -> int:
    """Number of entries of a ConfigMap or Secret."""
    return len(obj.get("data") or ()) + len(obj.get("binaryData") or ())
