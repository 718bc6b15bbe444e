"""What a rollout has done so far: one annotation of the Service, written together with the traffic.

Neither is ever there without the other, so that a controller that starts anew knows where a rollout was, and
sees a traffic split that somebody else has written: it differs from the one in the annotation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from warmpool.reconcile import ownership

FIELD_MANAGER: Final = "pilotlight-rollout"
"""Owns the traffic and the record of a Service, by server-side apply."""
RECORD: Final = "pilotlight.dev/rollout-record"
"""On a Service: the record, as JSON."""
ORDER: Final = "pilotlight.dev/rollout-order"
"""On a WarmPool: what a person has ordered last, `VERB REVISION INSTANT`."""
PAUSED: Final = "pilotlight.dev/rollout-paused"
"""On a WarmPool: "true" while no step may be taken."""
CANARY_TAG: Final = "canary"
OTHER_TAG: Final = "pilotlight-canary"
"""The tag when the user has one of that name."""
_OWN_TAGS: Final = {CANARY_TAG, OTHER_TAG}
_LONGEST_REASON: Final = 500


@dataclass(frozen=True, slots=True)
class TrafficEntry:
    """One entry of `spec.traffic`; `revision` None follows the newest Revision."""

    revision: str | None
    percent: int
    tag: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """As the API has it."""
        entry: dict[str, Any] = {"percent": self.percent, "latestRevision": self.revision is None}
        if self.revision is not None:
            entry["revisionName"] = self.revision
        if self.tag is not None:
            entry["tag"] = self.tag
        return entry


Traffic = tuple[TrafficEntry, ...]


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """The state of a Service's rollout."""

    stable: str
    """The Revision that was good last."""
    traffic: Traffic
    """What was written beside this record."""
    canary: str | None = None
    percent: int = 0
    """The canary's share."""
    since: datetime | None = None
    """When it got that share."""
    passed: bool = False
    """Whether it has passed at that share, and replicas for the next one are starting."""
    failed: str | None = None
    """The Revision that was rolled back last."""
    reason: str = ""
    """Why."""
    order: str = ""
    """The last order that was carried out."""

    def without_canary(self) -> RolloutRecord:
        """The same with no canary: the running Revision has everything."""
        return replace(self, canary=None, percent=0, since=None, passed=False)


def parse_traffic(entries: object) -> Traffic:
    """Read `spec.traffic`; what is no entry is left out."""
    found = []
    for entry in entries if isinstance(entries, Sequence) else ():
        if isinstance(entry, Mapping):
            percent = entry.get("percent") or 0
            found.append(TrafficEntry(entry.get("revisionName"), int(percent), entry.get("tag") or None))
    return tuple(found)


def same(one: Iterable[TrafficEntry], other: Iterable[TrafficEntry]) -> bool:
    """Whether two splits are the same, in whatever order and however often a Revision is named."""
    return _normal(one) == _normal(other)


def _normal(traffic: Iterable[TrafficEntry]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for entry in traffic:
        if entry.percent or entry.tag:
            key = (entry.revision or "", entry.tag or "")
            found[key] = found.get(key, 0) + entry.percent
    return found


def sole(traffic: Iterable[TrafficEntry]) -> TrafficEntry | None:
    """The entry that has all of the traffic; None for a split."""
    return next((entry for entry in traffic if entry.percent == 100), None)


def split(before: Iterable[TrafficEntry], stable: str, canary: str | None, percent: int) -> Traffic:
    """The traffic that gives a canary its share, with the user's own tags of `before`."""
    kept = [
        entry
        for entry in before
        if entry.tag and not entry.percent and (entry.revision is None or entry.tag not in _OWN_TAGS)
    ]
    tag = OTHER_TAG if any(entry.tag == CANARY_TAG for entry in kept) else CANARY_TAG
    if canary is None:
        return (TrafficEntry(stable, 100), *kept)
    return (TrafficEntry(stable, 100 - percent), TrafficEntry(canary, percent, tag), *kept)


def read(annotations: Mapping[str, Any]) -> RolloutRecord | None:
    """The record of a Service; None when it has none that can be read."""
    try:
        found = json.loads(annotations[RECORD])
        return RolloutRecord(
            stable=str(found["stable"]),
            traffic=parse_traffic(found["traffic"]),
            canary=found.get("canary"),
            percent=int(found.get("percent", 0)),
            since=ownership.parse_instant(found.get("since")),
            passed=found.get("passed") is True,
            failed=found.get("failed"),
            reason=str(found.get("reason", "")),
            order=str(found.get("order", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def write(record: RolloutRecord) -> str:
    """The annotation's value, with what is unknown left out."""
    since = record.since.astimezone(UTC).isoformat() if record.since else None
    fields = {
        "stable": record.stable,
        "canary": record.canary,
        "percent": record.percent or None,
        "since": since,
        "passed": record.passed or None,
        "failed": record.failed,
        "reason": record.reason[:_LONGEST_REASON] or None,
        "order": record.order or None,
        "traffic": [entry.to_wire() for entry in record.traffic],
    }
    return json.dumps({key: value for key, value in fields.items() if value is not None}, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Order:
    """What a person has ordered about one Revision."""

    verb: str
    """`promote`, `abort` or `resume`."""
    revision: str
    text: str
    """The whole annotation, by which it is known whether it was carried out."""


def parse_order(text: str | None) -> Order | None:
    """Read an order; None for none, and for what is not one."""
    words = (text or "").split()
    if len(words) != 3 or words[0] not in {"promote", "abort", "resume"}:
        return None
    return Order(words[0], words[1], " ".join(words))
