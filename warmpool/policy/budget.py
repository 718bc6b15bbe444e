"""Budget: a floor degrades before it costs more than it may; service itself is never cut.

What is lost first is what is cheapest to lose:

1. what the schedule does not ask for (keep-alive, backlog, a person's hold), once the rest of the period's
   schedule needs what is left;
2. warmth, hot before asleep before standby, where less warm is cheaper;
3. replicas, from the highest down, so that one is there for as long as possible;
4. everything, when the money is spent, until the next period begins.

Traffic still scales the Service from zero and beyond: a floor is all that a budget takes.
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

DRAIN: Final = timedelta(seconds=90)
"""How long Knative keeps a replica after its floor fell (stable window, grace); it is paid for as well."""
NEAR: Final = timedelta(hours=36)
"""How far ahead the schedule is remembered piece by piece."""
RECHECK: Final = timedelta(minutes=10)
"""How long a plan for the rest of the period stands."""


Spans = Sequence[tuple[Floor, Decimal]]
"""Floors, each with the seconds for which the schedule asks for it."""


@dataclass(frozen=True, slots=True)
class Need:
    """What the schedule asks for until the period ends: the near part piece by piece, the rest added up."""

    near: tuple[Segment, ...]
    later: Spans
    until: datetime
    """The end of the near part; from then on it has to be worked out anew."""
    ends: datetime

    def ahead(self, now: datetime) -> Spans:
        """What of it is yet to come."""
        coming = [
            (piece.floor, _seconds(piece.end - max(piece.start, now)))
            for piece in self.near
            if piece.end > now
        ]
        return [*coming, *self.later]


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """What the rest of the period can afford."""

    reserve: Decimal
    """What the schedule still needs, after warmth and replicas were cut to fit."""
    warmth: Warmth = "hot"
    replicas: int | None = None
    """The most replicas the schedule may have; None: as many as it asks for."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """The plan in force, what it was made for, and what the schedule asks for until the period ends."""

    pool: WarmPoolTemplate | None = None
    lead: timedelta = timedelta(0)
    price: ReplicaPrice | None = None
    made_at: datetime | None = None
    ends: datetime | None = None
    need: Need | None = None
    plan: BudgetPlan | None = None
    look: datetime | None = None
    """When the money may have run out, at the price of the floor that was wanted last."""


def initial() -> BudgetState:
    """No plan."""
    return BudgetState()


def step(
    state: BudgetState, observation: Observation, scheduled: Floor, wanted: Floor, now: datetime
) -> tuple[BudgetState, tuple[Adjustment, ...]]:
    """What must be cut from `wanted`, of which the schedule (with the lower limit) asks for `scheduled`."""
    budget = observation.pool.limits.budget
    if budget is None:
        return state, ()
    _, ends = budget_period(now, budget.period, observation.pool.zone)
    price = observation.price
    if price is None or observation.spent is None or price.currency != budget.currency:
        return state, _uncountable(observation, budget, wanted)
    left = budget.amount - observation.spent
    if left <= price.rate(wanted) * _seconds(DRAIN):
        text = (
            f"{_money(observation.spent, budget)} of {_money(budget.amount, budget)} are spent; no floor "
            f"until {format_instant(ends, now, observation.pool.zone)}. Requests still start replicas."
        )
        adjustment = Adjustment(AdjustmentRule.EXHAUSTED, wanted, NOTHING, text, ends)
        return replace(state, look=None), (adjustment,) if wanted != NOTHING else ()
    state = _planned(state, observation, price=price, left=left, ends=ends, now=now)
    state = replace(state, look=_runs_out(left, price.rate(wanted), now))
    assert state.plan is not None
    return state, _apply(
        state.plan, price=price, budget=budget, left=left, scheduled=scheduled, wanted=wanted, now=now
    )


def projected(state: BudgetState, observation: Observation, now: datetime) -> Decimal | None:
    """What the period will have cost at its end if only the schedule asks; None when that cannot be known."""
    if observation.price is None or observation.spent is None or state.made_at is None:
        return None
    plan = state.plan or BudgetPlan(Decimal(0))
    return observation.spent + _cost(
        state.need.ahead(now) if state.need else (),
        observation.price,
        observation.pool.limits.min,
        plan.warmth,
        plan.replicas,
    )


def _runs_out(left: Decimal, rate: Decimal, now: datetime) -> datetime | None:
    """When what is left is spent at that rate, less the time a replica takes to go; None: not this year."""
    if not rate:
        return None
    seconds = float(left / rate) - DRAIN.total_seconds()
    return now + timedelta(seconds=max(1.0, seconds)) if seconds < 366 * 86_400 else None


def _uncountable(observation: Observation, budget: Budget, wanted: Floor) -> tuple[Adjustment, ...]:
    """A budget nobody can count is not kept by hoping."""
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
    """The state with a plan that is still good, or a new one."""
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
    need = state.need if same else None
    if need is None or now >= need.until:
        need = _need(timeline(observation.pool, observation.lead, now, ends), min(now + NEAR, ends), ends)
    plan = _plan(need.ahead(now), price, observation.pool.limits.min, left)
    return BudgetState(observation.pool, observation.lead, price, now, ends, need, plan)


def _need(segments: Iterable[Segment], until: datetime, ends: datetime) -> Need:
    near: list[Segment] = []
    later: dict[Floor, Decimal] = {}
    for piece in segments:
        if piece.start < until:
            near.append(Segment(piece.start, min(piece.end, until), piece.floor, piece.names, piece.opens))
        rest = _seconds(piece.end - max(piece.start, until))
        if rest > 0:
            later[piece.floor] = later.get(piece.floor, Decimal(0)) + rest
    return Need(tuple(near), tuple(later.items()), until, ends)


def _plan(spans: Spans, price: ReplicaPrice, least: int, left: Decimal) -> BudgetPlan:
    """The first of: all of it, less warm, fewer replicas, that fits into what is left."""
    cheapest: Warmth = "hot"
    for warmth in WARMTHS:
        if price.share(warmth) < price.share(cheapest) or warmth == "hot":
            cheapest = warmth
            need = _cost(spans, price, least, warmth, None)
            if need <= left:
                return BudgetPlan(need, warmth)
    highest = max((floor.replicas for floor, _ in spans), default=0)
    for replicas in range(max(highest, least) - 1, 1, -1):
        need = _cost(spans, price, least, cheapest, replicas)
        if need <= left:
            return BudgetPlan(need, cheapest, replicas)
    return BudgetPlan(left, cheapest, 1)


def _cost(spans: Spans, price: ReplicaPrice, least: int, warmth: Warmth, replicas: int | None) -> Decimal:
    total = Decimal(0)
    for asked, seconds in spans:
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
        text = f"{kept}: keep-alive, backlog and holds are left out."
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
