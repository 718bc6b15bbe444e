"""The conditions of a WarmPool's status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from warmpool.domain.decision import AdjustmentRule, Decision
from warmpool.reconcile.planning import WritePlan
from warmpool.reconcile.rollout_check import RolloutStatus
from warmpool.reconcile.snapshot import Snapshot

_BUDGET_REASONS: Final = {
    AdjustmentRule.EXTRAS: "BudgetExtras",
    AdjustmentRule.WARMTH: "BudgetWarmth",
    AdjustmentRule.REPLICAS: "BudgetReplicas",
    AdjustmentRule.EXHAUSTED: "BudgetExhausted",
    AdjustmentRule.UNCOUNTABLE: "BudgetUncountable",
}
"""The reason of the condition BudgetExceeded, by what the budget did."""
_CLOSE: Final = 0.8
"""The fraction of one of Knative's deadlines from which a usual cold start is too close to it."""


class Refusal(StrEnum):
    """Why a pool cannot hold anything, as the reason of its condition Ready."""

    DELETING = "Deleting"
    INVALID_SPEC = "InvalidSpec"
    TARGET_TAKEN = "TargetTaken"
    TARGET_MISSING = "TargetMissing"
    INTERNAL_ERROR = "InternalError"


@dataclass(frozen=True, slots=True)
class PoolCondition:
    """One condition; `status` None is Unknown."""

    type: str
    status: bool | None
    reason: str
    message: str = ""
    event: str = ""
    """The reason of the Event that announces it when it appears; empty: none does."""

    @property
    def status_text(self) -> str:
        """The status as Kubernetes writes it."""
        return "Unknown" if self.status is None else str(self.status)


@dataclass(frozen=True, slots=True)
class RefusedPool:
    """A pool that cannot hold anything, and why."""

    reason: Refusal
    message: str

    @property
    def condition(self) -> PoolCondition:
        """Its condition Ready."""
        return PoolCondition("Ready", False, self.reason, self.message)


@dataclass(frozen=True, slots=True)
class Findings:
    """The conditions, as far as they are known before anything is written."""

    ready: PoolCondition
    budget: PoolCondition
    capacity: PoolCondition
    problems: tuple[str, ...] = ()
    """What goes wrong although the floor may be held; the condition Degraded lists it."""


def refusal(snapshot: Snapshot) -> RefusedPool | None:
    """Why the pool cannot hold anything; None if it can."""
    pool = snapshot.pool
    if pool.deleting:
        return RefusedPool(Refusal.DELETING, "The floors are being given back.")
    if pool.spec is None:
        return RefusedPool(Refusal.INVALID_SPEC, "; ".join(pool.problems))
    other = snapshot.effective_pool
    if other is not None and other.key != pool.key:
        text = f"Service {pool.spec.target} already has an older pool, {other.key[1]}."
        return RefusedPool(Refusal.TARGET_TAKEN, text)
    if snapshot.service is None or snapshot.service.deleting:
        text = f"There is no Service {pool.spec.target} in namespace {pool.key[0]}."
        return RefusedPool(Refusal.TARGET_MISSING, text)
    return None


def findings(
    snapshot: Snapshot, decision: Decision, plan: WritePlan, rollouts: Mapping[str, RolloutStatus]
) -> Findings:
    """The conditions of a pool that can hold its floor."""
    short = [status.short for status in rollouts.values() if status.short]
    adjustment = decision.budget_adjustment
    problems = [f"no reading of {name}" for name in decision.missing]
    problems += [error for error in (snapshot.demand_error, snapshot.history_error) if error]
    problems += plan.notes
    problems += _close_to_deadlines(snapshot)
    return Findings(
        ready=_ready(snapshot, decision, plan, short),
        budget=PoolCondition(
            "BudgetExceeded",
            True,
            _BUDGET_REASONS[adjustment.rule],
            adjustment.detail,
            event="BudgetExceeded",
        )
        if adjustment
        else PoolCondition("BudgetExceeded", False, "WithinBudget"),
        capacity=PoolCondition(
            "CapacityShort", True, "ReplicasMissing", "; ".join(short), event="CapacityShort"
        )
        if short
        else PoolCondition("CapacityShort", False, "Enough"),
        problems=tuple(problems),
    )


def conditions(
    found: Findings, *, write_error: str | None, warmth_error: str | None
) -> tuple[PoolCondition, ...]:
    """All conditions, once it is known what the API and the replicas accepted."""
    ready = found.ready
    if write_error is not None:
        ready = PoolCondition("Ready", False, "WriteFailed", write_error, event="WriteFailed")
    problems = [*found.problems, *(error for error in (warmth_error, write_error) if error)]
    degraded = (
        PoolCondition("Degraded", True, "Problems", "; ".join(problems), event="Degraded")
        if problems
        else PoolCondition("Degraded", False, "AsExpected")
    )
    return (ready, found.budget, found.capacity, degraded)


def _ready(snapshot: Snapshot, decision: Decision, plan: WritePlan, short: Sequence[str]) -> PoolCondition:
    if not decision.floor.replicas:
        return PoolCondition("Ready", True, "Disabled" if decision.disabled else "NothingToHold")
    wanted = sum(plan.shares.values())
    if not wanted:
        text = "No Revision of the Service carries traffic yet."
        return PoolCondition("Ready", None, "NoTraffic", text)
    ready = sum(
        min(plan.shares[name], autoscaler.actual or 0)
        for name, autoscaler in snapshot.autoscalers.items()
        if name in plan.shares
    )
    if ready >= wanted:
        return PoolCondition("Ready", True, "FloorHeld")
    if short:
        return PoolCondition("Ready", False, "CapacityShort", "; ".join(short))
    return PoolCondition("Ready", None, "Raising", "Replicas are starting.")


def _close_to_deadlines(snapshot: Snapshot) -> list[str]:
    """Which of Knative's deadlines usual cold starts come close to."""
    if snapshot.service is None or snapshot.cold_starts is None:
        return []
    usual = snapshot.cold_starts.p95.total_seconds()
    deadline, timeout = snapshot.service.progress_deadline_s, snapshot.service.timeout_s
    found = []
    if usual > _CLOSE * deadline:
        found.append(
            f"cold starts take {usual:.0f} s and the progress deadline is {deadline:.0f} s: a new Revision "
            "may fail while it starts; raise serving.knative.dev/progress-deadline"
        )
    if usual > _CLOSE * timeout:
        found.append(
            f"cold starts take {usual:.0f} s and requests time out after {timeout:.0f} s: the first ones may "
            "fail; raise timeoutSeconds"
        )
    return found
