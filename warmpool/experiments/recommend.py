"""A WarmPool for a trace: windows that a person can read first, a forecast only where it buys something.

The first part of the trace chooses among the `candidates`: the cheapest that keeps the objective, or the one
with the fewest cold starts within a budget. On its last week the simulator decides among the best of each
kind, and where its queues leave too many requests cold, the objective is tightened and others are tried. The
days held back judge: what the choice would have cost and how long users would have waited on traffic that it
has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from warmpool.domain.cost import ReplicaPrice
from warmpool.domain.floor import Floor
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.experiments import candidates, levels
from warmpool.experiments.candidates import Candidate
from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.floors import FixedFloor, FloorPolicy, ForecastFloor, PoolFloor, Second
from warmpool.experiments.result import Result
from warmpool.experiments.simulator import Load, Replica, simulate

Floats = npt.NDArray[np.float64]

DAYS_A_MONTH: Final = 30
_DAY_S: Final = 86_400.0
_LEAST_DAYS: Final = 2.0
_TWO_WEEKS: Final = 14 - 3
"""Days from the first request to the last, of which weekends at the end may be free."""
_TAIL: Final = 0.05
"""The share of requests above their p95."""
_GAIN: Final = 0.03
"""What a fixed floor or a forecast has to save over windows to be recommended instead."""
_BUDGET_RATES: Final = (0.005, 0.01, 0.02, 0.05)
"""What a forecast is told where the objective is a budget."""
_ATTEMPTS: Final = 3
_MOST_FIXED: Final = 64
"""The highest fixed floor that is tried."""
_CHECKED_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class Objective:
    """What the pool is to achieve; exactly one is given."""

    cold_start_rate: float | None = None
    """At most this share of the requests waits for a start."""
    ttft_p95_s: float | None = None
    """At most one request in twenty waits longer than this for its first token, s."""
    monthly_budget: float | None = None
    """The Service costs at most this in thirty days, with as few cold starts as that pays for."""

    def __post_init__(self) -> None:
        given = (self.cold_start_rate, self.ttft_p95_s, self.monthly_budget)
        if sum(value is not None for value in given) != 1:
            raise ExperimentError(
                "must have exactly one objective: a rate of cold starts, a p95 TTFT, a budget"
            )

    def __str__(self) -> str:
        if self.cold_start_rate is not None:
            return f"at most {self.cold_start_rate:.3g} of the requests cold"
        if self.ttft_p95_s is not None:
            return f"a p95 TTFT of at most {self.ttft_p95_s:g} s"
        return f"at most {self.monthly_budget:,.2f} a month"


@dataclass(frozen=True, slots=True)
class Judged:
    """What one way to run the pool did on the days held back."""

    name: str
    cold_rate: float
    ttft_p50_s: float
    ttft_p95_s: float
    gpu_s: float
    cost: float
    """For those days."""
    monthly: float
    """The same, for thirty such days."""
    daily_cold_rates: tuple[float, ...]
    """Of each of those days that had requests."""

    def keeps(self, objective: Objective) -> bool:
        """Whether it kept the objective."""
        if objective.cold_start_rate is not None:
            return self.cold_rate <= objective.cold_start_rate
        if objective.ttft_p95_s is not None:
            return self.ttft_p95_s <= objective.ttft_p95_s
        assert objective.monthly_budget is not None
        return self.monthly <= objective.monthly_budget


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The WarmPool to apply, and how it compares.

    Attributes:
        spec: the WarmPool's spec without its target; None: no pool is best.
        objective: what was to be achieved.
        kept: whether the recommendation kept it on the days held back.
        trained_days: days that it was chosen by.
        held_back_days: days that judge it.
        arms: the recommendation first, then today's setting, no pool, and the smallest fixed floor that keeps
            the objective.
        confidence: a sentence on how far to trust it.
        forecast_buys: what the forecast buys over windows alone, as a sentence; empty without one.
    """

    spec: WarmPoolTemplate | None
    objective: Objective
    kept: bool
    trained_days: float
    held_back_days: float
    arms: tuple[Judged, ...]
    confidence: str
    forecast_buys: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Days:
    """A part of the trace, from its own second 0 at `start`."""

    load: Load
    start: datetime
    demand: levels.DemandSeries

    @property
    def days(self) -> float:
        """How long it lasts."""
        return float(self.load.arrivals[-1]) / _DAY_S


def recommend(
    load: Load,
    replica: Replica,
    *,
    start: datetime,
    time_zone: str,
    objective: Objective,
    today: WarmPoolTemplate | None = None,
    currency: str = "USD",
    progress: Callable[[str], None] | None = None,
) -> Recommendation:
    """The WarmPool for a trace.

    Args:
        load: the requests, in seconds since `start`.
        replica: how long it takes to start, what it takes at once, and its price.
        start: the instant of second 0, with an offset.
        time_zone: whose clock the windows follow.
        objective: what the pool is to achieve.
        today: the setting to compare with; None: there is no pool today.
        currency: of the prices.
        progress: told what is being done.

    Raises:
        ExperimentError: the trace is shorter than two days, or no pool can keep the objective.
    """
    told = progress or (lambda _: None)
    past, later = _split(load, start)
    choice = _Choice(past, replica, objective, ZoneInfo(time_zone))
    told("comparing candidates")
    chosen, alternative = choice.best(told)
    arms: list[tuple[str, FloorPolicy]] = [
        ("recommended", _policy(chosen.spec(time_zone), later.start, replica))
    ]
    if today is not None:
        arms.append(("today", _policy(today, later.start, replica)))
    arms.append(("no pool", FixedFloor(0)))
    fixed = choice.fixed(later)
    if fixed is not None and chosen != candidates.everyday(fixed):
        arms.append((f"always {fixed} hot", FixedFloor(fixed)))
    if alternative is not None:
        arms.append(("windows alone", _policy(alternative.spec(time_zone), later.start, replica)))
    judged = []
    for name, policy in arms:
        told(f"simulating the days held back: {name}")
        judged.append(_judge(name, later, policy, replica))
    buys = ""
    if alternative is not None:
        buys = _buys(judged[0], judged.pop(), currency)
    budget: dict[str, Any] | None = None
    if objective.monthly_budget is not None:
        budget = {"amount": objective.monthly_budget, "currency": currency}
    return Recommendation(
        spec=None if chosen.needless else chosen.spec(time_zone, budget),
        objective=objective,
        kept=judged[0].keeps(objective),
        trained_days=past.days,
        held_back_days=later.days,
        arms=tuple(judged),
        confidence=_confidence(judged[0], objective, past.days, later, possible=choice.possible),
        forecast_buys=buys,
    )


def _split(load: Load, start: datetime) -> tuple[_Days, _Days]:
    """The days that choose, and those that judge."""
    days = float(load.arrivals[-1]) / _DAY_S if len(load.arrivals) else 0.0
    if days < _LEAST_DAYS:
        raise ExperimentError(
            f"the trace lasts {days:.2f} days; a recommendation needs at least {_LEAST_DAYS:g}, "
            "of which the last third judges it"
        )
    # Whole weeks are held back where there are two: a month of working days alone would cost too much.
    weeks = max(1, int(days / 3 // 7))
    split = (math.ceil(days) - 7 * weeks if days > _TWO_WEEKS else math.ceil(days * 2 / 3)) * _DAY_S
    if split >= load.arrivals[-1]:
        split = float(load.arrivals[-1]) * 2 / 3
    before = load.arrivals < split
    return _part(load, before, 0.0, start), _part(load, ~before, split, start)


def _part(load: Load, of: npt.NDArray[np.bool_], origin: float, start: datetime) -> _Days:
    part = Load(load.name, load.arrivals[of] - origin, load.service_s[of], load.first_token_s[of])
    begins = start + timedelta(seconds=origin)
    return _Days(part, begins, levels.demand_of(part.arrivals, part.service_s))


class _Choice:
    """Chooses a candidate by the days at the beginning of the trace."""

    def __init__(self, past: _Days, replica: Replica, objective: Objective, zone: ZoneInfo) -> None:
        self._past = past
        self._replica = replica
        self._objective = objective
        self._zone = zone
        self._load_s = replica.cold_starts.p95_s
        self._per_second = replica.hourly * replica.gpus / 3600
        self.possible = True
        """Whether a candidate keeps the objective on these days."""
        if objective.monthly_budget is None:
            self._limit = self._admissible_rate(past.load)
            told = tuple(sorted({min(1.0, self._limit * share) for share in (0.5, 1.0, 2.0)}))
        else:
            self._limit = objective.monthly_budget * past.days / DAYS_A_MONTH
            told = _BUDGET_RATES
        self._candidates = [
            *candidates.from_history(past.demand, past.start, zone, replica.concurrency, told),
            *self._fixed_floors(past),
        ]
        self._simulated: dict[int, Result] = {}
        """Of the last week of these days, by candidate."""
        self._outcome = self._outcome_of(self._candidates, past)

    def _admissible_rate(self, load: Load) -> float:
        """The rate of cold starts that keeps the objective."""
        if self._objective.cold_start_rate is not None:
            return self._objective.cold_start_rate
        limit = self._objective.ttft_p95_s
        assert limit is not None
        slow_warm = float((load.first_token_s > limit).mean())
        slow_cold = float((load.first_token_s + self._load_s > limit).mean())
        if slow_warm > _TAIL:
            warm = float(np.quantile(load.first_token_s, 0.95))
            raise ExperimentError(
                f"a p95 TTFT of {limit:g} s cannot be kept by any pool: that of warm requests is {warm:.2f} s"
            )
        return min(1.0, (_TAIL - slow_warm) / (slow_cold - slow_warm)) if slow_cold > _TAIL else 1.0

    def _outcome_of(self, of: Sequence[Candidate], days: _Days) -> levels.Outcome:
        load = days.load
        return candidates.outcome(
            of,
            load.arrivals,
            load.service_s,
            days.demand,
            days.start,
            self._zone,
            self._load_s,
            self._replica.concurrency,
        )

    def best(self, told: Callable[[str], None]) -> tuple[Candidate, Candidate | None]:
        """The candidate to recommend; with a forecast, also the best one without."""
        limit, recent = self._limit, self._recent()
        for _ in range(_ATTEMPTS):
            finalists = self._finalists(limit)
            for index in finalists:
                if index not in self._simulated:
                    told("checking the choice")
                    policy = _policy(
                        self._candidates[index].spec(self._zone.key), recent.start, self._replica
                    )
                    self._simulated[index] = _simulate(recent.load, policy, self._replica)
            excess = {index: self._excess(self._simulated[index], recent.days) for index in finalists}
            kept = [index for index in finalists if excess[index] <= 1]
            if kept or not self.possible:
                break
            limit /= min(excess.values())
        of = kept or [min(excess, key=lambda index: excess[index])]
        chosen = of[0]
        for index in of[1:]:  # windows first, for a person can read them; another kind has to be worth it
            if self._worth(index)[0] < self._worth(chosen)[0] * (1 - _GAIN):
                chosen = index
        without = next(index for index in finalists if self._candidates[index].forecast is None)
        is_forecast = self._candidates[chosen].forecast is not None
        return self._candidates[chosen], self._candidates[without] if is_forecast else None

    def _finalists(self, limit: float) -> list[int]:
        """The best windows, the best fixed floor, and a forecast where it promises something."""
        kinds = [
            self._pick(limit, lambda candidate: candidate.forecast is None and not candidate.fixed),
            self._pick(limit, lambda candidate: candidate.fixed),
            self._pick(limit, lambda candidate: candidate.forecast is not None),
        ]
        self.possible = any(possible for _, possible in kinds)
        windows, fixed, forecast = kinds
        if windows[1] and not self._promises(forecast[0], windows[0]):
            kinds = [windows, fixed]
        return [index for index, possible in kinds if possible or not self.possible]

    def _worth(self, index: int) -> tuple[float, float]:
        """What is to be as low as possible, in the simulation of the last week."""
        result = self._simulated[index]
        by_cost = (result.cost, result.cold_rate)
        return by_cost if self._objective.monthly_budget is None else (by_cost[1], by_cost[0])

    def _recent(self) -> _Days:
        """The last week of these days, on which the choice is checked."""
        load = self._past.load
        begins = max(0.0, math.floor(self._past.days - _CHECKED_DAYS) * _DAY_S)
        return _part(load, load.arrivals >= begins, begins, self._past.start)

    def _pick(self, limit: float, usable: Callable[[Candidate], bool]) -> tuple[int, bool]:
        """The best of the usable candidates, and whether it keeps the objective."""
        of = np.flatnonzero([usable(candidate) for candidate in self._candidates])
        cold, cost = self._outcome.cold_rate[of], self._outcome.gpu_s[of] * self._per_second
        if self._objective.monthly_budget is None:
            kept, best, nearest = cold <= limit, (cold, cost), int(np.argmin(cold))
        else:
            kept, best, nearest = cost <= limit, (cost, cold), int(np.argmin(cost))
        if not kept.any():
            return int(of[nearest]), False
        return int(of[kept][np.lexsort(tuple(values[kept] for values in best))[0]]), True

    def _promises(self, forecast: int, windows: int) -> bool:
        of = self._outcome.gpu_s if self._objective.monthly_budget is None else self._outcome.cold_rate
        return bool(of[forecast] <= of[windows] * (1 - _GAIN))

    def _excess(self, result: Result, days: float) -> float:
        """How many times the limit the simulated result of some days is at."""
        if self._objective.monthly_budget is not None:
            return result.cost / days * DAYS_A_MONTH / self._objective.monthly_budget
        if self._objective.ttft_p95_s is not None:
            p95 = result.percentile(result.first_token_s, 95) or 0.0
            if p95 <= self._objective.ttft_p95_s:
                return 1.0
            return max(1.25, result.cold_rate / max(self._limit, 1e-9))
        return result.cold_rate / max(self._limit, 1e-9)

    def _fixed_floors(self, days: _Days) -> list[Candidate]:
        most = -(-int(days.demand.peak.max()) // self._replica.concurrency)
        return [candidates.everyday(count) for count in range(1, min(most, _MOST_FIXED) + 1)]

    def fixed(self, later: _Days) -> int | None:
        """The smallest fixed floor that keeps the objective on these days; None if none does."""
        floors = self._fixed_floors(later)
        if not floors:
            return None
        if self._objective.monthly_budget is not None:
            return 1
        rates = self._outcome_of(floors, later).cold_rate
        return next((count for count, rate in enumerate(rates, 1) if rate <= self._limit), None)


class _HighestFloor:
    """A pool with a forecast: that compiled, everything else as the controller decides."""

    def __init__(self, forecast: ForecastFloor, pool: PoolFloor, most: int | None) -> None:
        self._forecast = forecast
        self._pool = pool
        self._most = most
        self.drains = not pool.spec.windows
        self.orders_warmth = pool.orders_warmth

    def observe(self, second: Second, now: float) -> None:
        """Both learn."""
        self._forecast.observe(second, now)
        self._pool.observe(second, now)

    def idle(self, seconds: int) -> int:
        """As long as the forecast stays."""
        return self._pool.idle(self._forecast.idle(seconds))

    def decide(self, now: float) -> tuple[Floor, float]:
        """The higher floor, until either changes."""
        forecast, forecast_until = self._forecast.decide(now)
        pool, pool_until = self._pool.decide(now)
        bounded = forecast if self._most is None else forecast.at_most(self._most)
        return pool | bounded, min(forecast_until, pool_until)


def _policy(spec: WarmPoolTemplate, start: datetime, replica: Replica) -> FloorPolicy:
    """What holds the floor of a pool."""
    load_s = replica.cold_starts.p95_s
    lead = spec.lead_time
    pool = PoolFloor(
        spec.model_copy(update={"forecast": None, "signals": ()}),
        start,
        lead=lead if isinstance(lead, timedelta) else timedelta(seconds=load_s),
        price=ReplicaPrice(
            Decimal(str(replica.hourly)) * replica.gpus / 3600,
            spec.limits.budget.currency if spec.limits.budget else "USD",
        ),
        requests_per_replica=float(replica.concurrency or 100),
    )
    if spec.forecast is None:
        return pool
    objective = spec.forecast.objective
    rate = objective.cold_start_rate
    if objective.ttft_p95 is not None:
        rate = _TAIL if load_s > objective.ttft_p95.total_seconds() else 1.0
    forecast = ForecastFloor(
        load_s, target=rate, price=objective.cold_start_price, concurrency=max(1, replica.concurrency)
    )
    return _HighestFloor(forecast, pool, spec.limits.max)


def _simulate(load: Load, policy: FloorPolicy, replica: Replica) -> Result:
    return simulate(load, replica, policy)


def _judge(name: str, days: _Days, policy: FloorPolicy, replica: Replica) -> Judged:
    result = _simulate(days.load, policy, replica)
    day = (days.load.arrivals // _DAY_S).astype(np.int64)
    return Judged(
        name=name,
        cold_rate=result.cold_rate,
        ttft_p50_s=result.percentile(result.first_token_s, 50) or 0.0,
        ttft_p95_s=result.percentile(result.first_token_s, 95) or 0.0,
        gpu_s=result.gpu_s,
        cost=result.cost,
        monthly=result.cost / days.days * DAYS_A_MONTH,
        daily_cold_rates=tuple(float(result.cold[day == each].mean()) for each in np.unique(day)),
    )


def _buys(chosen: Judged, windows: Judged, currency: str) -> str:
    """What a forecast buys over windows alone on the days held back."""
    saved = windows.monthly - chosen.monthly
    worth = f"saves {saved:,.2f} {currency}" if saved >= 0 else f"costs {-saved:,.2f} {currency} more"
    return (
        f"The forecast {worth} a month over windows alone on the days held back "
        f"({chosen.cold_rate:.2%} cold instead of {windows.cold_rate:.2%})."
    )


def _confidence(
    chosen: Judged, objective: Objective, trained_days: float, later: _Days, *, possible: bool
) -> str:
    requests = len(later.load.arrivals)
    if not possible:
        return (
            f"No candidate kept the objective ({objective}) on the days that it was chosen by; this one came "
            "nearest."
        )
    rate = objective.cold_start_rate
    if rate is not None and rate * requests < 5:
        return (
            f"Weak: the days held back have {requests:,} requests, of which {rate * requests:.1f} may be "
            "cold; a longer trace says more."
        )
    if not chosen.keeps(objective):
        got = {
            True: f"{chosen.cold_rate:.2%} cold",
            objective.ttft_p95_s is not None: f"a p95 TTFT of {chosen.ttft_p95_s:.1f} s",
            objective.monthly_budget is not None: f"{chosen.monthly:,.2f} a month",
        }[True]
        return f"Not kept on the days held back: {got}, not {objective}. " + (
            "Less than a week was there to learn from, so some days of the week were never seen."
            if trained_days < 7
            else "Those days differ from the ones before; look at it again after another week."
        )
    days = len(chosen.daily_cold_rates)
    kept = f"Kept on the days held back, which it had not seen: {requests:,} requests on {days} days"
    if rate is not None and days > 1:
        good = sum(daily <= rate for daily in chosen.daily_cold_rates)
        kept += f", {good} of them by themselves, the worst with {max(chosen.daily_cold_rates):.2%} cold"
    if trained_days < 7:
        return f"{kept}. Less than a week of days was there to learn from."
    return f"{kept}."
