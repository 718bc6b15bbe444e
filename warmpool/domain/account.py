"""The account of one pool: what its floors have cost in the current budget period, and why.

Charged is what the pool's floors caused, by what was there. For each Revision that is the smaller of its
floor and of the replicas that occupy GPUs, less what the Revision's own min-scale holds anyway. It includes
the Revisions of a rollout that hold the floor twice, and replicas that Knative has not stopped yet after the
floor fell. Replicas that traffic starts beyond the floor are the Service's cost, not the pool's.

Between two readings the larger floor and the larger number of replicas of both count, so that the account is
never below the bill: also when nobody watched, because the controller was away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from warmpool.domain.cost import ReplicaPrice
from warmpool.domain.floor import NOTHING, Floor

SCALE_TO_ZERO_GRACE: Final = timedelta(seconds=30)
"""How long Knative keeps the last replica after its PodAutoscaler became inactive."""

DRAIN_SLACK: Final = timedelta(seconds=30)
"""How much later than it may Knative is expected to have stopped a replica, its process included."""


@dataclass(frozen=True, slots=True)
class RevisionReading:
    """One Revision at an instant."""

    floor: Floor
    """What the pool's floor adds to the Revision's own min-scale."""
    replicas: int
    """Replicas beyond its own min-scale that occupy GPUs: ready or starting, not waiting for a GPU."""
    starting: int = 0
    """Of these, how many are not ready yet."""
    drain: timedelta = timedelta(0)
    """How long Knative may keep a replica after its floor fell, without traffic."""
    draining: Floor = NOTHING
    """What is left of an earlier, larger floor whose replicas have not stopped yet."""
    drained_by: datetime | None = None
    """From then on replicas beyond the floor are there because of traffic."""
    inactive_since: datetime | None = None
    """Since when the PodAutoscaler has been inactive; None: it is active."""

    @property
    def held(self) -> Floor:
        """The floor that is paid for if the replicas are there."""
        return self.floor | self.draining

    @property
    def charged(self) -> Floor:
        """The replicas that the pool has caused."""
        return self.held.at_most(self.replicas)


@dataclass(frozen=True, slots=True)
class AccountReading:
    """The Revisions of a pool's target at an instant."""

    at: datetime
    revisions: Mapping[str, RevisionReading] = field(default_factory=dict)
    """By name."""
    reason: str = ""
    """Why the floor is held."""
    replicas: int = 0
    """All replicas that occupy GPUs, whoever caused them."""
    busy: float = 0.0
    """How many of them serve a request; 0 when that is unknown."""
    gpus: int = 0
    """GPUs of one replica."""
    price: ReplicaPrice | None = None

    @property
    def charged(self) -> Floor:
        """The replicas that the pool has caused, of all Revisions."""
        parts = [revision.charged for revision in self.revisions.values()]
        return Floor(
            sum(part.hot for part in parts),
            sum(part.asleep for part in parts),
            sum(part.standby for part in parts),
        )


@dataclass(frozen=True, slots=True)
class Account:
    """What has been spent since `since`."""

    since: datetime
    spent: Decimal = Decimal(0)
    by_reason: Mapping[str, Decimal] = field(default_factory=dict)
    idle_gpu_s: float = 0.0
    busy_gpu_s: float = 0.0
    floor_gpu_s: float = 0.0
    last: AccountReading | None = None

    def read(self, reading: AccountReading) -> Account:
        """The account after another reading: the time since the last one is charged."""
        last = self.last
        if last is None:
            return replace(self, last=reading)
        reading = _with_draining(last, reading)
        if reading.at <= last.at:
            return replace(self, last=reading)
        price = last.price or reading.price
        gpus = last.gpus or reading.gpus
        amount, floor_s = Decimal(0), 0.0
        for floor, seconds in _charges(last, reading):
            amount += price.rate(floor) * Decimal(str(seconds)) if price else Decimal(0)
            floor_s += floor.replicas * seconds
        reasons = dict(self.by_reason)
        if amount:
            reasons[last.reason] = reasons.get(last.reason, Decimal(0)) + amount
        whole = (reading.at - last.at).total_seconds()
        busy = min(last.busy, last.replicas) * gpus * whole
        return replace(
            self,
            spent=self.spent + amount,
            by_reason=reasons,
            busy_gpu_s=self.busy_gpu_s + busy,
            idle_gpu_s=self.idle_gpu_s + last.replicas * gpus * whole - busy,
            floor_gpu_s=self.floor_gpu_s + floor_s * gpus,
            last=reading,
        )

    def because(self, reason: str) -> Account:
        """The account whose latest reading is held for `reason`."""
        return replace(self, last=replace(self.last, reason=reason)) if self.last else self

    def in_period(self, since: datetime) -> Account:
        """The account for the period that began at `since`: this one, or a new one from there on."""
        if since == self.since:
            return self
        last = replace(self.last, at=max(self.last.at, since)) if self.last else None
        return Account(since, last=last)


def _with_draining(last: AccountReading, reading: AccountReading) -> AccountReading:
    """The reading, with what is left of floors that were larger at the last one."""
    revisions = {}
    for name, revision in reading.revisions.items():
        before = last.revisions.get(name)
        if before is not None and before.charged | revision.floor != revision.floor:
            fell = before.floor | revision.floor != revision.floor
            until = reading.at + revision.drain + DRAIN_SLACK if fell else before.drained_by
            if until is not None and reading.at < until:
                present = _with_unseen(before, revision)
                left = before.charged.at_most(present.replicas)
                revisions[name] = replace(present, draining=left, drained_by=until)
                continue
        revisions[name] = revision
    return replace(reading, revisions=revisions)


def _with_unseen(before: RevisionReading, revision: RevisionReading) -> RevisionReading:
    """The reading with replicas that were starting when their floor fell: no status counts them any more."""
    if revision.inactive_since is not None:
        return revision
    became_ready = (revision.replicas - revision.starting) - (before.replicas - before.starting)
    unseen = max(0, before.starting - revision.starting - max(0, became_ready))
    return replace(revision, replicas=revision.replicas + unseen, starting=revision.starting + unseen)


def _charges(last: AccountReading, reading: AccountReading) -> list[tuple[Floor, float]]:
    """Floors between two readings, each with its seconds."""
    charges = []
    absent = RevisionReading(NOTHING, 0)
    for name in {**last.revisions, **reading.revisions}:
        before, after = last.revisions.get(name, absent), reading.revisions.get(name, absent)
        until = reading.at
        if after.inactive_since is not None and not after.replicas:
            until = min(until, max(last.at, after.inactive_since + SCALE_TO_ZERO_GRACE))
        floor = (before.held | after.held).at_most(max(before.replicas, after.replicas))
        charges.append((floor, (until - last.at).total_seconds()))
    return charges
