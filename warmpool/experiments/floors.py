"""Floors over virtual time: what an arm of an experiment holds, asked as the controller would be.

`PoolFloor` decides with the controller's own policies and `ForecastFloor` with the hazard floor; neither
sees more than the controller would: the demand of the seconds that have passed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from warmpool.domain.account import Account, AccountReading, RevisionReading
from warmpool.domain.budget_period import budget_period
from warmpool.domain.cost import ReplicaPrice
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import DEFAULT_DRAIN, Demand, Observation
from warmpool.domain.pool import Budget, WarmPoolTemplate
from warmpool.experiments import kernels
from warmpool.policy import compose, hazard
from warmpool.reconcile.warmth_orders import needs_warmth

NEVER: Final = float("inf")
_LOOK_S: Final = 5.0
"""How often a pool whose demand moves is decided about, s."""


class Second(NamedTuple):
    """What was seen of one second of demand."""

    concurrency: float
    """Time-weighted mean of requests in flight, those that wait included."""
    running: int
    """Requests inside at its end."""
    peak: int
    """The most requests inside at once."""
    arrivals: int
    cold: int = 0
    """Requests that got a slot in it after they had waited for a replica to start."""
    replicas: int = 0
    """Replicas that are ready or start at its end."""


_EVIDENCE: Final = 5.0
"""Cold starts that stand for the shadows being right, until there are others."""


class FloorPolicy(Protocol):
    """What an arm holds."""

    @property
    def drains(self) -> bool:
        """Whether the floor follows demand down to zero, so that the end of a trace is charged until then."""

    @property
    def orders_warmth(self) -> bool:
        """Whether replicas are ordered to the warmth of the floor; else they rest as they are configured."""

    def observe(self, second: Second, now: float) -> None:
        """Take in the second that ends at `now` (seconds since the trace began)."""

    def idle(self, seconds: int) -> int:
        """Take in up to so many seconds without any request; returns after how many it must be asked."""

    def decide(self, now: float) -> tuple[Floor, float]:
        """The floor at `now`, and when it may be another without demand and without `idle` saying so."""


@dataclass(slots=True)
class FixedFloor:
    """A floor that never changes: 0 is the pool switched off."""

    replicas: int = 0
    drains: bool = False
    orders_warmth: bool = False
    _floor: Floor = field(init=False)

    def __post_init__(self) -> None:
        self._floor = Floor.of(self.replicas)

    def observe(self, second: Second, now: float) -> None:
        """Nothing is learned."""

    def idle(self, seconds: int) -> int:
        """Nothing is learned."""
        return seconds

    def decide(self, now: float) -> tuple[Floor, float]:  # noqa: ARG002 - the same at every instant
        """The floor; it is the same for ever."""
        return self._floor, NEVER


@dataclass(slots=True)
class PoolFloor:
    """A WarmPool, decided by the controller's own composition of policies.

    Args:
        spec: windows, keep-alive, limits, budget.
        start: the instant at which the trace begins.
        lead: the lead time of its windows.
        price: of one replica; None: it has none.
        requests_per_replica: how many requests one replica takes.
    """

    spec: WarmPoolTemplate
    start: datetime
    lead: timedelta
    price: ReplicaPrice | None = None
    requests_per_replica: float = 1.0
    drains: bool = False
    _states: compose.PolicyStates = field(default_factory=compose.initial)
    _last_active: float | None = None
    _concurrency: float = 0.0
    _arrivals: int = 0
    _floor: Floor = NOTHING
    _again: float = 0.0
    _account: Account | None = None
    _replicas: int = 0

    @property
    def orders_warmth(self) -> bool:
        """Only for pools that want a replica below hot, as in the controller."""
        return needs_warmth(self.spec, self.price)

    def observe(self, second: Second, now: float) -> None:
        """Remember the demand, and when it was last there."""
        self._replicas = second.replicas
        self._concurrency = second.concurrency
        self._arrivals += second.arrivals
        if second.peak:
            self._last_active = now
            self._again = min(self._again, now + _LOOK_S)

    def idle(self, seconds: int) -> int:
        """No demand."""
        self._concurrency = 0.0
        return seconds

    def decide(self, now: float) -> tuple[Floor, float]:
        """The controller's decision, as often as it would be made."""
        if now < self._again:
            return self._floor, self._again
        instant = self.start + timedelta(seconds=now)
        seen = Demand(
            concurrency=self._concurrency,
            last_active=None
            if self._last_active is None
            else self.start + timedelta(seconds=self._last_active),
            arrivals=float(self._arrivals),
        )
        self._arrivals = 0
        observation = Observation(
            pool=self.spec,
            lead=self.lead,
            cold_start=self.lead,
            demand=seen,
            requests_per_replica=self.requests_per_replica,
            price=self.price,
        )
        if self.spec.limits.budget is not None:
            account = self._charge(self.spec.limits.budget, instant)
            charged = account.last.charged if account.last else NOTHING
            observation = replace(observation, spent=account.spent, charged=charged)
        self._states, decision = compose.decide(self._states, observation, instant)
        self._floor = decision.floor
        instants = [at for at in (decision.until, decision.decide_again) if at is not None and at > instant]
        again = min(((at - self.start).total_seconds() for at in instants), default=NEVER)
        moves = self._concurrency or (self.spec.forecast is not None and self._floor.replicas)
        self._again = min(again, now + _LOOK_S) if moves else again
        return self._floor, self._again

    def _charge(self, budget: Budget, instant: datetime) -> Account:
        """The pool's account at an instant, kept as the controller keeps it."""
        since, _ = budget_period(instant, budget.period, self.spec.zone)
        revision = RevisionReading(self._floor, self._replicas, drain=DEFAULT_DRAIN)
        reading = AccountReading(instant, {"revision": revision}, replicas=self._replicas, price=self.price)
        self._account = (self._account or Account(since)).in_period(since).read(reading)
        return self._account


class ForecastFloor:
    """The hazard floor, by price or by target rate of cold starts.

    Args:
        load_s: GPU-seconds that a start costs.
        target: rate of cold starts to keep; or
        price: GPU-seconds that one cold start is worth beyond `load_s`.
        concurrency: requests that one replica takes; demand is counted in replicas.
        capacity: the highest floor that is considered.
    """

    drains = True
    orders_warmth = False

    def __init__(
        self,
        load_s: float,
        *,
        target: float | None = None,
        price: float | None = None,
        concurrency: int = 1,
        capacity: int = 256,
    ) -> None:
        if (target is None) == (price is None):
            raise ValueError("a forecast needs either a target rate of cold starts or a price of one")
        self._load_s = load_s
        self._target = target
        self._price = price
        self._concurrency = max(1, concurrency)
        self._scalars, self._levels, self._spells = hazard.new_state(capacity)
        self._hazards = np.zeros(capacity + 1)
        self._prices = np.array(hazard.PRICES)
        self._shadows = hazard.new_shadows(0.01 if target is None else target)
        self._peak = 0
        self._running = 0
        self._floor = NOTHING
        self._now = self._move_at = 0.0
        self._price_in_force = hazard.PRIOR_PRICE if price is None else price
        self._seen = self._expected = 0.0

    def observe(self, second: Second, now: float) -> None:
        """One tick of demand, in replicas."""
        self._now = now
        before = self._shadow_cold_starts()
        self._running = -(-second.running // self._concurrency)
        self._peak = -(-second.peak // self._concurrency)
        known = int(self._scalars[hazard.HIGHEST])
        kernels.count_shadows(self._shadows, self._peak, second.arrivals, known)
        kernels.tick(self._scalars, self._levels, self._spells, self._running, self._peak, second.arrivals)
        decay = 0.5 ** (hazard.TICK_S / hazard.HALF_LIFE_S)
        self._seen = self._seen * decay + second.cold
        self._expected = self._expected * decay + max(0.0, self._shadow_cold_starts() - before * decay)

    def _shadow_cold_starts(self) -> float:
        """The cold starts that the shadow pool with the price in force has counted."""
        index = int(np.searchsorted(self._prices, self._price_in_force))
        return float(self._shadows[hazard.COLD_STARTS, min(index, len(self._prices) - 1)])

    def _corrected_target(self) -> float:
        """The target, corrected by the cold starts that there really were.

        The shadows suppose that a request without a free replica starts one. Where it waits for a busy
        replica instead, fewer requests are cold than they count, and a lower price keeps the target.
        """
        assert self._target is not None
        share = (self._seen + _EVIDENCE) / (self._expected + _EVIDENCE)
        return min(1.0, self._target / min(1.0, max(0.02, share)))

    def idle(self, seconds: int) -> int:
        """Ticks without demand, until the floor is worth less."""
        self._running = self._peak = 0
        target = 0.0 if self._target is None else self._corrected_target()
        passed, floor, self._price_in_force = kernels.idle_ticks(
            self._scalars,
            self._levels,
            self._spells,
            self._shadows,
            self._hazards,
            self._load_s,
            self._prices,
            target,
            self._price_in_force,
            self._floor.replicas,
            max(1, int(self._move_at - self._now)),
            seconds,
        )
        self._now += passed
        if self._now >= self._move_at:
            self._move_at += (self._now - self._move_at) // hazard.MOVE_TICKS * hazard.MOVE_TICKS
            self._move_at += hazard.MOVE_TICKS
        if floor != self._floor.replicas:
            self._floor = Floor.of(floor)
        decay = 0.5 ** (passed * hazard.TICK_S / hazard.HALF_LIFE_S)
        self._seen *= decay
        self._expected *= decay
        return int(passed)

    def decide(self, now: float) -> tuple[Floor, float]:
        """The floor; it moves every `MOVE_TICKS` seconds."""
        if now >= self._move_at:
            self._move_at = now + hazard.MOVE_TICKS
            top = kernels.scores(self._scalars, self._levels, self._spells, self._hazards)
            if self._price is None:
                kernels.move_shadows(
                    self._shadows, self._hazards, top, self._running, self._peak, self._load_s, self._prices
                )
                self._price_in_force = float(
                    kernels.price_for(self._shadows, self._prices, self._corrected_target())
                )
            wanted = int(kernels.floor_at(self._hazards, top, self._peak, self._load_s, self._price_in_force))
            # A level that demand has not brought cannot be held: it would be a start ahead.
            wanted = min(wanted, max(self._floor.replicas, self._peak))
            if wanted != self._floor.replicas:
                self._floor = Floor.of(wanted)
        return self._floor, NEVER  # `idle` knows when it falls


class SeriesFloor:
    """Floors that were worked out before, one for each `MOVE_TICKS` seconds.

    Args:
        floors: (moves,) replicas; entry m counts from second (m + 1) * MOVE_TICKS on.
        ahead: whether they start replicas before demand comes; else they keep what demand has brought.
        concurrency: requests that one replica takes.
    """

    drains = True
    orders_warmth = False

    def __init__(self, floors: npt.NDArray[np.int64], *, ahead: bool, concurrency: int) -> None:
        self._floors = floors
        self._changes = np.append(np.flatnonzero(np.diff(floors)) + 1, len(floors))
        self._ahead = ahead
        self._concurrency = max(1, concurrency)
        self._peak = 0
        self._now = 0.0
        self._floor = NOTHING

    def observe(self, second: Second, now: float) -> None:
        """What demand has brought."""
        self._peak = -(-second.peak // self._concurrency)
        self._now = now

    def idle(self, seconds: int) -> int:
        """Until the floors change."""
        self._peak = 0
        move = int(self._now // hazard.MOVE_TICKS) - 1
        position = int(np.searchsorted(self._changes, move, side="right"))
        change = int(self._changes[min(position, len(self._changes) - 1)])
        left = (change + 1) * hazard.MOVE_TICKS - self._now
        passed = seconds if left <= 0 else min(seconds, max(1, int(left)))
        self._now += passed
        return passed

    def decide(self, now: float) -> tuple[Floor, float]:
        """The floor of the last move."""
        move = int(now // hazard.MOVE_TICKS) - 1
        wanted = int(self._floors[move]) if 0 <= move < len(self._floors) else 0
        if not self._ahead:
            wanted = min(wanted, max(self._floor.replicas, self._peak))
        if wanted != self._floor.replicas:
            self._floor = Floor.of(wanted)
        return self._floor, NEVER
