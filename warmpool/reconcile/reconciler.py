"""One reconciliation of one pool: from a snapshot and the pool's state to everything that is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from warmpool.domain.account import Account
from warmpool.domain.cold_start import ColdStart, lead_time
from warmpool.domain.decision import Decision
from warmpool.domain.floor import NOTHING
from warmpool.domain.observation import DEFAULT_DRAIN, DEFAULT_LEAD, Observation
from warmpool.domain.pool import WarmPoolSpec
from warmpool.policy import budget, compose
from warmpool.reconcile import (
    canary_record,
    canary_step,
    canary_writes,
    charging,
    conditions,
    contention,
    planning,
    rollout_check,
    warmth_orders,
)
from warmpool.reconcile.canary_values import Phase, RolloutInputs, RolloutStep, TrafficWrite
from warmpool.reconcile.conditions import Findings, Refusal, RefusedPool
from warmpool.reconcile.planning import AutoscalerWrite, DesiredFloor, WritePlan
from warmpool.reconcile.rollout_check import RolloutProgress, RolloutStatus
from warmpool.reconcile.rollouts import Headroom
from warmpool.reconcile.snapshot import Snapshot
from warmpool.reconcile.state import PoolState, WarmthTarget
from warmpool.reconcile.status import NextChange, RevisionStatus, StatusReport
from warmpool.reconcile.views import PoolView


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """What a reconciliation decided; nothing of it is carried out yet."""

    pool: PoolView
    at: datetime
    decision: Decision
    policy_states: compose.PolicyStates
    account: Account | None
    plan: WritePlan
    report: StatusReport | None
    """What the status is made from; None: it stays as it is, but for the condition Ready."""
    findings: Findings | None
    """The conditions of a pool that can hold its floor."""
    refusal: RefusedPool | None = None
    """Why the pool holds nothing."""
    rollouts: Mapping[str, RolloutStatus] | None = None
    """By Revision name."""
    autoscaler_writes: tuple[AutoscalerWrite, ...] = ()
    wake: bool = False
    """Whether to send the Service a wake-up request."""
    warmth: WarmthTarget | None = None
    """The warmth that replicas are to be ordered to; None: they are left alone."""
    rollout: RolloutStep | None = None
    """What the rollout of the target came to; None: the pool has none."""
    traffic: TrafficWrite | None = None
    """The target's traffic, if it is to be changed."""
    add_finalizer: bool = False
    remove_finalizer: bool = False
    """Whether the pool is being deleted and has given everything back."""
    next_at: datetime | None = None
    """When to reconcile again if nothing changes."""
    ready: int = 0
    lead_s: float = 0.0
    budget_left: Decimal | None = None

    @property
    def cold_starts(self) -> tuple[ColdStart, ...]:
        """Cold starts that have just ended."""
        return tuple(status.started for status in (self.rollouts or {}).values() if status.started)


def reconcile(snapshot: Snapshot, state: PoolState, now: datetime) -> ReconcileResult:
    """Decide about one pool and plan the writes."""
    refused = conditions.refusal(snapshot)
    if refused is not None:
        return _refused(snapshot, state, refused, now)
    pool = snapshot.pool
    assert pool.spec is not None
    assert snapshot.service is not None
    account = charging.charge(snapshot, state.account, pool.spec, now)
    assert account is not None
    observation = _observe(snapshot, pool.spec, account)
    policy_states, decision = compose.decide(state.policy_states, observation, now)
    desired = DesiredFloor(
        pool.key[1], decision.floor, decision.until, decision.follows_demand, state.crowded_out
    )
    headroom = _headroom(snapshot, state, decision, observation, now)
    rollout = _roll_out(snapshot, state, decision, headroom, now)
    divided = rollout.floors if rollout is not None else None
    plan = planning.plan_floor(desired, snapshot.service, snapshot.revisions, now, headroom, divided=divided)
    if rollout is not None and rollout.waits_for_replicas:
        plan = replace(plan, notes=(*plan.notes, rollout.detail))
    plan = contention.back_off(plan, state.lowerings, now)
    rollouts = _check_rollouts(snapshot, state, plan, now)
    if decision.floor.replicas:  # while an earlier floor drains, its own reason still counts
        account = account.because(decision.reason)
    limit = pool.spec.limits.budget
    checks = [decision.until, decision.decide_again, *(status.check_again for status in rollouts.values())]
    checks.append(rollout.check_again if rollout is not None else None)
    return ReconcileResult(
        pool=pool,
        at=now,
        decision=decision,
        policy_states=policy_states,
        account=account,
        plan=plan,
        report=replace(
            _report(snapshot, observation, decision, policy_states, plan, account, now), rollout=rollout
        ),
        findings=conditions.findings(snapshot, decision, plan, rollouts),
        rollouts=rollouts,
        autoscaler_writes=(
            *(
                AutoscalerWrite(name, status.autoscaler_min_scale, pool.key[1])
                for name, status in rollouts.items()
                if status.autoscaler_min_scale is not None
            ),
            *planning.release_autoscalers(pool.key[1], snapshot.revisions, snapshot.autoscalers, plan.shares),
        ),
        wake=any(status.wake for status in rollouts.values()),
        warmth=_warmth(decision, observation, snapshot.ready),
        rollout=rollout,
        traffic=rollout.write if rollout is not None else canary_writes.give_back(snapshot.service),
        add_finalizer=not pool.finalized,
        next_at=min((check for check in checks if check is not None and check > now), default=None),
        ready=snapshot.ready,
        lead_s=observation.lead.total_seconds(),
        budget_left=limit.amount - account.spent if limit else None,
    )


def failed(pool: PoolView, state: PoolState, error: str, now: datetime) -> ReconcileResult:
    """The result for a pool that cannot be reconciled because of a fault in the controller: no writes."""
    text = f"The controller failed on this pool: {error}"
    return ReconcileResult(
        pool=pool,
        at=now,
        decision=state.decision or Decision(NOTHING, "unknown"),
        policy_states=state.policy_states,
        account=state.account,
        plan=WritePlan(),
        report=None,
        findings=None,
        refusal=RefusedPool(Refusal.INTERNAL_ERROR, text),
    )


_REASONS: Final = {
    Refusal.DELETING: "deleting",
    Refusal.INVALID_SPEC: "invalid",
    Refusal.TARGET_MISSING: "target-missing",
    Refusal.TARGET_TAKEN: "target-taken",
}
"""The reason of the decision of a pool that cannot hold anything."""


def _refused(snapshot: Snapshot, state: PoolState, refusal: RefusedPool, now: datetime) -> ReconcileResult:
    """A pool with an invalid spec keeps its floor until that expires; any other gives it back at once."""
    pool = snapshot.pool
    account = charging.charge(snapshot, state.account, pool.spec, now)
    released = [rev for rev in snapshot.revisions if rev.ownership and rev.ownership.pool == pool.key[1]]
    held, next_at = 0, None
    if pool.spec is None and not pool.deleting:
        expiries = {rev.key: rev.ownership.expires for rev in released if rev.ownership}
        next_at = min((at for at in expiries.values() if at is not None and at > now), default=None)
        expired = [rev for rev in released if (at := expiries[rev.key]) is not None and at <= now]
        held = sum(rev.ownership.written or 0 for rev in released if rev.ownership and rev not in expired)
        released = expired
    writes = planning.release_floors(released)
    candidates = released if pool.spec is None else snapshot.revisions
    autoscaler_writes = planning.release_autoscalers(pool.key[1], candidates, snapshot.autoscalers, {})
    decision = Decision(NOTHING, _REASONS[refusal.reason])
    return ReconcileResult(
        pool=pool,
        at=now,
        decision=decision,
        policy_states=compose.initial(),
        account=account,
        plan=WritePlan(writes),
        report=StatusReport(
            decision=decision,
            held=held,
            next_change=None,
            ready=snapshot.ready,
            lead=DEFAULT_LEAD,
            lead_source="default",
            cold_start=snapshot.cold_starts,
            revisions=(),
        ),
        findings=None,
        refusal=refusal,
        autoscaler_writes=autoscaler_writes,
        traffic=canary_writes.give_back(snapshot.service) if pool.deleting and snapshot.service else None,
        remove_finalizer=pool.deleting and pool.finalized and not writes and not autoscaler_writes,
        next_at=next_at,
    )


def _observe(snapshot: Snapshot, spec: WarmPoolSpec, account: Account) -> Observation:
    assert snapshot.service is not None
    service, demand = snapshot.service, snapshot.demand
    lead, _ = lead_time(spec.lead_time, snapshot.cold_starts)
    return Observation(
        pool=spec,
        lead=lead,
        cold_start=snapshot.cold_starts.p95 if snapshot.cold_starts else None,
        cold_start_median=snapshot.cold_starts.p50 if snapshot.cold_starts else None,
        demand=demand,
        signals=snapshot.signals,
        ready=snapshot.ready,
        backlog_expected=demand is not None and demand.backlog is not None,
        requests_per_replica=float(service.container_concurrency or 100),
        price=charging.replica_price(snapshot),
        spent=account.spent,
        hold=snapshot.pool.hold,
        charged=account.last.charged if account.last else NOTHING,
        drain=max((rev.drain for rev in snapshot.target_revisions), default=DEFAULT_DRAIN),
    )


def _headroom(
    snapshot: Snapshot, state: PoolState, decision: Decision, observation: Observation, now: datetime
) -> Headroom:
    """Whether GPUs and money suffice for old and new floors at once while traffic moves."""
    cold_start = observation.cold_start or DEFAULT_LEAD
    deadline = rollout_check.start_deadline(cold_start)
    late = {
        name
        for name, progress in state.rollouts.items()
        if progress.short_since is not None and now >= progress.short_since + deadline
    }
    unschedulable = {revision.name for revision in snapshot.target_revisions if revision.unschedulable}
    return Headroom(
        ready={name: autoscaler.actual or 0 for name, autoscaler in snapshot.autoscalers.items()},
        stuck=frozenset(late | unschedulable),
        affordable=_affordable(decision, observation, deadline + observation.drain),
    )


def _roll_out(
    snapshot: Snapshot, state: PoolState, decision: Decision, headroom: Headroom, now: datetime
) -> RolloutStep | None:
    """The next step of the target's rollout; None without one."""
    pool, service = snapshot.pool, snapshot.service
    assert pool.spec is not None
    assert service is not None
    if pool.spec.rollout is None:
        return None
    if decision.disabled:
        stable = service.rollout.stable if service.rollout else None
        return RolloutStep(Phase.PAUSED, "the pool is disabled, and its rollout with it", stable)
    return canary_step.step(
        RolloutInputs(
            spec=pool.spec.rollout,
            service=service,
            revisions={revision.name: revision for revision in snapshot.target_revisions},
            autoscalers=snapshot.autoscalers,
            floor=decision.floor.replicas,
            order=canary_record.parse_order(pool.rollout_order),
            paused=pool.rollout_paused,
            affordable=headroom.affordable,
            reading=snapshot.answers,
            analysis=state.analysis,
        ),
        now,
    )


def _affordable(decision: Decision, observation: Observation, span: timedelta) -> bool:
    """Whether the budget can pay twice the floor for as long as it takes to replace it."""
    budget, price = observation.pool.limits.budget, observation.price
    if budget is None or price is None or observation.spent is None:
        return True
    left = budget.amount - observation.spent
    return left > 2 * price.rate(decision.floor | observation.charged) * Decimal(str(span.total_seconds()))


def _check_rollouts(
    snapshot: Snapshot, state: PoolState, plan: WritePlan, now: datetime
) -> dict[str, RolloutStatus]:
    cold_start = snapshot.cold_starts.p95 if snapshot.cold_starts else DEFAULT_LEAD
    written = {write.revision[1] for write in plan.writes}
    return {
        revision.name: rollout_check.check(
            state.rollouts.get(revision.name, RolloutProgress()),
            # A floor that is only now being written cannot have taken effect yet.
            0 if revision.name in written else plan.shares.get(revision.name, 0),
            revision,
            snapshot.autoscalers.get(revision.name),
            now=now,
            cold_start=cold_start,
        )
        for revision in snapshot.target_revisions
    }


def _warmth(decision: Decision, observation: Observation, ready: int) -> WarmthTarget | None:
    if not ready or not decision.floor.replicas:
        return None
    if not warmth_orders.needs_warmth(observation.pool, observation.price):
        return None
    return WarmthTarget(decision.floor, ready)


def _report(  # noqa: PLR0917  one value of each step
    snapshot: Snapshot,
    observation: Observation,
    decision: Decision,
    policy_states: compose.PolicyStates,
    plan: WritePlan,
    account: Account,
    now: datetime,
) -> StatusReport:
    service, spec = snapshot.service, snapshot.pool.spec
    assert service is not None
    assert spec is not None
    _, lead_source = lead_time(spec.lead_time, snapshot.cold_starts)
    projected = budget.projected(policy_states.budget, observation, now) if spec.limits.budget else None
    return StatusReport(
        decision=decision,
        next_change=_next_change(policy_states, observation, decision),
        ready=snapshot.ready,
        lead=observation.lead,
        lead_source=lead_source,
        cold_start=snapshot.cold_starts,
        revisions=_revisions(snapshot, plan),
        account=account,
        projected=projected,
        gpu=charging.gpu_name(snapshot) or snapshot.prices.default if service.gpus else None,
        price=snapshot.prices.of(charging.gpu_name(snapshot)) if service.gpus else None,
        currency=snapshot.prices.currency,
    )


def _next_change(
    policy_states: compose.PolicyStates, observation: Observation, decision: Decision
) -> NextChange | None:
    if decision.until is None:
        return None
    _, then = compose.decide(policy_states, observation, decision.until)
    return NextChange(decision.until, then.floor, then.reason)


def _revisions(snapshot: Snapshot, plan: WritePlan) -> tuple[RevisionStatus, ...]:
    assert snapshot.service is not None
    percent: dict[str, int] = {}
    for share in snapshot.service.traffic:
        percent[share.revision] = percent.get(share.revision, 0) + share.percent
    writes = {write.revision[1]: write for write in plan.writes}
    found = []
    for revision in snapshot.revisions:
        name = revision.name
        floor = plan.shares.get(name, 0)
        if not floor and not percent.get(name):
            continue
        autoscaler = snapshot.autoscalers.get(name)
        found.append(
            RevisionStatus(
                name=name,
                percent=percent.get(name, 0),
                floor=floor,
                min_scale=writes[name].min_scale if name in writes else revision.min_scale,
                ready=autoscaler.actual or 0 if autoscaler else 0,
                via="PodAutoscaler" if autoscaler and autoscaler.written_by else "Revision",
            )
        )
    return tuple(found)
