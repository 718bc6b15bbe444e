"""What becomes of the floor while a new Revision is rolled out.

With free GPUs, make before break: the new Revision has the whole floor before it gets traffic, so that no
request finds fewer warm replicas than before. Without, break before make: as much of the old floor is
released as the new Revision needs to start. Otherwise a rollout on full GPUs fails for good at its progress
deadline, because the old floor occupies the devices (knative/serving#15780).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from warmpool.reconcile.views import RevisionView, ServiceView


@dataclass(frozen=True, slots=True)
class RolloutShares:
    """The floor of each Revision during a rollout, and what the next plan has to know of it."""

    shares: dict[str, int]
    crowded_out: str | None = None
    """The new Revision that GPUs are freed for: until it is ready, even when it has its place before."""
    note: str | None = None


def shares_during_rollout(
    shares: dict[str, int],
    service: ServiceView,
    revisions: Mapping[str, RevisionView],
    crowded_out: str | None,
) -> RolloutShares:
    """The floors of a Service's Revisions, given what they are by traffic alone.

    `crowded_out` is that of the plan before this one.
    """
    coming = revisions.get(service.latest_created or "")
    if coming is None or coming.deleting:
        return RolloutShares(shares)
    name = coming.name
    before = next((share.revision for share in service.traffic if share.latest), None)
    # Between being ready and getting the traffic the rollout goes on: the Route takes its time.
    if name == service.latest_ready and (name in shares or before is None):
        return RolloutShares(shares)
    if _failed(coming):
        note = f"{name} fails for another reason than missing GPUs; the floor stays where it is"
        return RolloutShares(shares, None, note)
    crowded = any(revision.unschedulable for revision in revisions.values())
    if not crowded and crowded_out != name:
        if before is not None and not shares.get(name):
            return RolloutShares({**shares, name: shares.get(before, 0)})
        return RolloutShares(shares)
    return _make_room(shares, coming)


def _failed(coming: RevisionView) -> bool:
    ready = coming.conditions.get("Ready")
    return ready is not None and ready.status == "False" and coming.unschedulable is None


def _make_room(shares: dict[str, int], coming: RevisionView) -> RolloutShares:
    name = coming.name
    needed = max(1, coming.user_min_scale or 0)
    reduced = {other: part for other, part in shares.items() if other != name}
    before = sum(reduced.values())
    for other in sorted(reduced, key=lambda other: -reduced[other]):
        given = min(reduced[other], needed)
        reduced[other] -= given
        needed -= given
    freed = before - sum(reduced.values())
    if freed:
        note = f"{name} cannot be scheduled: {freed} of the old floor is released for its rollout"
    else:
        note = f"{name} cannot be scheduled: {coming.unschedulable or 'other replicas wait for GPUs too'}"
    return RolloutShares(reduced, name, note)
