"""Everything that one reconciliation of a pool is based on, besides its state and the instant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmpool.domain.answers import AnswerReading
from warmpool.domain.cold_start import ColdStartStats
from warmpool.domain.cost import PriceList
from warmpool.domain.observation import Demand
from warmpool.domain.signals import SignalReading
from warmpool.reconcile.views import AutoscalerView, PoolView, RevisionView, ServiceView


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A pool, its target and what is known about them at one instant."""

    pool: PoolView
    service: ServiceView | None
    """The target; None: there is no such Service, or the spec is invalid."""
    revisions: Sequence[RevisionView]
    """Those of the target, and any other whose floor the pool holds."""
    autoscalers: Mapping[str, AutoscalerView]
    """PodAutoscalers by Revision name."""
    effective_pool: PoolView | None
    """Of several pools with this target, the one that counts."""
    demand: Demand | None
    """None: it could not be read."""
    demand_error: str | None
    signals: Mapping[str, SignalReading]
    """Readings of the pool's signals by name."""
    cold_starts: ColdStartStats | None
    history_error: str | None
    prices: PriceList
    answers: AnswerReading | None = None
    """What both Revisions of a rollout answered in its present step; None: nothing was counted yet."""

    @property
    def target_revisions(self) -> Sequence[RevisionView]:
        """The Revisions of the target."""
        service = self.service
        return [revision for revision in self.revisions if service and revision.service == service.key]

    @property
    def ready(self) -> int:
        """Replicas of the target that are ready."""
        autoscalers = (self.autoscalers.get(revision.name) for revision in self.target_revisions)
        return sum(autoscaler.actual or 0 for autoscaler in autoscalers if autoscaler)
