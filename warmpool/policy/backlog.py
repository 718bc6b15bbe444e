"""Backlog: messages that wait in a queue are demand that no autoscaler of requests can see."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from warmpool.domain.decision import Ask
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import Observation

BLIND: Final = timedelta(minutes=10)
"""How long the last backlog stands when the queue cannot be read."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The last backlog and when it was read."""

    waiting: int = 0
    read_at: datetime | None = None


def initial() -> Memory:
    """No queue seen."""
    return Memory()


def step(memory: Memory, observation: Observation, now: datetime) -> tuple[Memory, Ask]:
    """Enough replicas to take every waiting message at once; the pool's maximum cuts it."""
    demand = observation.demand
    waiting = demand.backlog if demand is not None else None
    missing: tuple[str, ...] = ()
    until: datetime | None = None
    fresh = memory.read_at is not None and memory.read_at <= now < memory.read_at + BLIND
    if waiting is not None:
        memory = replace(memory, waiting=waiting, read_at=now)
    elif fresh or observation.backlog_expected:  # a queue that was there a moment ago has not gone for good
        missing = ("backlog",)
        waiting = memory.waiting if fresh else 0
        until = memory.read_at + BLIND if fresh and memory.read_at is not None else None
    else:
        return memory, Ask("backlog", NOTHING, "backlog/none", "No queue feeds this Service.")
    if waiting == 0:
        text = "The queue cannot be read." if missing else "The queue is empty."
        return memory, Ask("backlog", NOTHING, "backlog/empty", text, missing=missing)
    replicas = math.ceil(waiting / observation.requests_per_replica)
    stale = ", as last read" if missing else ""
    text = (
        f"{waiting} messages wait{stale}; a replica takes {observation.requests_per_replica:g} at a time, "
        f"so {replicas} are asked for."
    )
    return memory, Ask("backlog", Floor.of(replicas), "backlog", text, until, missing=missing)
