"""The whole decision about one pool: the highest of what the policies ask, cut by limits, then by budget.

The order of `POLICIES` only decides whose reason is named first when two ask for the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from warmpool.domain.decision import DISABLED, Ask, Cut, CutRule, Decision, PolicyName
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import Observation
from warmpool.domain.pool import Limits
from warmpool.policy import backlog, budget, hold, keepalive, schedule

Step = Callable[[Any, Observation, datetime], tuple[Any, Ask]]


@dataclass(frozen=True, slots=True)
class Policy:
    """One voice in the decision: a pure step and the state it starts with."""

    name: PolicyName
    initial: Callable[[], Any]
    step: Step


POLICIES: Final = (
    Policy(PolicyName.HOLD, hold.initial, hold.step),  # a person's word is named before a rule's
    Policy(PolicyName.SCHEDULE, schedule.initial, schedule.step),
    Policy(PolicyName.BACKLOG, backlog.initial, backlog.step),
    Policy(PolicyName.KEEP_ALIVE, keepalive.initial, keepalive.step),
)


@dataclass(frozen=True, slots=True)
class PolicyStates:
    """What each policy remembers, in the order of the policies, and the budget's plan."""

    policies: tuple[Any, ...]
    budget: budget.BudgetState


def initial(policies: tuple[Policy, ...] = POLICIES) -> PolicyStates:
    """The state of a pool that was never decided about."""
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
    states, asks = [], []
    for policy, remembered in zip(policies, state.policies, strict=True):
        new, ask = policy.step(remembered, observation, now)
        states.append(new)
        asks.append(ask)
    wanted, scheduled = NOTHING, NOTHING
    for ask in asks:
        wanted |= ask.floor
        if ask.policy is PolicyName.SCHEDULE:
            scheduled = ask.floor
    limits = observation.pool.limits
    wanted, cuts = _limited(wanted, limits)
    scheduled, _ = _limited(scheduled, limits)
    plan, cut_by_budget = budget.step(state.budget, observation, scheduled, wanted, now)
    cuts += cut_by_budget
    floor = cuts[-1].after if cuts else wanted
    reason, detail, follows_demand = _because(floor, asks, cuts)
    decision = Decision(
        floor=floor,
        reason=reason,
        detail=detail,
        until=_until(asks, cuts, now),
        decide_again=plan.look if limits.budget else None,
        follows_demand=follows_demand,
        asks=tuple(asks),
        cuts=cuts,
        missing=tuple(dict.fromkeys(name for ask in asks for name in ask.missing)),
    )
    return PolicyStates(tuple(states), plan), decision


def _limited(floor: Floor, limits: Limits) -> tuple[Floor, tuple[Cut, ...]]:
    cuts: list[Cut] = []
    if floor.replicas < limits.min:
        raised = floor | Floor.of(limits.min)
        cuts.append(Cut(CutRule.MIN, floor, raised, f"The pool's minimum is {limits.min}."))
        floor = raised
    if limits.max is not None and floor.replicas > limits.max:
        lowered = floor.at_most(limits.max)
        cuts.append(Cut(CutRule.MAX, floor, lowered, f"The pool's maximum is {limits.max}."))
        floor = lowered
    return floor, tuple(cuts)


def _because(floor: Floor, asks: list[Ask], cuts: tuple[Cut, ...]) -> tuple[str, str, bool]:
    """Reason, sentence, and whether the end of the floor moves with demand.

    The last cut decides, else the first policy that asked for this floor.
    """
    if cuts:
        return cuts[-1].rule, cuts[-1].detail, False
    if floor == NOTHING:
        # Nothing is asked for: the schedule's reason says most (closed, or an exception).
        asked = next((ask for ask in asks if ask.policy is PolicyName.SCHEDULE), None)
        return (asked.reason, asked.detail, False) if asked else ("none", "", False)
    behind = [ask for ask in asks if ask.floor.replicas == floor.replicas][:1]
    behind = behind or [ask for ask in asks if ask.floor != NOTHING]
    return (
        "+".join(ask.reason for ask in behind),
        " ".join(ask.detail for ask in behind),
        any(ask.follows_demand for ask in behind),
    )


def _until(asks: list[Ask], cuts: tuple[Cut, ...], now: datetime) -> datetime | None:
    """The first instant at which the floor may be another.

    Every schedule edge counts, because it may raise; the end of another ask counts if the rest asks for less.
    """
    instants = [cut.until for cut in cuts]
    for ask in asks:
        rest = NOTHING
        for other in asks:
            if other is not ask:
                rest |= other.floor
        if ask.policy is PolicyName.SCHEDULE or rest | ask.floor != rest:
            instants.append(ask.until)
    ahead = [instant for instant in instants if instant is not None and instant > now]
    return min(ahead, default=None)
