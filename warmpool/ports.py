"""What the controller needs from outside, and what health checks and metrics read from it.

Each protocol is as small as its use. `warmpool.adapters` implements them; tests use their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from warmpool.domain.account import Account
from warmpool.domain.answers import AnswerCounts, RolloutWindow
from warmpool.domain.cold_start import ColdStart, ColdStartSamples, ColdStartStats
from warmpool.domain.decision import Decision
from warmpool.domain.field_types import Warmth
from warmpool.domain.object_key import ObjectKey
from warmpool.domain.observation import Demand
from warmpool.domain.proportions import Proportion
from warmpool.domain.replica_warmth import ReplicaWarmth
from warmpool.domain.rollout import QualityCheck, Rollout
from warmpool.domain.signals import SignalReading


class Clock(Protocol):
    """The wall clock."""

    def now(self) -> datetime:
        """This instant, in UTC."""
        ...


class DemandUnavailableError(Exception):
    """Demand could not be read; the message names the source and the cause."""


class DemandSource(Protocol):
    """Reads the demand of every Service at once."""

    async def read(self, now: datetime) -> Mapping[ObjectKey, Demand]:
        """Demand by Service; a Service that is left out has none.

        Raises:
            DemandUnavailableError: when the source does not answer.
        """
        ...


class SignalSource(Protocol):
    """Reads signals: PromQL queries that result in one number."""

    async def read(self, queries: Collection[str]) -> Mapping[str, SignalReading]:
        """The reading of each query; one that cannot be read says why."""
        ...


class Waker(Protocol):
    """Sends the request that makes an autoscaler without data scale from zero."""

    async def wake(self, service: ObjectKey, urls: Sequence[str]) -> None:
        """Send one request to the first of `urls` that answers, in the background."""
        ...

    async def close(self) -> None:
        """Cancel requests that are under way."""
        ...


class WarmthClient(Protocol):
    """Reads and changes how warm running replicas are."""

    async def replicas(self, service: ObjectKey) -> tuple[Sequence[ReplicaWarmth], Sequence[str]]:
        """The ready replicas of a Service, and an error for each that could not be read."""
        ...

    async def set_warmth(self, service: ObjectKey, replica: ReplicaWarmth, warmth: Warmth) -> str | None:
        """Order one replica to a warmth; returns why it refused, None if it accepted."""
        ...


class PhaseSource(Protocol):
    """Reads how the time of a cold start was spent."""

    async def phases(self, service: ObjectKey, within: timedelta) -> Mapping[str, float] | None:
        """Seconds by phase of the replica of a Service that started last, if it did within the last `within`.

        None when that is unknown: an application need not report it. Raises nothing.
        """
        ...


class AnswerSource(Protocol):
    """Counts what both Revisions of a rollout answer during one of its steps."""

    async def read(self, window: RolloutWindow, plan: Rollout) -> tuple[Mapping[str, AnswerCounts], str]:
        """Counts by Revision since the window was read first, and why something is missing (or nothing)."""
        ...

    def forget(self, windows: Collection[RolloutWindow]) -> None:
        """Drop what is remembered of any window that is not among these."""
        ...


class QualitySource(Protocol):
    """Makes the quality check of a rollout."""

    async def ask(
        self, window: RolloutWindow, check: QualityCheck
    ) -> tuple[Mapping[str, Proportion] | None, str]:
        """Answers that are not as expected, of all, by Revision; None and why, if there are none yet."""
        ...


class History(Protocol):
    """What survives a restart of the controller. It may lose data; its methods do not raise."""

    def cold_starts(self, service: ObjectKey) -> ColdStartStats | None:
        """Statistics of the latest cold starts of a Service; None while none is known."""
        ...

    def add_cold_start(self, service: ObjectKey, start: ColdStart) -> None:
        """Record a cold start."""
        ...

    def add_phases(self, service: ObjectKey, start: ColdStart) -> None:
        """Record the phases of a cold start that was added before they were known."""
        ...

    def account(self, pool: ObjectKey) -> Account | None:
        """The latest account of a pool, with its last reading; None while none is known."""
        ...

    def save(self, now: datetime, accounts: Mapping[ObjectKey, Account]) -> None:
        """Keep the accounts, at most once a minute."""
        ...

    def add_demand(self, now: datetime, demand: Mapping[ObjectKey, Demand]) -> None:
        """Add a reading of demand to the current minute."""
        ...

    @property
    def problem(self) -> str | None:
        """What is wrong with it, in one sentence; None: nothing."""
        ...


class InMemoryHistory:
    """A history that ends with the process."""

    problem: str | None = None

    def __init__(self) -> None:
        self._starts: dict[ObjectKey, ColdStartSamples] = {}

    def cold_starts(self, service: ObjectKey) -> ColdStartStats | None:
        """Statistics of the latest cold starts of a Service; None while none is known."""
        known = self._starts.get(service)
        return known.stats() if known else None

    def add_cold_start(self, service: ObjectKey, start: ColdStart) -> None:
        """Record a cold start."""
        self._starts.setdefault(service, ColdStartSamples()).add(start)

    def add_phases(self, service: ObjectKey, start: ColdStart) -> None:
        """Record the phases of a cold start that was added before they were known."""
        self._starts.setdefault(service, ColdStartSamples()).add_phases(start.phases)

    def account(self, pool: ObjectKey) -> Account | None:
        """None: nothing survives a restart."""
        _ = pool
        return None

    def save(self, now: datetime, accounts: Mapping[ObjectKey, Account]) -> None:
        """Nothing: the controller itself keeps the accounts while it runs."""
        _ = now, accounts

    def add_demand(self, now: datetime, demand: Mapping[ObjectKey, Demand]) -> None:
        """Nothing: past demand is only read from a history on disk."""
        _ = now, demand


@dataclass(slots=True)
class ControllerCounts:
    """What the controller has done since it started."""

    reconciles: int = 0
    """Reconciliations of a pool."""
    floors: int = 0
    """Floors that were written."""
    writes: int = 0
    """Requests that changed something in the cluster."""
    errors: int = 0
    """Writes and reconciliations that failed."""
    wakes: int = 0
    """Wake-up requests sent."""


@dataclass(frozen=True, slots=True)
class PoolMetrics:
    """The values behind the metrics of one pool."""

    key: ObjectKey
    target: str
    """Name of the Service."""
    decision: Decision
    ready: int
    requested: int
    """Replicas that its min-scales request, after max-scale and activation-scale."""
    lead_s: float
    failures: int
    budget_left: float | None
    account: Account | None
    rollout_phase: str | None = None
    """Where its rollout is; None: it has none."""
    rollout_percent: int = 0
    """The newest Revision's share of the traffic during it."""


class ControllerStatus(Protocol):
    """What health checks and metrics read from a running controller."""

    @property
    def synced(self) -> bool:
        """Whether the cluster has been listed at least once."""
        ...

    @property
    def heartbeat(self) -> datetime | None:
        """When the control loop last finished a pass, or an attempt to reach the API; None: not yet."""
        ...

    @property
    def last_pass(self) -> datetime | None:
        """When all pools were last reconciled."""
        ...

    @property
    def pool_count(self) -> int:
        """WarmPools in the cluster."""
        ...

    @property
    def counts(self) -> ControllerCounts:
        """What it has done since it started."""
        ...

    @property
    def currency(self) -> str:
        """The currency of the prices."""
        ...

    @property
    def demand_error(self) -> str | None:
        """Why demand cannot be read; None: it can."""
        ...

    def pool_metrics(self) -> Iterable[PoolMetrics]:
        """Every pool that has been reconciled."""
        ...
