"""Keep-alive: hold the last replica for a while after the last request.

`auto` is the break-even time of the ski-rental problem: keeping a replica idle for T costs g*T, losing it
costs a cold start, K = g*L + beta (GPU price g, cold-start time L, price beta of one user-visible cold
start), so T* = K/g = L + beta/g. Its cost is at most twice that of a policy that knows the next arrival.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from warmpool.domain.decision import PolicyName, Proposal
from warmpool.domain.duration import format_duration
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import DEFAULT_LEAD, Demand, Observation
from warmpool.policy.formatting import format_instant

STALE_AFTER: Final = timedelta(hours=1)
"""How long a replica is held after the last reading when demand cannot be read."""
UNPRICED: Final = timedelta(minutes=5)
"""Keep-alive time where no price is known: the order of magnitude of break-even times of priced GPUs."""
LONGEST: Final = timedelta(hours=4)


@dataclass(frozen=True, slots=True)
class KeepAliveState:
    """The latest request, and when demand was last read."""

    last_active: datetime | None = None
    read_at: datetime | None = None
    asked: bool = False


def initial() -> KeepAliveState:
    """The state before the first reading."""
    return KeepAliveState()


def break_even(observation: Observation) -> timedelta:
    """T* = L + beta/g, at least a second and at most `LONGEST`."""
    start = observation.cold_start or DEFAULT_LEAD
    price = observation.price
    if price is None or not price.per_second:
        return UNPRICED
    worth = timedelta(seconds=float(price.cold_start_penalty / price.per_second))
    return min(max(start + worth, timedelta(seconds=1)), LONGEST)


def step(state: KeepAliveState, observation: Observation, now: datetime) -> tuple[KeepAliveState, Proposal]:
    """Propose one replica while the last request is younger than the keep-alive time."""
    wanted = observation.pool.keep_alive
    if wanted is None:
        return state, Proposal(
            PolicyName.KEEP_ALIVE, NOTHING, "keep-alive/off", "The pool has no keep-alive."
        )
    demand = observation.demand
    if demand is None or demand.concurrency is None:
        return _without_reading(state, now, observation)
    last = now if demand.concurrency > 0 else demand.last_active
    if state.last_active is not None and state.last_active <= now:
        last = max(last, state.last_active) if last else state.last_active
    state = replace(state, last_active=last, read_at=now)
    span = wanted if isinstance(wanted, timedelta) else break_even(observation)
    kind = "break-even time" if wanted == "auto" else "keep-alive"
    missing = _unreadable(demand)
    if last is None or now >= last + span:
        text = f"No request for {format_duration(span)} ({kind})." if last else "No request yet."
        return replace(state, asked=False), Proposal(
            PolicyName.KEEP_ALIVE, NOTHING, "keep-alive/over", text, missing=missing
        )
    until = last + span
    text = (
        f"Last request at {format_instant(last, now, observation.pool.zone)}; the last replica is kept for "
        f"{format_duration(span)} ({kind})."
    )
    return replace(state, asked=True), Proposal(
        PolicyName.KEEP_ALIVE, Floor.of(1), "keep-alive", text, until, missing=missing, follows_demand=True
    )


def _unreadable(demand: Demand) -> tuple[str, ...]:
    """The series of demand that cannot be read."""
    series = (("demand", demand.unreadable_concurrency), ("arrivals", demand.unreadable_arrivals))
    return tuple(f"{name} ({text})" for name, text in series if text)


def _without_reading(
    state: KeepAliveState, now: datetime, observation: Observation
) -> tuple[KeepAliveState, Proposal]:
    """Hold what was held at the last reading, for a limited time."""
    missing = (observation.demand and _unreadable(observation.demand)) or ("demand",)
    since = state.read_at
    if state.asked and since is not None and since <= now < since + STALE_AFTER:
        text = (
            f"Demand cannot be read since {format_instant(since, now, observation.pool.zone)}; the last "
            f"replica is held for at most {format_duration(STALE_AFTER)} after that."
        )
        return state, Proposal(
            PolicyName.KEEP_ALIVE,
            Floor.of(1),
            "keep-alive/no-reading",
            text,
            since + STALE_AFTER,
            missing=missing,
        )
    text = "Demand cannot be read; no replica is kept alive."
    return replace(state, asked=False), Proposal(
        PolicyName.KEEP_ALIVE, NOTHING, "keep-alive/no-reading", text, missing=missing
    )
