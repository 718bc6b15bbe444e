"""Forecast: hold the replicas that are likely to be needed again before keeping them costs more than a start.

The floor follows `hazard`, for the rate of cold starts, the price of one or the p95 TTFT that the pool names.
Of a p95, one request in twenty may be above: those are the cold starts that take longer. It only keeps
replicas that demand has brought: it never starts any ahead, which is what windows are for. Until it has seen
enough requests it holds the last replica for the break-even time, and says that it is learning. What it has
learned is lost when the controller restarts.

Demand is read every few seconds as an average, so the seconds in between are taken as alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import NormalDist
from typing import Final

import numpy as np

from warmpool.domain.decision import PolicyName, Proposal
from warmpool.domain.duration import format_duration
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import DEFAULT_LEAD, Demand, Observation
from warmpool.domain.pool import Forecast, ForecastObjective
from warmpool.policy import hazard, keep_alive

LEAST_REQUESTS: Final = 50.0
"""Requests, discounted by their age, before the forecast is followed."""
STALE_AFTER: Final = timedelta(minutes=5)
"""How long the last floor is held when demand cannot be read."""
HOLDS_FOR: Final = timedelta(minutes=10)
"""How long a floor holds unless it is renewed, so that it goes when the controller does."""
_TTFT_TAIL: Final = 0.05
"""The share of requests above their p95."""
CAPACITY: Final = 64
"""The highest floor of a pool without `limits.max`, and of any pool."""
_MOST_TICKS: Final = 900
"""Seconds that are worked out in one step; a longer absence counts as this one."""


@dataclass(frozen=True, slots=True, eq=False)
class ForecastState:
    """What was learned. The arrays are those of `hazard`; no step changes those of the state before."""

    forecast: Forecast | None = None
    at: datetime | None = None
    read_at: datetime | None = None
    scalars: hazard.Array | None = None
    levels: hazard.Array | None = None
    spells: hazard.Array | None = None
    shadows: hazard.Array | None = None
    requests: float = 0.0
    last_active: datetime | None = None
    held: int = 0


_NOTHING_LEARNED: Final = ForecastState()


def initial() -> ForecastState:
    """Nothing learned yet."""
    return _NOTHING_LEARNED


def step(state: ForecastState, observation: Observation, now: datetime) -> tuple[ForecastState, Proposal]:
    """Learn from the demand since the last step, and propose the floor that is worth holding."""
    wanted = observation.pool.forecast
    if wanted is None:
        return initial(), _proposal(0, "forecast/off", "The pool has no forecast.")
    if state.forecast != wanted or state.at is None or state.at > now:
        state = _fresh(wanted, now)
    demand = observation.demand
    if demand is None or demand.concurrency is None:
        return _without_reading(state, now)
    state = _learned(state, observation, demand, demand.concurrency, now)
    if state.requests < LEAST_REQUESTS:
        return _learning(state, observation, now)
    return _forecast(state, observation, wanted, demand.concurrency, now)


def _fresh(wanted: Forecast, now: datetime) -> ForecastState:
    scalars, levels, spells = hazard.new_state(CAPACITY)
    objective = wanted.objective
    target = _TTFT_TAIL if objective.ttft_p95 is not None else objective.cold_start_rate
    shadows = hazard.new_shadows(0.01 if target is None else target)
    return ForecastState(wanted, now, None, scalars, levels, spells, shadows)


def _replicas(concurrency: float, observation: Observation) -> int:
    return min(CAPACITY, math.ceil(round(concurrency / observation.requests_per_replica, 6)))


def _learned(
    state: ForecastState, observation: Observation, demand: Demand, concurrency: float, now: datetime
) -> ForecastState:
    """The state after the seconds since the last reading."""
    assert state.at is not None
    assert state.scalars is not None
    assert state.levels is not None
    assert state.spells is not None
    assert state.shadows is not None
    seconds = min(_MOST_TICKS, int((now - state.at).total_seconds() / hazard.TICK_S))
    scalars, levels, spells, shadows = (
        np.copy(array) for array in (state.scalars, state.levels, state.spells, state.shadows)
    )
    running = _replicas(concurrency, observation)
    # A source that counts no arrivals leaves only what must have arrived: what runs.
    arrived = concurrency if demand.arrivals is None else demand.arrivals
    each = arrived / seconds if seconds else 0.0
    for _ in range(seconds):
        known = int(scalars[hazard.HIGHEST])
        hazard.count_shadows(shadows, running, each, known)
        hazard.tick(scalars, levels, spells, running, running, each)
    decay = 0.5 ** (seconds * hazard.TICK_S / (24 * hazard.HALF_LIFE_S))
    active = now if concurrency > 0 else demand.last_active
    if state.last_active is not None:
        active = max(active, state.last_active) if active else state.last_active
    return replace(
        state,
        at=state.at + timedelta(seconds=seconds) if seconds < _MOST_TICKS else now,
        read_at=now,
        scalars=scalars,
        levels=levels,
        spells=spells,
        shadows=shadows,
        requests=state.requests * decay + (arrived if seconds else 0.0),
        last_active=active,
    )


def _learning(
    state: ForecastState, observation: Observation, now: datetime
) -> tuple[ForecastState, Proposal]:
    """The last replica, for the break-even time after the last request."""
    text = f"Learning: {state.requests:.0f} of {LEAST_REQUESTS:.0f} requests seen"
    until = state.last_active and state.last_active + keep_alive.break_even(observation)
    if until is None or until <= now:
        return replace(state, held=0), _proposal(0, "forecast/learning", f"{text}.")
    text += "; until then the last replica is kept for the break-even time."
    return replace(state, held=1), _proposal(1, "forecast/learning", text, until)


def _forecast(
    state: ForecastState, observation: Observation, wanted: Forecast, concurrency: float, now: datetime
) -> tuple[ForecastState, Proposal]:
    assert state.scalars is not None
    assert state.levels is not None
    assert state.spells is not None
    assert state.shadows is not None
    hazards = np.zeros(CAPACITY + 1)
    top = hazard.scores(state.scalars, state.levels, state.spells, hazards)
    running = _replicas(concurrency, observation)
    load_s = (observation.cold_start or DEFAULT_LEAD).total_seconds()
    target, goal = _goal(wanted.objective, observation)
    if target is not None:
        prices = np.array(hazard.PRICES)
        shadows = np.copy(state.shadows)
        hazard.move_shadows(shadows, hazards, top, running, running, load_s, prices)
        state = replace(state, shadows=shadows)
        price = hazard.price_for(shadows, prices, target)
    else:
        assert wanted.objective.cold_start_price is not None
        price = wanted.objective.cold_start_price
    worth = hazard.floor_at(hazards, top, running, load_s, price)
    limit = observation.pool.limits.max
    held = min(worth, max(state.held, running), CAPACITY if limit is None else limit)
    state = replace(state, held=held)
    if not held:
        return state, _proposal(0, "forecast", f"Nothing is likely to be needed soon enough, for {goal}.")
    text = f"{held} likely to be needed again before keeping them costs more than a start, for {goal}."
    return state, _proposal(held, "forecast", text, now + HOLDS_FOR)


def _goal(objective: ForecastObjective, observation: Observation) -> tuple[float | None, str]:
    """The admissible rate of cold starts, None where the objective is a price, and the objective in words."""
    if objective.cold_start_rate is not None:
        rate = objective.cold_start_rate
        return rate, f"at most {_percent(rate)} of the requests cold"
    if objective.cold_start_price is not None:
        return None, f"a cold start worth {objective.cold_start_price:g} GPU-seconds"
    assert objective.ttft_p95 is not None
    limit = objective.ttft_p95
    longer = share_above(limit, observation.cold_start_median, observation.cold_start)
    rate = admissible_rate(limit, observation.cold_start_median, observation.cold_start)
    basis = (
        "of the measured starts" if observation.cold_start is not None else "of starts, none measured yet,"
    )
    return rate, (
        f"a p95 TTFT of at most {format_duration(limit)}: {_percent(longer)} {basis} take longer, so at most "
        f"{_percent(rate)} of the requests may be cold"
    )


def share_above(limit: timedelta, median: timedelta | None, p95: timedelta | None) -> float:
    """The share of cold starts that take longer than `limit`, taken as log-normal; 1 if none is known."""
    if median is None or p95 is None or median <= timedelta(0):
        return 1.0
    spread = math.log(p95 / median) / NormalDist().inv_cdf(0.95) if p95 > median else 0.0
    if not spread:
        return 1.0 if median > limit else 0.0
    return 1 - NormalDist().cdf(math.log(limit / median) / spread)


def admissible_rate(limit: timedelta, median: timedelta | None, p95: timedelta | None) -> float:
    """The rate of cold starts at which one request in twenty waits longer than `limit` for a start."""
    longer = share_above(limit, median, p95)
    return min(1.0, _TTFT_TAIL / longer) if longer else 1.0


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _without_reading(state: ForecastState, now: datetime) -> tuple[ForecastState, Proposal]:
    since = state.read_at
    if state.held and since is not None and now < since + STALE_AFTER:
        text = "Demand cannot be read; the last floor is held for at most five minutes."
        return state, replace(
            _proposal(state.held, "forecast/no-reading", text, since + STALE_AFTER), missing=("demand",)
        )
    text = "Demand cannot be read; nothing is held."
    return replace(state, held=0), replace(_proposal(0, "forecast/no-reading", text), missing=("demand",))


def _proposal(replicas: int, reason: str, detail: str, until: datetime | None = None) -> Proposal:
    floor = Floor.of(replicas) if replicas else NOTHING
    return Proposal(PolicyName.FORECAST, floor, reason, detail, until, follows_demand=bool(replicas))
