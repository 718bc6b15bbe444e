"""What a pool's floors cause, read from the objects: a reading for the account."""

from __future__ import annotations

from datetime import datetime

from warmpool.domain.account import Account, AccountReading, RevisionReading
from warmpool.domain.budget_period import budget_period
from warmpool.domain.cost import ReplicaPrice
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.pool import WarmPoolSpec
from warmpool.reconcile.snapshot import Snapshot
from warmpool.reconcile.views import AutoscalerView, RevisionView


def replica_price(snapshot: Snapshot) -> ReplicaPrice | None:
    """The price of one replica of the target; None when its GPU has none.

    A Service that names no GPU is priced by the resource that it asks for (a MIG profile, say) if the price
    list has it, and else as the list's default GPU.
    """
    service = snapshot.service
    if service is None:
        return None
    return snapshot.prices.replica(gpu_name(snapshot), service.gpus)


def gpu_name(snapshot: Snapshot) -> str | None:
    """The target's GPU in the price list; None: the default one."""
    service = snapshot.service
    if service is None or service.gpu is not None:
        return service.gpu if service else None
    resource = service.gpu_resource
    return resource if resource and snapshot.prices.of(resource) else None


def read(snapshot: Snapshot, now: datetime) -> AccountReading:
    """The replicas of the target at this instant, and which of them the pool's floors account for."""
    revisions: dict[str, RevisionReading] = {}
    replicas = ready = 0
    for revision in snapshot.revisions:
        autoscaler = snapshot.autoscalers.get(revision.name)
        present = _occupying(revision, autoscaler)
        if revision in snapshot.target_revisions:
            replicas += present
            ready += (autoscaler.actual or 0) if autoscaler else 0
        revisions[revision.name] = _read_revision(snapshot, revision, autoscaler, present)
    demand, service = snapshot.demand, snapshot.service
    return AccountReading(
        at=now,
        revisions=revisions,
        replicas=replicas,
        busy=min(float(ready), demand.concurrency) if demand and demand.concurrency else 0.0,
        gpus=service.gpus if service else 0,
        price=replica_price(snapshot),
    )


def charge(
    snapshot: Snapshot, account: Account | None, spec: WarmPoolSpec | None, now: datetime
) -> Account | None:
    """The account up to this instant; None without one, for a pool whose spec names no period."""
    if spec is not None:
        limit = spec.limits.budget
        since, _ = budget_period(now, limit.period if limit else "month", spec.zone)
        account = (account or Account(since)).in_period(since)
    if account is None:
        return None
    reading = read(snapshot, now)
    reason = account.last.reason if account.last else ""
    return account.read(reading).because(reason)


def _read_revision(
    snapshot: Snapshot, revision: RevisionView, autoscaler: AutoscalerView | None, present: int
) -> RevisionReading:
    owner = revision.ownership
    floor, own = NOTHING, revision.user_min_scale or 0
    if owner is not None and owner.pool == snapshot.pool.key[1] and revision.min_scale == owner.written:
        written = owner.written or 0
        whole = Floor.parse(owner.warmth) if owner.warmth else None
        floor = (whole or Floor.of(written)).at_most(written).without(own)
    active = autoscaler.active if autoscaler else None
    inactive = active is not None and active.status == "False"
    return RevisionReading(
        floor=floor,
        replicas=max(0, present - own),
        starting=present - (autoscaler.actual or 0) if autoscaler else 0,
        drain=revision.drain,
        inactive_since=active.since if active and inactive else None,
    )


def _occupying(revision: RevisionView, autoscaler: AutoscalerView | None) -> int:
    """Replicas that occupy GPUs: those that are ready, and those that start and have been scheduled."""
    if autoscaler is None:
        return 0
    actual = autoscaler.actual or 0
    starting = max(0, (autoscaler.desired or 0) - actual)
    if revision.unscheduled is not None:
        starting = max(0, starting - revision.unscheduled.pods)
    elif revision.unschedulable is not None:
        starting = 0
    return actual + starting
