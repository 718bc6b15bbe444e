"""One look at one pool: from what was seen to everything that is to be done and said about it. Pure."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from warmpool.domain.account import Account, Reading
from warmpool.domain.budget_period import budget_period
from warmpool.domain.cold_start import ColdStart, ColdStartStats, lead_time
from warmpool.domain.cost import PriceList
from warmpool.domain.decision import AdjustmentRule, Decision
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import DEFAULT_LEAD, Demand, Observation
from warmpool.domain.pool import WarmPoolSpec
from warmpool.policy import budget, compose
from warmpool.reconcile import contention, planning, rollout_check, status, warmth_orders
from warmpool.reconcile.events import PoolEvent
from warmpool.reconcile.planning import AutoscalerWrite, DesiredFloor, FloorWrite, WritePlan
from warmpool.reconcile.rollout_check import RolloutStatus
from warmpool.reconcile.state import PoolState
from warmpool.reconcile.status import NextChange, PoolCondition, RevisionStatus, StatusReport
from warmpool.reconcile.views import PoolView, RevisionView, ScaleView, ServiceView

_BUDGET_REASONS: Final = {
    AdjustmentRule.EXTRAS: "BudgetExtras",
    AdjustmentRule.WARMTH: "BudgetWarmth",
    AdjustmentRule.REPLICAS: "BudgetReplicas",
    AdjustmentRule.EXHAUSTED: "BudgetExhausted",
    AdjustmentRule.UNCOUNTABLE: "BudgetUncountable",
}
"""The reason of the condition BudgetExceeded, by what the budget did."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything there is to see of one pool."""

    pool: PoolView
    service: ServiceView | None
    revisions: Sequence[RevisionView]
    """Of the target, and any other with the pool's marks."""
    scales: Mapping[str, ScaleView]
    """PodAutoscalers by Revision name."""
    rightful: PoolView | None
    """The pool that counts for this target."""
    demand: Demand | None
    """None: it could not be read."""
    demand_trouble: str | None
    cold_starts: ColdStartStats | None
    history_trouble: str | None
    prices: PriceList


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """What follows."""

    policy_states: compose.PolicyStates
    decision: Decision
    plan: WritePlan
    rollouts_seen: Mapping[str, RolloutStatus]
    account: Account | None
    status: Mapping[str, Any] | bytes
    """The whole status as it should be; as compressed JSON once it has to wait for its turn."""
    events: tuple[PoolEvent, ...]
    started: tuple[ColdStart, ...]
    due: datetime | None
    wake: bool
    autoscaler_writes: tuple[AutoscalerWrite, ...] = ()
    lead_s: float = 0.0
    ready: int = 0
    budget_left: Decimal | None = None
    finished: bool = False
    """A pool that is being deleted has given everything back."""
    at: datetime = EPOCH
    """The instant it was judged for."""
    arrange: tuple[Floor, int] | None = None
    """The floor that the replicas (so many are there) have still to be ordered to."""
    holds: bool = False
    """Whether the pool may hold floors, so that it must not go without our knowing."""
    announces: tuple[Floor, str] = (NOTHING, "")
    """Floor and reason that the events speak of."""


def reconcile(snapshot: Snapshot, state: PoolState, now: datetime) -> ReconcileResult:
    """Decide about one pool, plan the writes and word the status."""
    pool = snapshot.pool
    refusal = _refusal(snapshot)
    if refusal is not None:
        return _refused(snapshot, state, refusal, now)
    assert pool.spec is not None
    assert snapshot.service is not None
    observation = _observation(snapshot, pool.spec, state, now)
    policy_states, decision = compose.decide(state.policy_states, observation, now)
    wanted = DesiredFloor(pool.key[1], decision.floor, decision.until, decision.follows_demand, state.tight)
    plan = planning.plan(wanted, snapshot.service, snapshot.revisions, now)
    plan = contention.give_way(plan, state.lowered, now)
    rollouts_seen = _verify(snapshot, state, plan, now)
    account = _account(snapshot, state, decision, observation, now)
    _, lead_source = lead_time(pool.spec.lead_time, snapshot.cold_starts)
    conditions = _conditions(snapshot, decision, plan, rollouts_seen, state)
    projected = budget.projected(policy_states.budget, observation, now) if pool.spec.limits.budget else None
    report = StatusReport(
        decision=decision,
        next_change=_next_change(policy_states, observation, decision),
        ready=_ready(snapshot),
        lead=observation.lead,
        lead_source=lead_source,
        cold_start=snapshot.cold_starts,
        revisions=_revisions(snapshot, plan),
        conditions=conditions,
        account=account,
        projected=projected,
        gpu=snapshot.service.gpu or snapshot.prices.default if snapshot.service.gpus else None,
        price=snapshot.prices.of(snapshot.service.gpu) if snapshot.service.gpus else None,
        currency=snapshot.prices.currency,
    )
    looks = [
        decision.until,
        decision.decide_again,
        *(verdict.look_again for verdict in rollouts_seen.values()),
    ]
    limit = pool.spec.limits.budget
    return ReconcileResult(
        policy_states=policy_states,
        decision=decision,
        plan=plan,
        rollouts_seen=rollouts_seen,
        account=account,
        status=status.build(pool, report, now),
        events=_notices(pool, state, decision, conditions),
        started=tuple(verdict.started for verdict in rollouts_seen.values() if verdict.started),
        due=min((look for look in looks if look is not None and look > now), default=None),
        wake=any(verdict.wake for verdict in rollouts_seen.values()),
        autoscaler_writes=(
            *(
                AutoscalerWrite(name, verdict.lever, pool.key[1])
                for name, verdict in rollouts_seen.items()
                if verdict.lever is not None
            ),
            *planning.let_go(snapshot.revisions, snapshot.scales, plan.shares),
        ),
        lead_s=observation.lead.total_seconds(),
        ready=report.ready,
        budget_left=limit.amount - account.spent if limit and account else None,
        at=now,
        arrange=_unarranged(state, decision, observation, report.ready),
        holds=True,
        announces=(decision.floor, decision.reason),
    )


def _refusal(snapshot: Snapshot) -> PoolCondition | None:
    """Why the pool cannot hold anything, if it cannot."""
    pool = snapshot.pool
    if pool.deleting:
        return PoolCondition("Ready", False, "Deleting", "Floors are given back.")
    if pool.spec is None:
        return PoolCondition("Ready", False, "InvalidSpec", "; ".join(pool.problems))
    if snapshot.rightful is not None and snapshot.rightful.key != pool.key:
        text = f"Service {pool.spec.target} has a pool already: {snapshot.rightful.key[1]}, which is older."
        return PoolCondition("Ready", False, "TargetTaken", text)
    if snapshot.service is None or snapshot.service.deleting:
        text = f"There is no Service {pool.spec.target} in namespace {pool.key[0]}."
        return PoolCondition("Ready", False, "TargetMissing", text)
    return None


def _refused(snapshot: Snapshot, state: PoolState, refusal: PoolCondition, now: datetime) -> ReconcileResult:
    """A pool that cannot be read keeps its floor until that expires; any other gives it back at once."""
    held = snapshot.revisions
    due = None
    if refusal.reason == "InvalidSpec":
        expiries = [mark.expires for revision in held if (mark := revision.ownership) and mark.expires]
        due = min((expires for expires in expiries if expires > now), default=None)
        held = [rev for rev in held if (mark := rev.ownership) and mark.expires and mark.expires <= now]
    writes = planning.give_back(
        [rev for rev in held if rev.ownership and rev.ownership.pool == snapshot.pool.key[1]]
    )
    autoscaler_writes = planning.let_go(held, snapshot.scales, {})
    left = (
        sum(mark.written or 0 for rev in snapshot.revisions if (mark := rev.ownership)) if not writes else 0
    )
    reason = {"InvalidSpec": "invalid", "TargetMissing": "target-missing", "TargetTaken": "target-taken"}
    decision = Decision(NOTHING, reason.get(refusal.reason, "deleting"))
    report = StatusReport(
        decision=decision,
        next_change=None,
        ready=_ready(snapshot),
        lead=DEFAULT_LEAD,
        lead_source="default",
        cold_start=snapshot.cold_starts,
        revisions=(),
        conditions=(refusal,),
    )
    told = status.build(snapshot.pool, report, now)
    if refusal.reason == "InvalidSpec" and left:
        told |= {"floor": left, "held": f"{left} hot"}
    known = state.announced == (NOTHING, refusal.reason)
    return ReconcileResult(
        policy_states=compose.initial(),
        decision=decision,
        plan=WritePlan(writes),
        rollouts_seen={},
        account=state.account,
        status=told,
        events=() if known or refusal.reason == "Deleting" else (_warning(refusal),),
        started=(),
        due=due,
        wake=False,
        finished=snapshot.pool.deleting and not writes and not autoscaler_writes,
        autoscaler_writes=autoscaler_writes,
        at=now,
        announces=(NOTHING, refusal.reason),
    )


def _observation(snapshot: Snapshot, spec: WarmPoolSpec, state: PoolState, now: datetime) -> Observation:
    assert snapshot.service is not None
    service = snapshot.service
    lead, _ = lead_time(spec.lead_time, snapshot.cold_starts)
    since, _ = budget_period(now, spec.limits.budget.period if spec.limits.budget else "month", spec.zone)
    account = state.account.until(now).period(since) if state.account else None
    return Observation(
        pool=spec,
        lead=lead,
        cold_start=snapshot.cold_starts.p95 if snapshot.cold_starts else None,
        demand=snapshot.demand,
        backlog_expected=snapshot.demand is not None and snapshot.demand.backlog is not None,
        requests_per_replica=float(service.container_concurrency or 100),
        price=snapshot.prices.replica(service.gpu, service.gpus),
        spent=account.spent if account else Decimal(0),
        hold=snapshot.pool.hold,
    )


def _next_change(
    policy_states: compose.PolicyStates, observation: Observation, decision: Decision
) -> NextChange | None:
    if decision.until is None:
        return None
    at = decision.until
    _, then = compose.decide(policy_states, observation, at)
    return NextChange(at, then.floor, then.reason)


def _verify(snapshot: Snapshot, state: PoolState, plan: WritePlan, now: datetime) -> dict[str, RolloutStatus]:
    cold_start = snapshot.cold_starts.p95 if snapshot.cold_starts else DEFAULT_LEAD
    written = {write.revision[1] for write in plan.writes}
    rollouts_seen = {}
    for revision in snapshot.revisions:
        name = revision.key[1]
        if snapshot.service is None or revision.service != snapshot.service.key:
            continue
        watch = state.watches.get(name, rollout_check.RolloutProgress())
        # What is only now being written cannot have arrived yet.
        share = 0 if name in written else plan.shares.get(name, 0)
        rollouts_seen[name] = rollout_check.check(
            watch, share, revision, snapshot.scales.get(name), now=now, cold_start=cold_start
        )
    return rollouts_seen


def _account(
    snapshot: Snapshot, state: PoolState, decision: Decision, observation: Observation, now: datetime
) -> Account:
    assert snapshot.service is not None
    limit = observation.pool.limits.budget
    since, _ = budget_period(now, limit.period if limit else "month", observation.pool.zone)
    account = (state.account or Account(since)).until(now).period(since)
    scales = [
        scale
        for revision in snapshot.revisions
        if revision.service == snapshot.service.key and (scale := snapshot.scales.get(revision.key[1]))
    ]
    actual = sum(scale.actual or 0 for scale in scales)
    starting = sum(max(0, (scale.desired or 0) - (scale.actual or 0)) for scale in scales)
    short = any(watch.short_since and not watch.start_since for watch in state.watches.values())
    held = sum(mark.written or 0 for rev in snapshot.revisions if (mark := rev.ownership))
    reading = Reading(
        at=now,
        floor=decision.floor.at_most(held),
        reason=decision.reason,
        replicas=actual + (0 if short else starting),
        busy=min(float(actual), snapshot.demand.concurrency) if snapshot.demand else 0.0,
        gpus=snapshot.service.gpus,
        price=observation.price,
    )
    return account.read(reading)


def _unarranged(
    state: PoolState, decision: Decision, observation: Observation, ready: int
) -> tuple[Floor, int] | None:
    """The arrangement that is to be made, if warmth matters to this pool and it is not made yet."""
    wanted = (decision.floor, ready)
    if not ready or not decision.floor.replicas or state.arranged == wanted:
        return None
    return wanted if warmth_orders.concerns(observation.pool, observation.price) else None


def _ready(snapshot: Snapshot) -> int:
    if snapshot.service is None:
        return 0
    names = [rev.key[1] for rev in snapshot.revisions if rev.service == snapshot.service.key]
    return sum(scale.actual or 0 for name in names if (scale := snapshot.scales.get(name)))


def _revisions(snapshot: Snapshot, plan: WritePlan) -> list[RevisionStatus]:
    assert snapshot.service is not None
    percent: dict[str, int] = {}
    for share in snapshot.service.traffic:
        percent[share.revision] = percent.get(share.revision, 0) + share.percent
    writes: dict[str, FloorWrite] = {write.revision[1]: write for write in plan.writes}
    found = []
    for revision in snapshot.revisions:
        name = revision.key[1]
        floor = plan.shares.get(name, 0)
        if not floor and not percent.get(name):
            continue
        scale = snapshot.scales.get(name)
        found.append(
            RevisionStatus(
                name=name,
                percent=percent.get(name, 0),
                floor=floor,
                min_scale=writes[name].min_scale if name in writes else revision.min_scale,
                ready=scale.actual or 0 if scale else 0,
                via="PodAutoscaler" if scale and scale.marked else "Revision",
            )
        )
    return found


def _conditions(
    snapshot: Snapshot,
    decision: Decision,
    plan: WritePlan,
    rollouts_seen: Mapping[str, RolloutStatus],
    state: PoolState,
) -> list[PoolCondition]:
    shorts = [verdict.short for verdict in rollouts_seen.values() if verdict.short]
    cut = decision.budget_adjustment
    troubles = [f"no reading of {name}" for name in decision.missing]
    troubles += [
        trouble
        for trouble in (
            snapshot.demand_trouble,
            snapshot.history_trouble,
            state.warmth_trouble,
            state.trouble,
        )
        if trouble
    ]
    troubles += plan.notes
    troubles += _too_slow(snapshot)
    return [
        _ready_condition(snapshot, decision, plan, shorts, state),
        PoolCondition("BudgetExceeded", True, _BUDGET_REASONS[cut.rule], cut.detail)
        if cut
        else PoolCondition("BudgetExceeded", False, "WithinBudget"),
        PoolCondition(
            "CapacityShort", bool(shorts), "ReplicasMissing" if shorts else "Enough", "; ".join(shorts)
        ),
        PoolCondition(
            "Degraded", bool(troubles), "Trouble" if troubles else "AsExpected", "; ".join(troubles)
        ),
    ]


def _too_slow(snapshot: Snapshot) -> list[str]:
    """What Knative cuts short: a first start by the progress deadline, a held request by its timeout."""
    if snapshot.service is None or snapshot.cold_starts is None:
        return []
    usual = snapshot.cold_starts.p95.total_seconds()
    deadline, held = snapshot.service.progress_deadline_s, snapshot.service.timeout_s
    told = []
    if usual > 0.8 * deadline:
        told.append(
            f"cold starts take {usual:.0f} s and the progress deadline is {deadline:.0f} s: a new Revision "
            "may be killed while it starts; raise serving.knative.dev/progress-deadline"
        )
    if usual > 0.8 * held:
        told.append(
            f"cold starts take {usual:.0f} s and requests are held for {held:.0f} s: the first ones may time "
            "out; raise timeoutSeconds"
        )
    return told


def _ready_condition(
    snapshot: Snapshot, decision: Decision, plan: WritePlan, shorts: Sequence[str], state: PoolState
) -> PoolCondition:
    if state.trouble:
        return PoolCondition("Ready", False, "WriteFailed", state.trouble)
    if not decision.floor.replicas:
        word = "Disabled" if decision.disabled else "NothingToHold"
        return PoolCondition("Ready", True, word)
    ready = sum(
        min(plan.shares.get(name, 0), (scale.actual or 0))
        for name, scale in snapshot.scales.items()
        if name in plan.shares
    )
    wanted = sum(plan.shares.values())
    if not wanted:
        return PoolCondition("Ready", None, "NoTraffic", "No Revision of the Service carries traffic yet.")
    if ready >= wanted > 0:
        return PoolCondition("Ready", True, "FloorHeld")
    if shorts:
        return PoolCondition("Ready", False, "CapacityShort", "; ".join(shorts))
    return PoolCondition("Ready", None, "Raising", "Replicas are starting.")


def _notices(
    pool: PoolView, state: PoolState, decision: Decision, conditions: Sequence[PoolCondition]
) -> tuple[PoolEvent, ...]:
    events = []
    once = decision.until.isoformat() if decision.until else ""
    # A controller that has just started finds in the status what its predecessor told.
    before = str(state.announced[0]) if state.announced else pool.status.get("held")
    if (before or str(NOTHING)) != str(decision.floor):
        old = f"from {before} " if before else ""
        text = f"Floor {old}to {decision.floor}: {decision.reason}. {decision.detail}"
        events.append(PoolEvent("Normal", "FloorChanged", text, once))
    previous = {entry.get("type"): entry for entry in pool.status.get("conditions") or ()}
    for condition in conditions:
        if condition.type != "Ready" and condition.status:
            known = previous.get(condition.type) or {}
            if known.get("status") != "True" or known.get("reason") != condition.reason:
                events.append(PoolEvent("Warning", condition.type, condition.message, once))
    return tuple(events)


def waiting(result: ReconcileResult) -> ReconcileResult:
    """An result that takes less room while ten thousand others are carried out."""
    return replace(result, status=zlib.compress(json.dumps(result.status).encode(), 1))


def words(result: ReconcileResult) -> Mapping[str, Any]:
    """The status of an result."""
    if not isinstance(result.status, bytes):
        return result.status
    found: dict[str, Any] = json.loads(zlib.decompress(result.status))
    return found


def broken(pool: PoolView, state: PoolState, problem: str, now: datetime) -> ReconcileResult:
    """What to say of a pool that cannot be judged because of a fault of ours: nothing of it is touched."""
    condition = PoolCondition(
        "Ready", False, "InternalError", f"The controller failed on this pool: {problem}"
    )
    before = {key: value for key, value in pool.status.items() if key != "conditions"}
    return ReconcileResult(
        policy_states=state.policy_states,
        decision=state.decision or Decision(NOTHING, "unknown"),
        plan=WritePlan(),
        rollouts_seen={},
        account=state.account,
        status={**before, "conditions": status.conditions(pool, (condition,), now)},
        events=() if state.announced == (NOTHING, "InternalError") else (_warning(condition),),
        started=(),
        due=state.due,
        wake=False,
        at=now,
        announces=(NOTHING, "InternalError"),
    )


def _warning(condition: PoolCondition) -> PoolEvent:
    return PoolEvent("Warning", condition.reason, condition.message)


def remembered(state: PoolState, result: ReconcileResult) -> PoolState:
    """The state after an result, before its effects are known."""
    return replace(
        state,
        policy_states=result.policy_states,
        decision=result.decision,
        due=result.due,
        account=result.account,
        tight=result.plan.tight,
        ready=result.ready,
        lead_s=result.lead_s,
        budget_left=result.budget_left,
        watches={name: verdict.watch for name, verdict in result.rollouts_seen.items()},
    )
