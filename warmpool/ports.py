"""What the controller needs from the outside, each as small as its use."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Protocol

from warmpool.domain.account import Account
from warmpool.domain.cold_start import ColdStart, ColdStartSamples, ColdStartStats
from warmpool.domain.floor import Floor
from warmpool.domain.object_key import ObjectKey
from warmpool.domain.observation import Demand


class DemandUnavailableError(Exception):
    """Demand could not be read; the text says from where and why."""


class DemandSource(Protocol):
    """Tells the demand of every Service at once."""

    async def read(self, now: datetime) -> Mapping[ObjectKey, Demand]:
        """Demand by Service; a Service that is left out has none.

        Raises:
            DemandUnavailableError: when the source does not answer.
        """
        ...


class WarmthActuator(Protocol):
    """Orders replicas to be as warm as a floor wants them."""

    async def arrange(self, service: ObjectKey, floor: Floor) -> str | None:
        """Bring a Service's replicas to a floor; returns what went wrong, if something did."""
        ...


class PhaseSource(Protocol):
    """Tells where the time of a cold start went."""

    async def phases(self, service: ObjectKey, within: timedelta) -> Mapping[str, float] | None:
        """Seconds by phase of the Service's replica that came up last, if that was within the last so long.

        None when that is unknown: not every application tells, and none has to. Raises nothing.
        """
        ...


class History(Protocol):
    """Remembers across restarts. It may lose things; it may not raise."""

    def cold_starts(self, service: ObjectKey) -> ColdStartStats | None:
        """What the latest cold starts of a Service took; None while none is known."""
        ...

    def add_cold_start(self, service: ObjectKey, start: ColdStart) -> None:
        """Remember one."""
        ...

    def add_phases(self, service: ObjectKey, start: ColdStart) -> None:
        """Remember the phases of a start that was added before they were known."""
        ...

    def account(self, pool: ObjectKey, since: datetime) -> Account | None:
        """What a pool had spent in the period that began then."""
        ...

    def save(self, now: datetime, accounts: Mapping[ObjectKey, Account]) -> None:
        """Keep the accounts, at most once a minute."""
        ...

    def add_demand(self, now: datetime, demand: Mapping[ObjectKey, Demand]) -> None:
        """Add a reading of demand to the current minute."""
        ...

    @property
    def trouble(self) -> str | None:
        """What is wrong with it, in one sentence, if something is."""
        ...


class InMemoryHistory:
    """A history in memory: enough for one run."""

    trouble: str | None = None

    def __init__(self) -> None:
        self._starts: dict[ObjectKey, ColdStartSamples] = {}

    def cold_starts(self, service: ObjectKey) -> ColdStartStats | None:
        """What the latest cold starts of a Service took; None while none is known."""
        known = self._starts.get(service)
        return known.stats() if known else None

    def add_cold_start(self, service: ObjectKey, start: ColdStart) -> None:
        """Remember one."""
        self._starts.setdefault(service, ColdStartSamples()).add(start)

    def add_phases(self, service: ObjectKey, start: ColdStart) -> None:
        """Remember the phases of a start that was added before they were known."""
        self._starts.setdefault(service, ColdStartSamples()).add_phases(start.phases)

    def account(self, pool: ObjectKey, since: datetime) -> Account | None:
        """Nothing survives, so nothing is known."""
        _ = pool, since
        return None

    def save(self, now: datetime, accounts: Mapping[ObjectKey, Account]) -> None:
        """The controller itself keeps them as long as it lives."""
        _ = now, accounts

    def add_demand(self, now: datetime, demand: Mapping[ObjectKey, Demand]) -> None:
        """Nobody asks for it later."""
        _ = now, demand
