"""Backlog: messages that wait in a queue are demand that an autoscaler of requests does not see."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from warmpool.domain.decision import PolicyName, Proposal
from warmpool.domain.field_types import MAX_REPLICAS
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import Observation

STALE_AFTER: Final = timedelta(minutes=10)
"""How long the last reading is used when the queue cannot be read."""


@dataclass(frozen=True, slots=True)
class BacklogState:
    """The last backlog and when it was read."""

    waiting: int = 0
    read_at: datetime | None = None


def initial() -> BacklogState:
    """The state before the first reading."""
    return BacklogState()


def step(state: BacklogState, observation: Observation, now: datetime) -> tuple[BacklogState, Proposal]:
    """Propose enough replicas to take every waiting message at once; the limits bound them."""
    demand = observation.demand
    waiting = demand.backlog if demand is not None else None
    missing: tuple[str, ...] = ()
    until: datetime | None = None
    fresh = state.read_at is not None and state.read_at <= now < state.read_at + STALE_AFTER
    unreadable = demand.unreadable_backlog if demand is not None else None
    missing_reading = f"backlog ({unreadable})" if unreadable else "backlog"
    if waiting is not None:
        state = replace(state, waiting=waiting, read_at=now)
        missing = (missing_reading,) if unreadable else ()
    elif (
        fresh or observation.backlog_expected or unreadable
    ):  # a queue that was there a moment ago will be back
        missing = (missing_reading,)
        waiting = state.waiting if fresh else 0
        until = state.read_at + STALE_AFTER if fresh and state.read_at is not None else None
    else:
        return state, Proposal(PolicyName.BACKLOG, NOTHING, "backlog/none", "No queue feeds this Service.")
    if waiting <= 0:
        text = "The queue cannot be read." if missing else "The queue is empty."
        return state, Proposal(PolicyName.BACKLOG, NOTHING, "backlog/empty", text, missing=missing)
    replicas = min(math.ceil(waiting / observation.requests_per_replica), MAX_REPLICAS)
    stale = ", as last read" if until else ""
    text = (
        f"{waiting} messages wait{stale}; a replica takes {observation.requests_per_replica:g} at a time, "
        f"so {replicas} are asked for."
    )
    return state, Proposal(
        PolicyName.BACKLOG, Floor.of(replicas), "backlog", text, until, missing=missing, follows_demand=True
    )
