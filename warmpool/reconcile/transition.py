"""Status, events and next state of a pool, once its writes are made or refused.

The order of things: `reconciler` decides, the controller carries the result out and collects `EffectResults`,
`describe` makes status and events, and `next_state` alone makes the next state of the pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from warmpool.domain.floor import NOTHING
from warmpool.reconcile import conditions, contention, rollout_check, status
from warmpool.reconcile.canary_analysis import AnalysisState
from warmpool.reconcile.canary_values import Phase
from warmpool.reconcile.conditions import PoolCondition
from warmpool.reconcile.events import PoolEvent
from warmpool.reconcile.planning import FloorWrite
from warmpool.reconcile.reconciler import ReconcileResult
from warmpool.reconcile.state import Announcement, PoolState, WarmthTarget


@dataclass(frozen=True, slots=True)
class EffectResults:
    """What became of the effects of one reconciliation."""

    floors_written: tuple[FloorWrite, ...] = ()
    write_error: str | None = None
    """The API's message when it refused a floor, a PodAutoscaler or the finalizer."""
    warmth_applied: WarmthTarget | None = None
    """The warmth that every replica accepted, or that cannot be ordered for want of a key."""
    warmth_error: str | None = None
    announced: Announcement | None = None
    """What the events announced; None: none were posted."""
    status_written: bool = False
    status_error: str | None = None
    """The API's message when it refused the status."""


@dataclass(frozen=True, slots=True)
class StatusAndEvents:
    """Status and events of a pool."""

    status: dict[str, Any]
    """The whole status as it should be."""
    events: tuple[PoolEvent, ...]
    announced: Announcement | None
    """What is announced once the events are posted; None: nothing new about the floor."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a refused write is tried again: exponential back-off."""

    first: timedelta
    last: timedelta
    not_before: datetime | None = None
    """Until when the server has asked to send nothing (429 with Retry-After)."""


def no_effects(state: PoolState) -> EffectResults:
    """The results before anything is done: replicas are as warm as they were ordered to be."""
    return EffectResults(warmth_applied=state.warmth_applied, warmth_error=state.warmth_error)


def describe(result: ReconcileResult, state: PoolState, effects: EffectResults) -> StatusAndEvents:
    """Status and events, given what the API and the replicas accepted."""
    pool, now = result.pool, result.at
    if result.findings is None or result.report is None:
        return _describe_refusal(result, state)
    shown = conditions.conditions(
        result.findings,
        write_error=effects.write_error,
        warmth_error=effects.warmth_error if result.warmth else None,
    )
    document = status.build(pool, result.report, shown, now)
    warnings = _warnings(result, shown)
    if effects.write_error is not None:
        return StatusAndEvents(document, tuple(warnings), None)
    events = (*_floor_changed(result, state), *rollout_events(result), *warnings)
    return StatusAndEvents(document, events, Announcement(result.decision.floor))


def _describe_refusal(result: ReconcileResult, state: PoolState) -> StatusAndEvents:
    pool, now, refusal = result.pool, result.at, result.refusal
    assert refusal is not None
    announced = Announcement(NOTHING, refusal.reason)
    silent = pool.deleting or state.announced == announced
    events = () if silent else (PoolEvent("Warning", refusal.reason, refusal.message),)
    if result.report is None:
        return StatusAndEvents(status.failed(pool, refusal.condition, now), events, announced)
    return StatusAndEvents(status.build(pool, result.report, (refusal.condition,), now), events, announced)


def _floor_changed(result: ReconcileResult, state: PoolState) -> list[PoolEvent]:
    decision = result.decision
    # A controller that has just started finds in the status what the one before it announced.
    before = str(state.announced.floor) if state.announced else result.pool.status.get("held")
    if (before or str(NOTHING)) == str(decision.floor):
        return []
    origin = f"from {before} " if before else ""
    text = f"Floor {origin}to {decision.floor}: {decision.reason}. {decision.detail}".rstrip()
    return [PoolEvent("Normal", "FloorChanged", text, _occurrence(result))]


def rollout_events(result: ReconcileResult) -> list[PoolEvent]:
    """What the rollout has come to, when that is new."""
    rollout = result.rollout
    if rollout is None:
        return []
    before = result.pool.status.get("rollout") or {}
    known = (before.get("phase"), before.get("canary"), before.get("percent", 0), before.get("stable"))
    if known == (rollout.phase.value, rollout.canary, rollout.percent, rollout.stable):
        return []
    warns = rollout.phase in {Phase.ROLLED_BACK, Phase.OVERRIDDEN}
    occurrence = f"{rollout.canary} {rollout.percent} {result.at.isoformat()}"
    return [
        PoolEvent("Warning" if warns else "Normal", f"Rollout{rollout.phase}", rollout.detail, occurrence)
    ]


def _warnings(result: ReconcileResult, shown: tuple[PoolCondition, ...]) -> list[PoolEvent]:
    """One event for each condition that has become a warning, or a warning with another reason."""
    previous: Mapping[Any, Any] = {
        entry.get("type"): entry for entry in result.pool.status.get("conditions") or ()
    }
    events = []
    for condition in shown:
        known = previous.get(condition.type) or {}
        new = (known.get("status"), known.get("reason")) != (condition.status_text, condition.reason)
        if condition.event and new:
            events.append(PoolEvent("Warning", condition.event, condition.message, _occurrence(result)))
    return events


def _occurrence(result: ReconcileResult) -> str:
    return result.decision.until.isoformat() if result.decision.until else ""


def has_effects(result: ReconcileResult, state: PoolState) -> bool:
    """Whether there is anything to write, to order or to announce."""
    described = describe(result, state, no_effects(state))
    return bool(
        result.plan.writes
        or result.traffic
        or result.autoscaler_writes
        or result.wake
        or result.add_finalizer
        or result.remove_finalizer
        or (result.warmth is not None and result.warmth != state.warmth_applied)
        or described.events
        or status.patch(result.pool.status, described.status, result.at, state.status_written_at) is not None
    )


def next_state(
    state: PoolState, result: ReconcileResult, effects: EffectResults, retry: RetryPolicy
) -> PoolState:
    """The state of a pool after a reconciliation and its effects."""
    now = result.at
    failed = effects.write_error is not None or effects.status_error is not None
    failures = state.failures + 1 if failed else 0
    checks = [result.next_at]
    if result.report is None:  # a fault in the controller: not before everything else had its turn
        checks.append(now + retry.last)
    if effects.floors_written:  # Knative may ignore a floor, and then no watch event follows
        checks.append(now + rollout_check.FIRST_CHECK)
    if failed:
        checks.append(now + min(retry.first * 2 ** min(failures - 1, 10), retry.last))
    if result.warmth is not None and effects.warmth_applied != result.warmth:
        checks.append(now + retry.last)
    next_at = min((check for check in checks if check is not None), default=None)
    if failed and next_at is not None and retry.not_before is not None:
        next_at = max(next_at, retry.not_before)
    decided = replace(
        state,
        policy_states=result.policy_states,
        decision=result.decision,
        account=result.account,
        ready=result.ready,
        requested=sum(result.plan.shares.values()),
        lead_s=result.lead_s,
        budget_left=result.budget_left,
        failures=failures,
        write_error=effects.write_error or effects.status_error,
        announced=effects.announced or state.announced,
        status_written_at=now if effects.status_written else state.status_written_at,
        next_at=next_at,
    )
    if result.report is None:
        return decided
    return replace(
        decided,
        rollouts={name: entry.progress for name, entry in (result.rollouts or {}).items()},
        crowded_out=result.plan.crowded_out,
        rollout=result.rollout,
        analysis=result.rollout.analysis if result.rollout is not None else AnalysisState(),
        lowerings=contention.after_writes(state.lowerings, effects.floors_written, now),
        warmth_applied=effects.warmth_applied if result.warmth else None,
        warmth_error=effects.warmth_error if result.warmth else None,
    )
