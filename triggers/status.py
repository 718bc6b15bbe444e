"""The status of a Trigger from the state of its dispatcher (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from triggers.spec.field_types import format_seconds
from triggers.spec.trigger import TriggerSpec

Condition = dict[str, Any]


def condition(kind: str, *, ok: bool | None, reason: str, message: str = "") -> Condition:
    """A condition without its instant; None: it is not known yet."""
    status = "Unknown" if ok is None else str(ok)
    return {"type": kind, "status": status, "reason": reason, "message": message}


def conditions(
    new: Sequence[Condition], old: Sequence[Mapping[str, Any]], generation: int | None, now: datetime
) -> list[Condition]:
    """The conditions with their instants: that of the last change of each one's status."""
    before = {one.get("type"): one for one in old}
    found = []
    for one in new:
        known = before.get(one["type"], {})
        same = known.get("status") == one["status"] and "lastTransitionTime" in known
        since = known["lastTransitionTime"] if same else now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        complete = {**one, "lastTransitionTime": since}
        if generation is not None:
            complete["observedGeneration"] = generation
        found.append(complete)
    return found


def queue_name(spec: TriggerSpec) -> str:
    """`sqs/tickets`."""
    queue = getattr(spec.source, spec.source.kind)
    name = next(
        value for field in ("queue", "stream", "topic") if (value := getattr(queue, field, None)) is not None
    )
    return f"{spec.source.kind}/{str(name).rstrip('/').rpartition('/')[2]}"


def numbers(
    *, backlog: int | None, oldest_age_s: float | None, in_flight: int, limit: int, ended: Mapping[str, int]
) -> dict[str, Any]:
    """The status's figures; those that are unknown are None, which removes them."""
    return {
        "backlog": backlog,
        "oldestMessageAge": None if oldest_age_s is None else format_seconds(float(round(oldest_age_s))),
        "inFlight": in_flight,
        "concurrency": limit,
        "delivered": ended.get("delivered", 0),
        "retried": ended.get("retried", 0),
        "deadLettered": ended.get("dead-lettered", 0),
    }
