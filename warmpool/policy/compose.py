"""The whole decision about one pool: the highest of what the policies ask, cut by limits, then by budget.

The order of `POLICIES` only decides whose reason is named first when two ask for the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from warmpool.domain.decision import DISABLED, Ask, Cut, Decision
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import Observation
from warmpool.domain.pool import Limits
from warmpool.policy import backlog, budget, hold, keepalive, schedule

Step = Callable[[Any, Observation, datetime], tuple[Any, Ask]]


@dataclass(frozen=True, slots=True)
class Policy:
    """One voice in the decision: a pure step and the state it starts with."""

    name: str
    initial: Callable[[], Any]
    step: Step


POLICIES: Final = (
    Policy("hold", hold.initial, hold.step),  # a person's word is named before a rule's
    Policy("schedule", schedule.initial, schedule.step),
    Policy("backlog", backlog.initial, backlog.step),
    Policy("keep-alive", keepalive.initial, keepalive.step),
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
        if ask.policy == "schedule":
            scheduled = ask.floor
    limits = observation.pool.limits
    wanted, cuts = _limited(wanted, limits)
    scheduled, _ = _limited(scheduled, limits)
    plan, cut_by_budget = budget.step(state.budget, observation, scheduled, wanted, now)
    cuts += cut_by_budget
    floor = cuts[-1].after if cuts else wanted
    decision = Decision(
        floor=floor,
        reason=_reason(floor, asks, cuts),
        until=_until(asks, cuts, now),
        look=plan.look if limits.budget else None,
        asks=tuple(asks),
        cuts=cuts,
        missing=tuple(dict.fromkeys(name for ask in asks for name in ask.missing)),
    )
    return PolicyStates(tuple(states), plan), decision


def _limited(floor: Floor, limits: Limits) -> tuple[Floor, tuple[Cut, ...]]:
    cuts: list[Cut] = []
    if floor.replicas < limits.min:
        raised = floor | Floor.of(limits.min)
        cuts.append(Cut("limits/min", floor, raised, f"The pool's minimum is {limits.min}."))
        floor = raised
    if limits.max is not None and floor.replicas > limits.max:
        lowered = floor.at_most(limits.max)
        cuts.append(Cut("limits/max", floor, lowered, f"The pool's maximum is {limits.max}."))
        floor = lowered
    return floor, tuple(cuts)


def _reason(floor: Floor, asks: list[Ask], cuts: tuple[Cut, ...]) -> str:
    """The last cut that changed something, else the first policy that asked for this floor."""
    if cuts:
        return cuts[-1].rule
    if floor == NOTHING:
        # Nothing is asked: the schedule's reason says most (closed, or an exception).
        return next((ask.reason for ask in asks if ask.policy == "schedule"), "none")
    behind = [ask for ask in asks if ask.floor.replicas == floor.replicas]
    return behind[0].reason if behind else "+".join(ask.reason for ask in asks if ask.floor != NOTHING)


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
        if ask.policy == "schedule" or rest | ask.floor != rest:
            instants.append(ask.until)
    ahead = [instant for instant in instants if instant is not None and instant > now]
    return min(ahead, default=None)
