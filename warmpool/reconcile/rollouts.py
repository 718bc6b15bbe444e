"""What becomes of the floor while a new Revision is on its way. Pure.

With room, make before break: the new Revision has the whole floor before it gets traffic, so that no request
finds fewer warm replicas than before. Without room, break before make: as much of the old floor is released
as the new Revision needs to start. On full GPUs the rollout would otherwise fail for good at its progress
deadline, because the old floor holds the devices (knative/serving#15780).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from warmpool.reconcile.views import RevisionView, ServiceView


@dataclass(frozen=True, slots=True)
class Rollout:
    """The floors during a rollout, and what to remember of it."""

    shares: dict[str, int]
    tight: str | None = None
    """The new Revision that room is made for: until it is ready, though it may have its place before."""
    note: str | None = None


def settle(
    shares: dict[str, int], service: ServiceView, revisions: Mapping[str, RevisionView], tight: str | None
) -> Rollout:
    """The floors of a Service's Revisions, given what they are by traffic alone.

    `tight` is what the settling before this one remembered.
    """
    coming = revisions.get(service.latest_created or "")
    if coming is None or coming.deleting:
        return Rollout(shares)
    name = coming.key[1]
    before = next((share.revision for share in service.traffic if share.latest), None)
    # Between being ready and having the traffic it is still on its way: the Route takes its time.
    if name == service.latest_ready and (name in shares or before is None):
        return Rollout(shares)
    if _failed(coming):
        return Rollout(
            shares, None, f"{name} fails for another reason than room; the floor stays where it is"
        )
    crowded = [revision for revision in revisions.values() if revision.unschedulable]
    if not crowded and tight != name:
        if before is not None and not shares.get(name):
            return Rollout({**shares, name: shares.get(before, 0)})
        return Rollout(shares)
    return _make_room(shares, coming)


def _failed(coming: RevisionView) -> bool:
    ready = coming.conditions.get("Ready")
    return ready is not None and ready.status == "False" and coming.unschedulable is None


def _make_room(shares: dict[str, int], coming: RevisionView) -> Rollout:
    name = coming.key[1]
    needed = max(1, coming.user_min_scale or 0)
    reduced = {other: part for other, part in shares.items() if other != name}
    before = sum(reduced.values())
    for other in sorted(reduced, key=lambda other: -reduced[other]):
        given = min(reduced[other], needed)
        reduced[other] -= given
        needed -= given
    freed = before - sum(reduced.values())
    if not freed:
        return Rollout(reduced, name, f"{name} finds no place: {coming.unschedulable or 'others wait too'}")
    return Rollout(
        reduced, name, f"{name} finds no place: {freed} of the old floor is released for its rollout"
    )
