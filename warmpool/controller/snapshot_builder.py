"""Puts together what one reconciliation is based on, from the cache, the demand and the history."""

from __future__ import annotations

from warmpool.controller.answer_reader import AnswerReader
from warmpool.controller.cluster_cache import ClusterCache
from warmpool.controller.demand_reader import DemandReader
from warmpool.controller.signal_reader import SignalReader
from warmpool.domain.account import Account
from warmpool.domain.cost import PriceList
from warmpool.ports import History
from warmpool.reconcile import status
from warmpool.reconcile.snapshot import Snapshot
from warmpool.reconcile.views import PoolView


class SnapshotBuilder:
    """Makes snapshots of pools."""

    def __init__(  # noqa: PLR0917  one source of each kind
        self,
        cache: ClusterCache,
        demand: DemandReader,
        signals: SignalReader,
        history: History,
        prices: PriceList,
        answers: AnswerReader,
    ) -> None:
        self._cache = cache
        self._answers = answers
        self._demand = demand
        self._signals = signals
        self._history = history
        self._prices = prices

    def build(self, pool: PoolView) -> Snapshot:
        """What is known about a pool and its target."""
        cache = self._cache
        revisions = cache.revisions_for(pool)
        target = pool.target
        if target is None:  # an invalid spec: what its floor costs depends on the Service that it is held on
            target = next((revision.service for revision in revisions), None)
        return Snapshot(
            pool=pool,
            service=cache.services.get(target) if target else None,
            revisions=revisions,
            autoscalers={
                revision.name: cache.autoscalers[revision.key]
                for revision in revisions
                if revision.key in cache.autoscalers
            },
            effective_pool=cache.effective_pool(pool.target) if pool.target else None,
            demand=self._demand.of(target),
            demand_error=self._demand.error,
            signals=self._signals.of(pool.spec),
            cold_starts=self._history.cold_starts(target) if target else None,
            history_error=self._history.problem,
            prices=self._prices,
            answers=self._answers.of(target),
        )

    def basis(self, pool: PoolView) -> object:
        """Everything but the time that a reconciliation depends on; equal values give equal results."""
        cold_starts = self._history.cold_starts(pool.target) if pool.target else None
        errors = (self._demand.error, self._history.problem)
        signals = self._signals.of(pool.spec)
        answers = self._answers.of(pool.target)
        versions, demand = self._cache.versions[pool.key], self._demand.of(pool.target)
        return versions, demand, signals, cold_starts, errors, answers

    def known_account(self, pool: PoolView) -> Account | None:
        """The account in the history or in the pool's status, whichever was counted later."""
        found = [self._history.account(pool.key), status.account(pool.status)]
        return max(
            (account for account in found if account),
            key=lambda account: (account.since, account.spent),
            default=None,
        )
