"""Helpers for Kubernetes objects as JSON: copies, timestamps, owners, conditions (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from knative.client.resources import Object, Resource


def clone(value: Any) -> Any:
    """A deep copy of a JSON value; several times faster than `copy.deepcopy`."""
    return _clone(value)


def _clone(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clone(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clone(item) for item in value]
    return value


def timestamp(instant: datetime) -> str:
    """RFC 3339 in whole seconds, as `metav1.Time` prints it."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(instant: datetime) -> str:
    """RFC 3339 in microseconds, as `metav1.MicroTime` prints it."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_timestamp(text: str) -> datetime:
    """The instant that `timestamp` or `micro_timestamp` formatted."""
    return datetime.fromisoformat(text)


def age(seconds: float) -> str:  # noqa: PLR0911  # one for each magnitude
    """A duration in its two most significant units, as kubectl prints ages."""
    seconds = int(seconds)
    if seconds < 0:
        return "0s"
    if seconds < 120:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    years = days // 365
    return f"{years}y{days % 365}d" if years < 8 and days % 365 else f"{years}y"


def namespace_of(obj: Mapping[str, Any]) -> str:
    """The object's namespace; empty for a cluster-wide kind."""
    return str(obj["metadata"].get("namespace") or "")


def name_of(obj: Mapping[str, Any]) -> str:
    """The object's name."""
    return str(obj["metadata"]["name"])


def labels_of(obj: Mapping[str, Any]) -> Mapping[str, str]:
    """The object's labels, empty if it has none."""
    return cast("Mapping[str, str]", obj["metadata"].get("labels") or {})


def annotations_of(obj: Mapping[str, Any]) -> Mapping[str, str]:
    """The object's annotations, empty if it has none."""
    return cast("Mapping[str, str]", obj["metadata"].get("annotations") or {})


def owner_reference(owner: Mapping[str, Any]) -> Object:
    """The reference that makes an object a child of `owner`, its controller."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owner_uids(obj: Mapping[str, Any]) -> list[str]:
    """The UIDs of all owners."""
    return [reference["uid"] for reference in obj["metadata"].get("ownerReferences") or ()]


def condition(obj: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """The condition of that type; None if the object has none."""
    conditions: Sequence[Mapping[str, Any]] = (obj.get("status") or {}).get("conditions") or ()
    return next((item for item in conditions if item["type"] == kind), None)


def condition_status(obj: Mapping[str, Any], kind: str = "Ready") -> str | None:
    """`True`, `False` or `Unknown`; None if the object has no such condition."""
    found = condition(obj, kind)
    return None if found is None else str(found["status"])


def typed(res: Resource, obj: Object) -> Object:
    """`obj` with its apiVersion and kind in front."""
    return {"apiVersion": res.api_version, "kind": res.kind, **obj}
