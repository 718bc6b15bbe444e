"""From a floor to the patches that bring it about.

The floor is the annotation `min-scale` on the Revisions that carry traffic. Where the user's own value is at
least as high, nothing is written; a floor is cut to what the Revision's other annotations let Knative's
webhook accept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from warmpool.domain.floor import Floor
from warmpool.domain.object_key import ObjectKey
from warmpool.reconcile import ownership, rollouts
from warmpool.reconcile.rollouts import Headroom, RolloutShares
from warmpool.reconcile.views import AutoscalerView, RevisionView, ServiceView, TrafficShare

LONGEST_EXPIRY: Final = timedelta(hours=24)
"""A floor without an end is void after this long without a controller."""
SLACK: Final = timedelta(hours=1)
"""How far ahead the expiry is written of a floor whose end moves with every request."""

UNLIMITED: Final = Headroom()
TOLERANCE: Final = timedelta(minutes=1)
"""How far a written expiry may be from the right one: the end of a budget moves with every cent."""


@dataclass(frozen=True, slots=True)
class DesiredFloor:
    """What a pool is to hold on its target, from a decision."""

    pool: str
    floor: Floor
    until: datetime | None = None
    follows_demand: bool = False
    """Whether `until` moves with demand, so that it would be written at every request."""
    crowded_out: str | None = None
    """The Revision whose rollout found no free GPUs when it was last planned."""


@dataclass(frozen=True, slots=True)
class FloorWrite:
    """One merge patch of a Revision's annotations."""

    revision: ObjectKey
    version: str
    """The resourceVersion that it was planned for: a Revision that has changed since is planned again."""
    annotations: dict[str, str | None]
    min_scale: int | None
    """What min-scale will be."""
    held: int = 0
    """What a pool holds there before the write."""

    @property
    def lowers(self) -> bool:
        """Whether it takes away from what a pool holds there."""
        return self.held > (self.min_scale or 0)


@dataclass(frozen=True, slots=True)
class AutoscalerWrite:
    """One merge patch of a PodAutoscaler, for a Knative that does not copy the Revision's annotation."""

    name: str
    min_scale: int | None
    pool: str | None
    """The pool whose floor it is; None gives the PodAutoscaler back."""


@dataclass(frozen=True, slots=True)
class WritePlan:
    """The writes for one pool, and the floor that each Revision of its target is meant to have."""

    writes: tuple[FloorWrite, ...] = ()
    shares: Mapping[str, int] = field(default_factory=dict)
    """Floor by Revision name."""
    notes: tuple[str, ...] = ()
    """What an operator should know: a floor that a Revision's max-scale cuts, a rollout that waits."""
    crowded_out: str | None = None
    """The Revision whose rollout finds no free GPUs."""


def shares_by_traffic(floor: int, traffic: Sequence[TrafficShare]) -> dict[str, int]:
    """The floor of each Revision by its percentage of traffic: largest remainders, `floor` in total.

    As long as the floor is large enough, every Revision with traffic has at least one replica. A Revision
    that only has a tag gets none: only requests that name the tag reach it.
    """
    percent: dict[str, int] = {}
    for share in traffic:
        percent[share.revision] = percent.get(share.revision, 0) + share.percent
    whole = sum(percent.values())
    shares = dict.fromkeys(percent, 0)
    if not whole or not floor:
        return shares
    carrying = sorted((name for name in percent if percent[name]), key=lambda name: (-percent[name], name))
    if floor <= len(carrying):
        return shares | dict.fromkeys(carrying[:floor], 1)
    left = floor - len(carrying)  # one replica each; the rest is divided by percentage
    exact = {name: max(0.0, floor * percent[name] / whole - 1) for name in carrying}
    scale = left / sum(exact.values())
    for name in carrying:
        shares[name] = 1 + int(exact[name] * scale + 1e-9)
    remainders = sorted(carrying, key=lambda name: shares[name] - 1 - exact[name] * scale)
    for name in remainders[: floor - sum(shares.values())]:
        shares[name] += 1
    return shares


def plan_floor(
    desired: DesiredFloor,
    service: ServiceView | None,
    revisions: Iterable[RevisionView],
    now: datetime,
    headroom: Headroom = UNLIMITED,
    *,
    divided: Mapping[str, int] | None = None,
) -> WritePlan:
    """The writes for one pool.

    `revisions` are those of the target and any other whose floor the pool holds. Every Revision that should
    have no floor of this pool gets its own min-scale back. `divided` is the floor of each Revision during a
    rollout in steps; None: it follows the traffic.
    """
    present = [revision for revision in revisions if not revision.deleting]
    targets: dict[str, RevisionView] = {}
    shares: dict[str, int] = {}
    notes: list[str] = []
    crowded_out: str | None = None
    if service is not None and not service.deleting:
        targets = {revision.name: revision for revision in present if revision.service == service.key}
        rollout = (
            _by_traffic(desired, service, targets, headroom)
            if divided is None
            else RolloutShares({name: share for name, share in divided.items() if name in targets})
        )
        shares, crowded_out = rollout.shares, rollout.crowded_out
        notes += [rollout.note] if rollout.note else []
    writes: list[FloorWrite] = []
    for revision in present:
        share = 0
        if revision.name in targets:
            share, cuts = _within_annotations(shares.get(revision.name, 0), revision)
            notes += cuts
        if revision.name in shares:
            shares[revision.name] = share
        write = _hold(desired, share, revision, now) if share else _release(desired.pool, revision)
        if write is not None:
            writes.append(write)
    return WritePlan(tuple(writes), shares, tuple(notes), crowded_out)


def _by_traffic(
    desired: DesiredFloor, service: ServiceView, targets: Mapping[str, RevisionView], headroom: Headroom
) -> RolloutShares:
    """The floor of each Revision as the Service divides its traffic."""
    by_traffic = shares_by_traffic(desired.floor.replicas, service.traffic)
    shares = {name: share for name, share in by_traffic.items() if name in targets}
    held = {
        name: owner.written or 0
        for name, revision in targets.items()
        if (owner := revision.ownership) and owner.pool == desired.pool
    }
    shares = rollouts.shares_during_shift(shares, service, held, headroom)
    return rollouts.shares_during_rollout(shares, service, targets, desired.crowded_out, headroom)


def release_floors(revisions: Iterable[RevisionView]) -> tuple[FloorWrite, ...]:
    """The writes that remove any pool's floor from these Revisions and restore their own min-scale."""
    found = [
        _release(revision.ownership.pool, revision)
        for revision in revisions
        if revision.ownership and not revision.deleting
    ]
    return tuple(write for write in found if write is not None)


def release_autoscalers(
    pool: str,
    revisions: Iterable[RevisionView],
    autoscalers: Mapping[str, AutoscalerView],
    shares: Mapping[str, int],
) -> tuple[AutoscalerWrite, ...]:
    """The writes that give back PodAutoscalers that a pool wrote directly and that are to hold nothing."""
    return tuple(
        AutoscalerWrite(revision.name, revision.user_min_scale, None)
        for revision in revisions
        if not shares.get(revision.name)
        and (autoscaler := autoscalers.get(revision.name)) is not None
        and autoscaler.written_by == pool
    )


def _within_annotations(share: int, revision: RevisionView) -> tuple[int, list[str]]:
    """The floor that Knative's webhook accepts beside the Revision's max-scale and activation-scale."""
    limit = revision.max_scale
    if limit is not None and share > limit:
        return limit, [f"{revision.name}: floor {share} is cut to its max-scale {limit}"]
    limit = revision.activation_scale
    if limit is not None and share > limit:
        return limit, [f"{revision.name}: floor {share} is cut to its activation-scale {limit}"]
    return share, []


def _hold(desired: DesiredFloor, share: int, revision: RevisionView, now: datetime) -> FloorWrite | None:
    user = revision.user_min_scale
    if user is not None and user >= share:
        return _release(desired.pool, revision)  # the user holds as much already
    all_hot = desired.floor.hot >= desired.floor.replicas
    warmth = None if all_hot else str(desired.floor.at_most(share))
    owner = revision.ownership
    if (
        owner is not None
        and owner.pool == desired.pool
        and revision.min_scale == share == owner.written
        and owner.user == user
        and owner.warmth == warmth
        and _expiry_is_good(owner.expires, desired, now)
    ):
        return None
    wanted = ownership.FloorOwnership(desired.pool, share, user, _expiry(desired, now), warmth)
    held = owner.written or 0 if owner is not None else 0
    return FloorWrite(revision.key, revision.version, ownership.write(wanted), share, held)


def _expiry(desired: DesiredFloor, now: datetime) -> datetime:
    longest = now + LONGEST_EXPIRY
    end = desired.until if desired.until is not None and desired.until > now else longest
    return min(max(end, now + SLACK) if desired.follows_demand else end, longest)


def _expiry_is_good(written: datetime | None, desired: DesiredFloor, now: datetime) -> bool:
    """Whether an expiry can stay: it covers what is needed and does not outlive it by much."""
    if written is None:
        return False
    needed = _expiry(desired, now)
    if desired.follows_demand:
        return (desired.until or needed) <= written <= needed + SLACK
    least = max(min(needed, now + SLACK) - TOLERANCE, now)
    return least <= written <= needed + TOLERANCE


def _release(pool: str, revision: RevisionView) -> FloorWrite | None:
    owner = revision.ownership
    if owner is None or owner.pool != pool:
        return None
    annotations = ownership.erase(revision.annotations)
    user = revision.user_min_scale
    return FloorWrite(revision.key, revision.version, annotations, user, owner.written or 0)
