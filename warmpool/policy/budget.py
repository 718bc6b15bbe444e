"""Budget: lowers the floor so that it does not cost more than the budget of the period.

The least valuable part goes first:

1. what the schedule does not ask for (keep-alive, backlog, forecast, signals, an operator's hold), once the
   schedule needs what is left until the end of the period;
2. warmth, from hot to asleep to standby, where less warm replicas are cheaper;
3. replicas, from the highest floor down, so that one replica is held for as long as possible;
4. the whole floor, when the budget is spent, until the next period begins.

Requests scale the Service as ever, from zero and beyond the floor: a budget limits the floor alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from warmpool.domain.budget_period import budget_period
from warmpool.domain.cost import ReplicaPrice
from warmpool.domain.decision import Adjustment, AdjustmentRule
from warmpool.domain.field_types import WARMTHS, Warmth
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import Observation
from warmpool.domain.pool import Budget, WarmPoolTemplate
from warmpool.domain.timeline import Segment, timeline
from warmpool.policy.formatting import format_instant

NEAR: Final = timedelta(hours=36)
"""How far ahead the schedule is kept segment by segment."""
RECHECK: Final = timedelta(minutes=10)
"""How long a plan for the rest of the period is used."""

FloorSeconds = Sequence[tuple[Floor, Decimal]]
"""Floors, each with the seconds for which the schedule asks for it."""


@dataclass(frozen=True, slots=True)
class RemainingSchedule:
    """What the schedule asks for until the period ends: the near part by segments, the rest as totals."""

    near: tuple[Segment, ...]
    later: FloorSeconds
    until: datetime
    """The end of the near part; the schedule is worked out again then."""

    def after(self, now: datetime) -> FloorSeconds:
        """The part of it after `now`."""
        near = [
            (segment.floor, _seconds(segment.end - max(segment.start, now)))
            for segment in self.near
            if segment.end > now
        ]
        return [*near, *self.later]


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """What the rest of the period can afford."""

    reserve: Decimal
    """What the schedule will cost until the period ends, at the warmth and replicas below."""
    warmth: Warmth = "hot"
    replicas: int | None = None
    """The most replicas that the schedule may hold; None: as many as it asks for."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """The plan in use, what it was made for, and what the schedule asks for until the period ends."""

    pool: WarmPoolTemplate | None = None
    lead: timedelta = timedelta(0)
    price: ReplicaPrice | None = None
    made_at: datetime | None = None
    ends: datetime | None = None
    remaining: RemainingSchedule | None = None
    plan: BudgetPlan | None = None
    exhausted_at: datetime | None = None
    """When the budget will be spent at the price of the floor that was proposed last."""


def initial() -> BudgetState:
    """The state before the first decision."""
    return BudgetState()


def step(
    state: BudgetState, observation: Observation, scheduled: Floor, wanted: Floor, now: datetime
) -> tuple[BudgetState, tuple[Adjustment, ...]]:
    """The adjustments of `wanted`, of which the schedule (with the lower limit) asks for `scheduled`."""
    budget = observation.pool.limits.budget
    if budget is None:
        return state, ()
    _, ends = budget_period(now, budget.period, observation.pool.zone)
    price = observation.price
    if price is None or observation.spent is None or price.currency != budget.currency:
        return state, _uncountable(observation, budget, wanted)
    left = budget.amount - observation.spent
    # What is held in all Revisions at present is paid for until Knative has stopped it.
    rate = price.rate(wanted | observation.charged)
    if left <= rate * _seconds(observation.drain):
        text = (
            f"{_money(observation.spent, budget)} of {_money(budget.amount, budget)} are spent; no floor "
            f"until {format_instant(ends, now, observation.pool.zone)}. Requests still start replicas."
        )
        adjustment = Adjustment(AdjustmentRule.EXHAUSTED, wanted, NOTHING, text, ends)
        return replace(state, exhausted_at=None), (adjustment,) if wanted != NOTHING else ()
    state = _planned(state, observation, price=price, left=left, ends=ends, now=now)
    state = replace(state, exhausted_at=_exhausted_at(left, rate, observation.drain, now))
    assert state.plan is not None
    return state, _apply(
        state.plan, price=price, budget=budget, left=left, scheduled=scheduled, wanted=wanted, now=now
    )


def projected(state: BudgetState, observation: Observation, now: datetime) -> Decimal | None:
    """What the period will have cost at its end by the schedule alone; None when that cannot be known."""
    if observation.price is None or observation.spent is None or state.made_at is None:
        return None
    plan = state.plan or BudgetPlan(Decimal(0))
    return observation.spent + _cost(
        state.remaining.after(now) if state.remaining else (),
        observation.price,
        observation.pool.limits.min,
        plan.warmth,
        plan.replicas,
    )


def _exhausted_at(left: Decimal, rate: Decimal, drain: timedelta, now: datetime) -> datetime | None:
    """When `left` is spent at that rate, less the time replicas take to stop; None: not within a year."""
    if not rate:
        return None
    seconds = float(left / rate) - drain.total_seconds()
    return now + timedelta(seconds=max(1.0, seconds)) if seconds < 366 * 86_400 else None


def _uncountable(observation: Observation, budget: Budget, wanted: Floor) -> tuple[Adjustment, ...]:
    """No floor at all while it is unknown what it costs."""
    if wanted == NOTHING:
        return ()
    price = observation.price
    if price is None:
        why = "the Service's GPU has no price"
    elif price.currency != budget.currency:
        why = f"the prices are in {price.currency}, the budget in {budget.currency}"
    else:
        why = "what was spent so far is not known"
    return (
        Adjustment(
            AdjustmentRule.UNCOUNTABLE, wanted, NOTHING, f"No floor: {why}, so the budget cannot be kept."
        ),
    )


def _planned(
    state: BudgetState,
    observation: Observation,
    *,
    price: ReplicaPrice,
    left: Decimal,
    ends: datetime,
    now: datetime,
) -> BudgetState:
    """The state with a current plan: the same one while it is recent and nothing has changed."""
    same = (
        state.pool is observation.pool
        and state.lead == observation.lead
        and state.price == price
        and state.ends == ends
        and state.made_at is not None
        and state.made_at <= now
    )
    if same and state.made_at is not None and now < state.made_at + RECHECK:
        return state
    remaining = state.remaining if same else None
    if remaining is None or now >= remaining.until:
        remaining = _remaining(timeline(observation.pool, observation.lead, now, ends), min(now + NEAR, ends))
    plan = _plan(remaining.after(now), price, observation.pool.limits.min, left)
    return BudgetState(observation.pool, observation.lead, price, now, ends, remaining, plan)


def _remaining(segments: Iterable[Segment], until: datetime) -> RemainingSchedule:
    near: list[Segment] = []
    later: dict[Floor, Decimal] = {}
    for segment in segments:
        if segment.start < until:
            near.append(replace(segment, end=min(segment.end, until)))
        rest = _seconds(segment.end - max(segment.start, until))
        if rest > 0:
            later[segment.floor] = later.get(segment.floor, Decimal(0)) + rest
    return RemainingSchedule(tuple(near), tuple(later.items()), until)


def _plan(schedule: FloorSeconds, price: ReplicaPrice, least: int, left: Decimal) -> BudgetPlan:
    """The first of these that `left` pays for: the whole schedule, less warm, with fewer replicas."""
    cheapest: Warmth = "hot"
    for warmth in WARMTHS:
        if price.share(warmth) < price.share(cheapest) or warmth == "hot":
            cheapest = warmth
            cost = _cost(schedule, price, least, warmth, None)
            if cost <= left:
                return BudgetPlan(cost, warmth)
    highest = max((floor.replicas for floor, _ in schedule), default=0)
    for replicas in range(max(highest, least) - 1, 1, -1):
        cost = _cost(schedule, price, least, cheapest, replicas)
        if cost <= left:
            return BudgetPlan(cost, cheapest, replicas)
    return BudgetPlan(left, cheapest, 1)


def _cost(
    schedule: FloorSeconds, price: ReplicaPrice, least: int, warmth: Warmth, replicas: int | None
) -> Decimal:
    total = Decimal(0)
    for asked, seconds in schedule:
        floor = _fit(asked | Floor.of(least), warmth, replicas)
        total += price.rate(floor) * seconds
    return total


def _apply(
    plan: BudgetPlan,
    *,
    price: ReplicaPrice,
    budget: Budget,
    left: Decimal,
    scheduled: Floor,
    wanted: Floor,
    now: datetime,
) -> tuple[Adjustment, ...]:
    adjustments: list[Adjustment] = []
    floor = wanted
    kept = f"{_money(left, budget)} are left and the schedule still needs {_money(plan.reserve, budget)}"
    extra = (price.rate(wanted) - price.rate(scheduled)) * _seconds(RECHECK)
    if wanted != scheduled and extra > left - plan.reserve:
        text = f"{kept}: keep-alive, backlog, forecast, signals and holds are left out."
        adjustments.append(Adjustment(AdjustmentRule.EXTRAS, floor, scheduled, text))
        floor = scheduled
    if plan.warmth != "hot" and floor.no_warmer_than(plan.warmth) != floor:
        lower = floor.no_warmer_than(plan.warmth)
        text = f"{kept} with nothing warmer than {plan.warmth}: replicas are kept {plan.warmth}."
        adjustments.append(Adjustment(AdjustmentRule.WARMTH, floor, lower, text))
        floor = lower
    if plan.replicas is not None and floor.replicas > plan.replicas:
        lower = floor.at_most(plan.replicas)
        text = f"{kept} with {plan.replicas} instead of {floor.replicas} replicas."
        ends = now + timedelta(seconds=float(left / price.rate(lower))) if price.rate(lower) else None
        adjustments.append(Adjustment(AdjustmentRule.REPLICAS, floor, lower, text, ends))
    return tuple(adjustments)


def _fit(floor: Floor, warmth: Warmth, replicas: int | None) -> Floor:
    fitted = floor.no_warmer_than(warmth)
    return fitted if replicas is None else fitted.at_most(replicas)


def _seconds(span: timedelta) -> Decimal:
    return Decimal(str(span.total_seconds()))


def _money(amount: Decimal, budget: Budget) -> str:
    return f"{amount:.2f} {budget.currency}"
