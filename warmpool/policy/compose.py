"""The whole decision about one pool: the highest floor that a policy proposes, bounded by limits and budget.

The order of `POLICIES` only decides which reason is named first when two policies propose the same floor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from warmpool.domain.decision import DISABLED, Adjustment, AdjustmentRule, Decision, PolicyName, Proposal
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import Observation
from warmpool.domain.pool import Limits
from warmpool.policy import backlog, budget, forecast, hold, keep_alive, schedule, signals

Step = Callable[[Any, Observation, datetime], tuple[Any, Proposal]]


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy: a pure step and the state it starts with."""

    name: PolicyName
    initial: Callable[[], Any]
    step: Step


POLICIES: Final = (
    Policy(PolicyName.HOLD, hold.initial, hold.step),  # an operator's hold is named before any rule
    Policy(PolicyName.SCHEDULE, schedule.initial, schedule.step),
    Policy(PolicyName.BACKLOG, backlog.initial, backlog.step),
    Policy(PolicyName.KEEP_ALIVE, keep_alive.initial, keep_alive.step),
    Policy(PolicyName.FORECAST, forecast.initial, forecast.step),
    Policy(PolicyName.SIGNALS, signals.initial, signals.step),
)


@dataclass(frozen=True, slots=True)
class PolicyStates:
    """The state of each policy, in the order of `POLICIES`, and that of the budget."""

    policies: tuple[Any, ...]
    budget: budget.BudgetState


def initial(policies: tuple[Policy, ...] = POLICIES) -> PolicyStates:
    """The state before the first decision about a pool."""
    return PolicyStates(tuple(policy.initial() for policy in policies), budget.initial())


def decide(
    state: PolicyStates,
    observation: Observation,
    now: datetime,
    policies: tuple[Policy, ...] = POLICIES,
) -> tuple[PolicyStates, Decision]:
    """The floor at `now`, why, and until when."""
    if not observation.pool.enabled:
        return initial(policies), DISABLED
    states, proposals = [], []
    for policy, remembered in zip(policies, state.policies, strict=True):
        new, proposal = policy.step(remembered, observation, now)
        states.append(new)
        proposals.append(proposal)
    wanted, scheduled = NOTHING, NOTHING
    for proposal in proposals:
        wanted |= proposal.floor
        if proposal.policy is PolicyName.SCHEDULE:
            scheduled = proposal.floor
    limits = observation.pool.limits
    wanted, adjustments = _limited(wanted, limits)
    scheduled, _ = _limited(scheduled, limits)
    plan, budget_adjustments = budget.step(state.budget, observation, scheduled, wanted, now)
    adjustments += budget_adjustments
    floor = adjustments[-1].after if adjustments else wanted
    reason, detail, follows_demand = _because(floor, proposals, adjustments)
    decision = Decision(
        floor=floor,
        reason=reason,
        detail=detail,
        until=_until(proposals, adjustments, now),
        decide_again=plan.exhausted_at if limits.budget else None,
        follows_demand=follows_demand,
        proposals=tuple(proposals),
        adjustments=adjustments,
        missing=tuple(dict.fromkeys(name for proposal in proposals for name in proposal.missing)),
    )
    return PolicyStates(tuple(states), plan), decision


def _limited(floor: Floor, limits: Limits) -> tuple[Floor, tuple[Adjustment, ...]]:
    adjustments: list[Adjustment] = []
    if floor.replicas < limits.min:
        raised = floor | Floor.of(limits.min)
        adjustments.append(
            Adjustment(AdjustmentRule.MIN, floor, raised, f"The pool's minimum is {limits.min}.")
        )
        floor = raised
    if limits.max is not None and floor.replicas > limits.max:
        lowered = floor.at_most(limits.max)
        adjustments.append(
            Adjustment(AdjustmentRule.MAX, floor, lowered, f"The pool's maximum is {limits.max}.")
        )
        floor = lowered
    return floor, tuple(adjustments)


def _because(
    floor: Floor, proposals: list[Proposal], adjustments: tuple[Adjustment, ...]
) -> tuple[str, str, bool]:
    """Reason, sentence, and whether the end of the floor moves with demand.

    The last adjustment decides, else the first policy that proposed this floor.
    """
    if adjustments:
        return adjustments[-1].rule, adjustments[-1].detail, False
    if floor == NOTHING:
        # No policy proposes anything: the schedule's reason is the most telling (closed, or an exception).
        asked = next((proposal for proposal in proposals if proposal.policy is PolicyName.SCHEDULE), None)
        return (asked.reason, asked.detail, False) if asked else ("none", "", False)
    behind = [proposal for proposal in proposals if proposal.floor.replicas == floor.replicas][:1]
    behind = behind or [proposal for proposal in proposals if proposal.floor != NOTHING]
    return (
        "+".join(proposal.reason for proposal in behind),
        " ".join(proposal.detail for proposal in behind),
        any(proposal.follows_demand for proposal in behind),
    )


def _until(proposals: list[Proposal], adjustments: tuple[Adjustment, ...], now: datetime) -> datetime | None:
    """The first instant at which the floor may change.

    Every change of the schedule counts, because it may raise the floor. The end of another proposal counts
    only if the remaining ones propose less.
    """
    instants = [adjustment.until for adjustment in adjustments]
    for proposal in proposals:
        rest = NOTHING
        for other in proposals:
            if other is not proposal:
                rest |= other.floor
        if proposal.policy is PolicyName.SCHEDULE or rest | proposal.floor != rest:
            instants.append(proposal.until)
    ahead = [instant for instant in instants if instant is not None and instant > now]
    return min(ahead, default=None)
