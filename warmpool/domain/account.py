"""The running account of one pool: what its floor has cost in the current budget period, and why.

Only what the floor holds is counted: of the replicas there are, at most as many as the floor. Replicas that
traffic starts beyond it are the service's cost, not the pool's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from warmpool.domain.cost import ReplicaPrice
from warmpool.domain.floor import Floor

LONGEST_GAP: Final = timedelta(minutes=5)
"""A longer time between two readings is not counted in full: nobody saw what was held."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was held at an instant."""

    at: datetime
    floor: Floor
    reason: str
    replicas: int
    """Replicas there were, those starting included."""
    busy: float
    """How many of them served a request; 0 when nobody knows."""
    gpus: int
    price: ReplicaPrice | None


@dataclass(frozen=True, slots=True)
class Account:
    """What has been spent since `since`."""

    since: datetime
    spent: Decimal = Decimal(0)
    by_reason: Mapping[str, Decimal] = field(default_factory=dict)
    idle_gpu_s: float = 0.0
    busy_gpu_s: float = 0.0
    floor_gpu_s: float = 0.0
    last: Reading | None = None

    def read(self, reading: Reading) -> Account:
        """The account after another reading: what stood at the last one is charged until this one."""
        last = self.last
        span = min(max(reading.at - last.at, timedelta(0)), LONGEST_GAP) if last else timedelta(0)
        if last is None or not span:
            return replace(self, last=reading)
        seconds = span.total_seconds()
        held = last.floor.at_most(last.replicas)
        busy = min(last.busy, last.replicas) * last.gpus * seconds
        amount = last.price.rate(held) * Decimal(str(seconds)) if last.price else Decimal(0)
        reasons = dict(self.by_reason)
        if amount:
            reasons[last.reason] = reasons.get(last.reason, Decimal(0)) + amount
        return replace(
            self,
            spent=self.spent + amount,
            by_reason=reasons,
            busy_gpu_s=self.busy_gpu_s + busy,
            idle_gpu_s=self.idle_gpu_s + last.replicas * last.gpus * seconds - busy,
            floor_gpu_s=self.floor_gpu_s + held.replicas * last.gpus * seconds,
            last=reading,
        )

    def until(self, now: datetime) -> Account:
        """The account with what stood at the last reading charged until `now`."""
        return self.read(replace(self.last, at=now)) if self.last else self

    def period(self, since: datetime) -> Account:
        """The account for the period that began at `since`: this one, or a new one."""
        return self if since == self.since else Account(since, last=self.last)
