"""What becomes of the floor while traffic moves: to a new Revision, or by a changed split.

With free GPUs, make before break: the new Revision has the whole floor before it gets traffic, so that no
request finds fewer warm replicas than before. Without, break before make: as much of the old floor is
released as the new Revision needs to start. Otherwise a rollout on full GPUs fails for good at its progress
deadline, because the old floor occupies the devices (knative/serving#15780).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from warmpool.reconcile.views import RevisionView, ServiceView


@dataclass(frozen=True, slots=True)
class Headroom:
    """What is known about the replicas that a larger floor would need."""

    ready: Mapping[str, int] = field(default_factory=dict)
    """Ready replicas by Revision name."""
    stuck: frozenset[str] = frozenset()
    """Revisions whose replicas do not become ready, for want of GPUs or for another reason."""
    affordable: bool = True
    """Whether the budget can pay for old and new floors at once, as long as a rollout takes."""


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
    headroom: Headroom,
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
        ahead = shares.get(before, 0) if before is not None and not shares.get(name) else 0
        return _raise_ahead(shares, name, ahead, headroom)
    return _make_room(shares, coming)


def shares_during_shift(
    shares: dict[str, int], service: ServiceView, held: Mapping[str, int], headroom: Headroom
) -> dict[str, int]:
    """The floors while a changed split takes effect, given what they are by the new one alone.

    A Revision whose share shrinks keeps its ready replicas until those whose share grows have theirs, so that
    as many warm replicas as the floor asks for are there at any time. `held` is the pool's floor by Revision
    name. Without free GPUs or money for both, the floors move at once.
    """
    if not headroom.affordable:
        return shares
    carrying = {share.revision for share in service.traffic if share.percent}
    growing = [name for name, share in shares.items() if share > headroom.ready.get(name, 0)]
    if any(name in headroom.stuck for name in growing):
        return shares
    missing = sum(shares[name] - headroom.ready.get(name, 0) for name in growing)
    kept = dict(shares)
    for name in sorted(shares, key=lambda name: (-held.get(name, 0), name)):
        if name in carrying and name not in growing:
            surplus = min(held.get(name, 0), headroom.ready.get(name, 0)) - shares[name]
            more = min(max(0, surplus), missing)
            kept[name] += more
            missing -= more
    return kept


def _raise_ahead(shares: dict[str, int], name: str, ahead: int, headroom: Headroom) -> RolloutShares:
    """The floors with the new Revision's raised before it gets traffic, if the budget allows for both."""
    if not ahead:
        return RolloutShares(shares)
    if headroom.affordable:
        return RolloutShares({**shares, name: ahead})
    note = f"the budget cannot pay for two floors at once: {name} gets its floor with its traffic"
    return RolloutShares(shares, note=note)


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
