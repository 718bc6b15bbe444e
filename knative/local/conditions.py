"""Conditions as Knative keeps them: Ready is drawn from the others, times change only with the content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from knative.client.resources import Object

Status = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a status; with `severity` Info it does not affect Ready."""

    type: str
    status: Status
    reason: str = ""
    message: str = ""
    severity: Literal["", "Info"] = ""


def true(kind: str, *, severity: Literal["", "Info"] = "") -> Condition:
    """A condition that is True."""
    return Condition(kind, "True", severity=severity)


def false(kind: str, reason: str, message: str, *, severity: Literal["", "Info"] = "") -> Condition:
    """A condition that is False."""
    return Condition(kind, "False", reason, message, severity)


def unknown(
    kind: str, reason: str = "", message: str = "", *, severity: Literal["", "Info"] = ""
) -> Condition:
    """A condition that is Unknown."""
    return Condition(kind, "Unknown", reason, message, severity)


def with_ready(dependents: Sequence[Condition]) -> list[Condition]:
    """The dependents and Ready: that of the first False one, else of the first Unknown one, or True."""
    counting = [condition for condition in dependents if not condition.severity]
    for status in ("False", "Unknown"):
        for condition in counting:
            if condition.status == status:
                ready = Condition("Ready", condition.status, condition.reason, condition.message)
                return [*dependents, ready]
    return [*dependents, true("Ready")]


def written(conditions: Iterable[Condition], before: Sequence[Mapping[str, Any]], now: str) -> list[Object]:
    """The conditions for a status, by type; one that did not change keeps its `lastTransitionTime`.

    Args:
        conditions: the conditions now.
        before: the present status' conditions.
        now: RFC 3339; the transition time of those that changed.
    """
    times = {
        (item["type"], item["status"], item.get("reason", ""), item.get("message", "")): item[
            "lastTransitionTime"
        ]
        for item in before
    }
    listed = []
    for condition in sorted(conditions, key=lambda item: item.type):
        identity = (condition.type, condition.status, condition.reason, condition.message)
        obj: Object = {"lastTransitionTime": times.get(identity, now)}
        for key in ("message", "reason", "severity"):
            if value := getattr(condition, key):
                obj[key] = value
        listed.append({**obj, "status": condition.status, "type": condition.type})
    return listed


def before(obj: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The conditions in an object's status."""
    found: Sequence[Mapping[str, Any]] = (obj.get("status") or {}).get("conditions") or ()
    return found


def named(obj: Mapping[str, Any] | None, kind: str = "Ready") -> Condition | None:
    """An object's condition of this type; None if object or condition do not exist."""
    if obj is None:
        return None
    for item in before(obj):
        if item["type"] == kind:
            return Condition(
                kind,
                item["status"],
                item.get("reason", ""),
                item.get("message", ""),
                item.get("severity", ""),
            )
    return None


def is_current(obj: Mapping[str, Any]) -> bool:
    """Whether the object's status is about its latest generation."""
    return bool((obj.get("status") or {}).get("observedGeneration") == obj["metadata"].get("generation"))
