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
from warmpool.domain.coldstart import ColdStart, ColdStartStats, lead_time
from warmpool.domain.cost import PriceList
from warmpool.domain.decision import Ask, Decision
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import DEFAULT_LEAD, Demand, Observation
from warmpool.domain.periods import period_of
from warmpool.domain.pool import WarmPoolSpec
from warmpool.policy import budget, compose
from warmpool.reconcile import contention, planning, rollout_check, status, warmth_orders
from warmpool.reconcile.events import Notice
from warmpool.reconcile.planning import Plan, ScaleWrite, Wanted, Write
from warmpool.reconcile.rollout_check import Verdict
from warmpool.reconcile.state import PoolState
from warmpool.reconcile.status import Condition, NextChange, Report, RevisionStatus
from warmpool.reconcile.views import PoolView, RevisionView, ScaleView, ServiceView

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Sight:
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
class Outcome:
    """What follows."""

    memory: compose.Memory
    decision: Decision
    plan: Plan
    verdicts: Mapping[str, Verdict]
    account: Account | None
    status: Mapping[str, Any] | bytes
    """The whole status as it should be; as compressed JSON once it has to wait for its turn."""
    notices: tuple[Notice, ...]
    started: tuple[ColdStart, ...]
    due: datetime | None
    wake: bool
    scale_writes: tuple[ScaleWrite, ...] = ()
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
    """Floor and reason that the notices speak of."""


def judge(sight: Sight, state: PoolState, now: datetime) -> Outcome:
    """Decide about one pool, plan the writes and word the status."""
    pool = sight.pool
    refusal = _refusal(sight)
    if refusal is not None:
        return _refused(sight, state, refusal, now)
    assert pool.spec is not None
    assert sight.service is not None
    observation = _observation(sight, pool.spec, state, now)
    memory, decision = compose.decide(state.memory, observation, now)
    moving = decision.reason.startswith(("keep-alive", "backlog"))
    wanted = Wanted(pool.key[1], decision.floor, decision.until, moving, state.tight)
    plan = planning.plan(wanted, sight.service, sight.revisions, now)
    plan = contention.give_way(plan, state.lowered, now)
    verdicts = _verify(sight, state, plan, now)
    account = _account(sight, state, decision, observation, now)
    _, lead_source = lead_time(pool.spec.lead_time, sight.cold_starts)
    conditions = _conditions(sight, decision, plan, verdicts, state)
    projected = budget.projected(memory.budget, observation, now) if pool.spec.limits.budget else None
    report = Report(
        decision=decision,
        next_change=_next_change(memory, observation, decision),
        ready=_ready(sight),
        lead=observation.lead,
        lead_source=lead_source,
        cold_start=sight.cold_starts,
        revisions=_revisions(sight, plan),
        conditions=conditions,
        account=account,
        projected=projected,
        gpu=sight.service.gpu or sight.prices.default if sight.service.gpus else None,
        price=sight.prices.of(sight.service.gpu) if sight.service.gpus else None,
        currency=sight.prices.currency,
    )
    looks = [decision.until, decision.look, *(verdict.look_again for verdict in verdicts.values())]
    limit = pool.spec.limits.budget
    return Outcome(
        memory=memory,
        decision=decision,
        plan=plan,
        verdicts=verdicts,
        account=account,
        status=status.build(pool, report, now),
        notices=_notices(pool, state, decision, conditions),
        started=tuple(verdict.started for verdict in verdicts.values() if verdict.started),
        due=min((look for look in looks if look is not None and look > now), default=None),
        wake=any(verdict.wake for verdict in verdicts.values()),
        scale_writes=(
            *(
                ScaleWrite(name, verdict.lever, pool.key[1])
                for name, verdict in verdicts.items()
                if verdict.lever is not None
            ),
            *planning.let_go(sight.revisions, sight.scales, plan.shares),
        ),
        lead_s=observation.lead.total_seconds(),
        ready=report.ready,
        budget_left=limit.amount - account.spent if limit and account else None,
        at=now,
        arrange=_unarranged(state, decision, observation, report.ready),
        holds=True,
        announces=(decision.floor, decision.reason),
    )


def _refusal(sight: Sight) -> Condition | None:
    """Why the pool cannot hold anything, if it cannot."""
    pool = sight.pool
    if pool.deleting:
        return Condition("Ready", False, "Deleting", "Floors are given back.")
    if pool.spec is None:
        return Condition("Ready", False, "InvalidSpec", "; ".join(pool.problems))
    if sight.rightful is not None and sight.rightful.key != pool.key:
        text = f"Service {pool.spec.target} has a pool already: {sight.rightful.key[1]}, which is older."
        return Condition("Ready", False, "TargetTaken", text)
    if sight.service is None or sight.service.deleting:
        text = f"There is no Service {pool.spec.target} in namespace {pool.key[0]}."
        return Condition("Ready", False, "TargetMissing", text)
    return None


def _refused(sight: Sight, state: PoolState, refusal: Condition, now: datetime) -> Outcome:
    """A pool that cannot be read keeps its floor until that expires; any other gives it back at once."""
    held = sight.revisions
    due = None
    if refusal.reason == "InvalidSpec":
        expiries = [mark.expires for revision in held if (mark := revision.marks) and mark.expires]
        due = min((expires for expires in expiries if expires > now), default=None)
        held = [rev for rev in held if (mark := rev.marks) and mark.expires and mark.expires <= now]
    writes = planning.give_back([rev for rev in held if rev.marks and rev.marks.pool == sight.pool.key[1]])
    scale_writes = planning.let_go(held, sight.scales, {})
    left = sum(mark.written or 0 for rev in sight.revisions if (mark := rev.marks)) if not writes else 0
    reason = {"InvalidSpec": "invalid", "TargetMissing": "target-missing", "TargetTaken": "target-taken"}
    decision = Decision(NOTHING, reason.get(refusal.reason, "deleting"))
    report = Report(
        decision=decision,
        next_change=None,
        ready=_ready(sight),
        lead=DEFAULT_LEAD,
        lead_source="default",
        cold_start=sight.cold_starts,
        revisions=(),
        conditions=(refusal,),
    )
    told = status.build(sight.pool, report, now)
    if refusal.reason == "InvalidSpec" and left:
        told |= {"floor": left, "held": f"{left} hot"}
    known = state.announced == (NOTHING, refusal.reason)
    return Outcome(
        memory=compose.initial(),
        decision=decision,
        plan=Plan(writes),
        verdicts={},
        account=state.account,
        status=told,
        notices=() if known or refusal.reason == "Deleting" else (_warning(refusal),),
        started=(),
        due=due,
        wake=False,
        finished=sight.pool.deleting and not writes and not scale_writes,
        scale_writes=scale_writes,
        at=now,
        announces=(NOTHING, refusal.reason),
    )


def _observation(sight: Sight, spec: WarmPoolSpec, state: PoolState, now: datetime) -> Observation:
    assert sight.service is not None
    service = sight.service
    lead, _ = lead_time(spec.lead_time, sight.cold_starts)
    since, _ = period_of(now, spec.limits.budget.period if spec.limits.budget else "month", spec.zone)
    account = state.account.until(now).period(since) if state.account else None
    return Observation(
        pool=spec,
        lead=lead,
        cold_start=sight.cold_starts.p95 if sight.cold_starts else None,
        demand=sight.demand,
        backlog_expected=sight.demand is not None and sight.demand.backlog is not None,
        requests_per_replica=float(service.container_concurrency or 100),
        price=sight.prices.replica(service.gpu, service.gpus),
        spent=account.spent if account else Decimal(0),
        hold=sight.pool.hold,
    )


def _next_change(memory: compose.Memory, observation: Observation, decision: Decision) -> NextChange | None:
    if decision.until is None:
        return None
    at = decision.until
    _, then = compose.decide(memory, observation, at)
    return NextChange(at, then.floor, then.reason)


def _verify(sight: Sight, state: PoolState, plan: Plan, now: datetime) -> dict[str, Verdict]:
    cold_start = sight.cold_starts.p95 if sight.cold_starts else DEFAULT_LEAD
    written = {write.revision[1] for write in plan.writes}
    verdicts = {}
    for revision in sight.revisions:
        name = revision.key[1]
        if sight.service is None or revision.service != sight.service.key:
            continue
        watch = state.watches.get(name, rollout_check.Watch())
        # What is only now being written cannot have arrived yet.
        share = 0 if name in written else plan.shares.get(name, 0)
        verdicts[name] = rollout_check.look(
            watch, share, revision, sight.scales.get(name), now=now, cold_start=cold_start
        )
    return verdicts


def _account(
    sight: Sight, state: PoolState, decision: Decision, observation: Observation, now: datetime
) -> Account:
    assert sight.service is not None
    limit = observation.pool.limits.budget
    since, _ = period_of(now, limit.period if limit else "month", observation.pool.zone)
    account = (state.account or Account(since)).until(now).period(since)
    scales = [
        scale
        for revision in sight.revisions
        if revision.service == sight.service.key and (scale := sight.scales.get(revision.key[1]))
    ]
    actual = sum(scale.actual or 0 for scale in scales)
    starting = sum(max(0, (scale.desired or 0) - (scale.actual or 0)) for scale in scales)
    short = any(watch.short_since and not watch.start_since for watch in state.watches.values())
    held = sum(mark.written or 0 for rev in sight.revisions if (mark := rev.marks))
    reading = Reading(
        at=now,
        floor=decision.floor.at_most(held),
        reason=decision.reason,
        replicas=actual + (0 if short else starting),
        busy=min(float(actual), sight.demand.concurrency) if sight.demand else 0.0,
        gpus=sight.service.gpus,
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


def _ready(sight: Sight) -> int:
    if sight.service is None:
        return 0
    names = [rev.key[1] for rev in sight.revisions if rev.service == sight.service.key]
    return sum(scale.actual or 0 for name in names if (scale := sight.scales.get(name)))


def _revisions(sight: Sight, plan: Plan) -> list[RevisionStatus]:
    assert sight.service is not None
    percent: dict[str, int] = {}
    for share in sight.service.traffic:
        percent[share.revision] = percent.get(share.revision, 0) + share.percent
    writes: dict[str, Write] = {write.revision[1]: write for write in plan.writes}
    found = []
    for revision in sight.revisions:
        name = revision.key[1]
        floor = plan.shares.get(name, 0)
        if not floor and not percent.get(name):
            continue
        scale = sight.scales.get(name)
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
    sight: Sight, decision: Decision, plan: Plan, verdicts: Mapping[str, Verdict], state: PoolState
) -> list[Condition]:
    shorts = [verdict.short for verdict in verdicts.values() if verdict.short]
    cuts = [cut for cut in decision.cuts if cut.rule.startswith("budget/")]
    troubles = [f"no reading of {name}" for name in decision.missing]
    troubles += [
        trouble
        for trouble in (sight.demand_trouble, sight.history_trouble, state.warmth_trouble, state.trouble)
        if trouble
    ]
    troubles += plan.notes
    troubles += _too_slow(sight)
    return [
        _ready_condition(sight, decision, plan, shorts, state),
        Condition("BudgetExceeded", True, _camel(cuts[-1].rule), cuts[-1].detail)
        if cuts
        else Condition("BudgetExceeded", False, "WithinBudget"),
        Condition(
            "CapacityShort", bool(shorts), "ReplicasMissing" if shorts else "Enough", "; ".join(shorts)
        ),
        Condition("Degraded", bool(troubles), "Trouble" if troubles else "AsExpected", "; ".join(troubles)),
    ]


def _too_slow(sight: Sight) -> list[str]:
    """What Knative cuts short: a first start by the progress deadline, a held request by its timeout."""
    if sight.service is None or sight.cold_starts is None:
        return []
    usual = sight.cold_starts.p95.total_seconds()
    deadline, held = sight.service.progress_deadline_s, sight.service.timeout_s
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


def _camel(rule: str) -> str:
    """`budget/replicas` as a condition's reason: `BudgetReplicas`."""
    return "".join(word.capitalize() for word in rule.replace("/", "-").split("-"))


def _ready_condition(
    sight: Sight, decision: Decision, plan: Plan, shorts: Sequence[str], state: PoolState
) -> Condition:
    if state.trouble:
        return Condition("Ready", False, "WriteFailed", state.trouble)
    if not decision.floor.replicas:
        word = "Disabled" if decision.reason == "disabled" else "NothingToHold"
        return Condition("Ready", True, word)
    ready = sum(
        min(plan.shares.get(name, 0), (scale.actual or 0))
        for name, scale in sight.scales.items()
        if name in plan.shares
    )
    wanted = sum(plan.shares.values())
    if not wanted:
        return Condition("Ready", None, "NoTraffic", "No Revision of the Service carries traffic yet.")
    if ready >= wanted > 0:
        return Condition("Ready", True, "FloorHeld")
    if shorts:
        return Condition("Ready", False, "CapacityShort", "; ".join(shorts))
    return Condition("Ready", None, "Raising", "Replicas are starting.")


def _notices(
    pool: PoolView, state: PoolState, decision: Decision, conditions: Sequence[Condition]
) -> tuple[Notice, ...]:
    notices = []
    once = decision.until.isoformat() if decision.until else ""
    # A controller that has just started finds in the status what its predecessor told.
    before = str(state.announced[0]) if state.announced else pool.status.get("held")
    if (before or str(NOTHING)) != str(decision.floor):
        old = f"from {before} " if before else ""
        text = f"Floor {old}to {decision.floor}: {decision.reason}. {_because(decision)}"
        notices.append(Notice("Normal", "FloorChanged", text, once))
    previous = {entry.get("type"): entry for entry in pool.status.get("conditions") or ()}
    for condition in conditions:
        if condition.type != "Ready" and condition.status:
            known = previous.get(condition.type) or {}
            if known.get("status") != "True" or known.get("reason") != condition.reason:
                notices.append(Notice("Warning", condition.type, condition.message, once))
    return tuple(notices)


def _because(decision: Decision) -> str:
    if decision.cuts:
        return decision.cuts[-1].detail
    behind: list[Ask] = [ask for ask in decision.asks if ask.reason == decision.reason]
    return behind[0].detail if behind else ""


def waiting(outcome: Outcome) -> Outcome:
    """An outcome that takes less room while ten thousand others are carried out."""
    return replace(outcome, status=zlib.compress(json.dumps(outcome.status).encode(), 1))


def words(outcome: Outcome) -> Mapping[str, Any]:
    """The status of an outcome."""
    if not isinstance(outcome.status, bytes):
        return outcome.status
    found: dict[str, Any] = json.loads(zlib.decompress(outcome.status))
    return found


def broken(pool: PoolView, state: PoolState, problem: str, now: datetime) -> Outcome:
    """What to say of a pool that cannot be judged because of a fault of ours: nothing of it is touched."""
    condition = Condition("Ready", False, "InternalError", f"The controller failed on this pool: {problem}")
    before = {key: value for key, value in pool.status.items() if key != "conditions"}
    return Outcome(
        memory=state.memory,
        decision=state.decision or Decision(NOTHING, "unknown"),
        plan=Plan(),
        verdicts={},
        account=state.account,
        status={**before, "conditions": status.conditions(pool, (condition,), now)},
        notices=() if state.announced == (NOTHING, "InternalError") else (_warning(condition),),
        started=(),
        due=state.due,
        wake=False,
        at=now,
        announces=(NOTHING, "InternalError"),
    )


def _warning(condition: Condition) -> Notice:
    return Notice("Warning", condition.reason, condition.message)


def remembered(state: PoolState, outcome: Outcome) -> PoolState:
    """The state after an outcome, before its effects are known."""
    return replace(
        state,
        memory=outcome.memory,
        decision=outcome.decision,
        due=outcome.due,
        account=outcome.account,
        tight=outcome.plan.tight,
        ready=outcome.ready,
        lead_s=outcome.lead_s,
        budget_left=outcome.budget_left,
        watches={name: verdict.watch for name, verdict in outcome.verdicts.items()},
    )
