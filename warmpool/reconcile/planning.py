"""From a floor to the writes that bring it about: pure, so that every case is a table in the tests.

The floor is the annotation `min-scale` on the Revisions that carry traffic. Where a user's own is as high,
nothing is written; above what the Revision's max-scale lets the webhook accept, nothing is tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from warmpool.domain.floor import Floor
from warmpool.reconcile import ownership, rollouts
from warmpool.reconcile.views import Key, RevisionView, ScaleView, ServiceView, TrafficShare

LONGEST_EXPIRY: Final = timedelta(hours=24)
"""A floor without an end is void after this long without a controller."""
SLACK: Final = timedelta(hours=1)
"""How far ahead the expiry of a floor is written whose end moves with every request."""


@dataclass(frozen=True, slots=True)
class DesiredFloor:
    """What a pool is to hold on its target, from a decision."""

    pool: str
    floor: Floor
    until: datetime | None = None
    moving: bool = False
    """Whether `until` moves with demand, so that it would be written at every request."""
    tight: str | None = None
    """The Revision whose rollout found no room when it was last planned."""


@dataclass(frozen=True, slots=True)
class FloorWrite:
    """One merge patch of a Revision's annotations."""

    revision: Key
    version: str
    """The resourceVersion it was planned for: a Revision that has changed since is planned again."""
    annotations: dict[str, str | None]
    min_scale: int | None
    """What min-scale will be."""
    held: int = 0
    """What a pool holds there now."""

    @property
    def lowers(self) -> bool:
        """Whether it takes away from what a pool holds there."""
        return self.held > (self.min_scale or 0)


@dataclass(frozen=True, slots=True)
class AutoscalerWrite:
    """One merge patch of a PodAutoscaler, for a Knative that does not pass the Revision's annotation on."""

    name: str
    min_scale: int | None
    pool: str | None
    """The pool whose floor it is; None gives it back."""


@dataclass(frozen=True, slots=True)
class WritePlan:
    """What to write for one pool, and what floor each Revision of its target is meant to have."""

    writes: tuple[FloorWrite, ...] = ()
    shares: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a person should know: a floor that a Revision's max-scale cuts, a rollout that waits."""
    tight: str | None = None
    """The Revision whose rollout finds no room."""


def divide(floor: int, traffic: Sequence[TrafficShare]) -> dict[str, int]:
    """The floor of each Revision by its percentage of traffic: largest remainders, `floor` in total.

    While there is enough for all, nobody with traffic gets none. A Revision that only has a tag gets none:
    nobody is sent there unasked.
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
    left = floor - len(carrying)  # everybody has one; the rest goes by percentage
    exact = {name: max(0.0, floor * percent[name] / whole - 1) for name in carrying}
    scale = left / sum(exact.values())
    for name in carrying:
        shares[name] = 1 + int(exact[name] * scale + 1e-9)
    remainders = sorted(carrying, key=lambda name: shares[name] - 1 - exact[name] * scale)
    for name in remainders[: floor - sum(shares.values())]:
        shares[name] += 1
    return shares


def plan(
    wanted: DesiredFloor, service: ServiceView | None, revisions: Iterable[RevisionView], now: datetime
) -> WritePlan:
    """The writes for one pool.

    `revisions` are those of the target and any other that the pool has marks on; all that should have no
    floor of this pool are given back as they were.
    """
    seen = [revision for revision in revisions if not revision.deleting]
    there = service is not None and not service.deleting
    ours = {
        revision.key[1]: revision
        for revision in seen
        if there and service and revision.service == service.key
    }
    shares: dict[str, int] = {}
    notes: list[str] = []
    tight: str | None = None
    if service is not None and there:
        shares = {
            name: part
            for name, part in divide(wanted.floor.replicas, service.traffic).items()
            if name in ours
        }
        rollout = rollouts.settle(shares, service, ours, wanted.tight)
        shares, tight = rollout.shares, rollout.tight
        notes += [rollout.note] if rollout.note else []
    writes: list[FloorWrite] = []
    for revision in seen:
        name = revision.key[1]
        share, why = _bounded(shares.get(name, 0), revision) if name in ours else (0, [])
        notes += why
        if name in shares:
            shares[name] = share
        write = _hold(wanted, share, revision, now) if share else _release(wanted.pool, revision)
        if write is not None:
            writes.append(write)
    return WritePlan(tuple(writes), shares, tuple(notes), tight)


def give_back(revisions: Iterable[RevisionView]) -> tuple[FloorWrite, ...]:
    """The writes that take every pool's marks off these Revisions and restore their own min-scale."""
    found = [
        _release(revision.ownership.pool, revision)
        for revision in revisions
        if revision.ownership and not revision.deleting
    ]
    return tuple(write for write in found if write is not None)


def let_go(
    revisions: Iterable[RevisionView], scales: Mapping[str, ScaleView], shares: Mapping[str, int]
) -> tuple[AutoscalerWrite, ...]:
    """The writes that give back PodAutoscalers that were written themselves and shall hold nothing."""
    names = [revision for revision in revisions if not shares.get(revision.key[1])]
    return tuple(
        AutoscalerWrite(revision.key[1], revision.user_min_scale, None)
        for revision in names
        if (scale := scales.get(revision.key[1])) and scale.marked
    )


def _bounded(share: int, revision: RevisionView) -> tuple[int, list[str]]:
    name = revision.key[1]
    if revision.max_scale is not None and share > revision.max_scale:
        return revision.max_scale, [f"{name}: floor {share} is cut to its max-scale {revision.max_scale}"]
    if revision.activation_scale is not None and share > revision.activation_scale:
        limit = revision.activation_scale
        return limit, [f"{name}: floor {share} is cut to its activation-scale {limit}"]
    return share, []


def _hold(wanted: DesiredFloor, share: int, revision: RevisionView, now: datetime) -> FloorWrite | None:
    user = revision.user_min_scale
    if user is not None and user >= share:
        return _release(wanted.pool, revision)  # the user holds as much already
    warmth = None if wanted.floor.hot >= wanted.floor.replicas else str(wanted.floor.at_most(share))
    found = revision.ownership
    if (
        found is not None
        and found.pool == wanted.pool
        and revision.min_scale == share == found.written
        and found.user == user
        and found.warmth == warmth
        and _still_good(found.expires, wanted, now)
    ):
        return None
    set_to = ownership.FloorOwnership(wanted.pool, share, user, _expiry(wanted, now), warmth)
    held = found.written or 0 if found is not None else 0
    return FloorWrite(revision.key, revision.version, ownership.write(set_to), share, held)


def _expiry(wanted: DesiredFloor, now: datetime) -> datetime:
    longest = now + LONGEST_EXPIRY
    end = wanted.until if wanted.until is not None and wanted.until > now else longest
    return min(max(end, now + SLACK) if wanted.moving else end, longest)


def _still_good(written: datetime | None, wanted: DesiredFloor, now: datetime) -> bool:
    """Whether an expiry need not be written again: it covers the need and does not outlive it by much."""
    if written is None:
        return False
    needed = _expiry(wanted, now)
    least = wanted.until if wanted.until is not None and wanted.moving else min(needed, now + SLACK)
    return least <= written <= needed + (SLACK if wanted.moving else timedelta(0))


def _release(pool: str, revision: RevisionView) -> FloorWrite | None:
    found = revision.ownership
    if found is None or found.pool != pool:
        return None
    user = revision.user_min_scale
    return FloorWrite(
        revision.key, revision.version, ownership.erase(revision.annotations), user, found.written or 0
    )
