"""One pass over the pools: observe, decide, act. `loop` says when.

Level-triggered: a pass compares what is there with what should be there and writes the difference. Whatever
was missed (a watch event, a pass, a whole night) is made up for by the next one.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from knative.client.cluster import Cluster
from warmpool.controller.actuator import ClusterWriter
from warmpool.controller.answer_reader import AnswerReader
from warmpool.controller.cluster_cache import WATCHED, ClusterCache
from warmpool.controller.demand_reader import DemandReader
from warmpool.controller.effects import EffectRunner, PendingEffects
from warmpool.controller.loop import Loop
from warmpool.controller.orphans import OrphanedFloors
from warmpool.controller.phase_collector import PhaseCollector
from warmpool.controller.scheduling import SchedulingCheck
from warmpool.controller.settings import Settings
from warmpool.controller.signal_reader import SignalReader
from warmpool.controller.snapshot_builder import SnapshotBuilder
from warmpool.domain.answers import RolloutWindow
from warmpool.domain.cost import PriceList
from warmpool.domain.object_key import ObjectKey
from warmpool.domain.rollout import Rollout as RolloutPlan
from warmpool.ports import (
    AnswerSource,
    Clock,
    ControllerCounts,
    DemandSource,
    History,
    InMemoryHistory,
    PhaseSource,
    PoolMetrics,
    QualitySource,
    SignalSource,
    Waker,
    WarmthClient,
)
from warmpool.reconcile import reconciler, rollout_check, transition
from warmpool.reconcile.planning import FloorWrite
from warmpool.reconcile.reconciler import ReconcileResult
from warmpool.reconcile.state import PoolState
from warmpool.reconcile.transition import RetryPolicy

log = logging.getLogger(__name__)

_BATCH = 50
"""Reconciliations in a row without giving other tasks a turn."""


@dataclass(slots=True)
class TickReport:
    """What one pass did."""

    reconciled: int = 0
    """Pools."""
    writes: int = 0
    """Requests that changed something in the cluster."""
    floors: int = 0
    """Of these, how many wrote a floor."""
    errors: list[str] = field(default_factory=list)


class Controller:
    """Keeps the WarmPools of a cluster, or of one namespace."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        clock: Clock,
        prices: PriceList,
        history: History | None = None,
        namespace: str | None = None,
        demand: DemandSource | None = None,
        signals: SignalSource | None = None,
        waker: Waker | None = None,
        warmth_client: WarmthClient | None = None,
        phases: PhaseSource | None = None,
        answers: AnswerSource | None = None,
        quality: QualitySource | None = None,
        settings: Settings | None = None,
    ) -> None:
        """All but cluster, clock and prices may be left out.

        Without a `demand` source no request is ever seen: keep-alive and backlog then hold nothing. Without a
        source of `signals` no signal has a reading, and the status of a pool with signals says so. Without a
        `waker` an autoscaler that lost its data stays at zero until a request arrives. Without a
        `warmth_client` replicas are as warm as their own configuration makes them, and the status of a pool
        that wants less says so. Without `phases` it is not known how the time of a cold start is spent.
        Without a source of `answers` no rollout passes a step by itself, and without `quality` none that has
        a quality check.
        """
        self._cluster = cluster
        self._clock = clock
        self._history: History = history or InMemoryHistory()
        self._prices = prices
        self._namespace = namespace
        self._settings = settings or Settings()
        self._demand = DemandReader(demand, self._history, self._settings.interval)
        self._signals = SignalReader(signals, self._settings.interval)
        self._answers = AnswerReader(answers, quality)
        self._waker = waker
        self._phase_collector = PhaseCollector(phases, self._history, self._clock) if phases else None
        self.cache = ClusterCache()
        self._writer = ClusterWriter(cluster, self.cache, clock)
        parallel = self._settings.parallel
        self._scheduling = SchedulingCheck(cluster, self.cache, parallel=parallel)
        self._orphans = OrphanedFloors(self._writer, self.cache, parallel=parallel)
        self._snapshots = SnapshotBuilder(
            self.cache, self._demand, self._signals, self._history, prices, self._answers
        )
        self._effects = EffectRunner(self._writer, self.cache, waker, warmth_client, self._replan)
        self.states: dict[ObjectKey, PoolState] = {}
        """What is remembered of each pool."""
        self.counts = ControllerCounts()
        self.last_pass: datetime | None = None
        self.heartbeat: datetime | None = None
        self._synced_at: datetime | None = None

    @property
    def synced(self) -> bool:
        """Whether the cluster has been listed at least once."""
        return self._synced_at is not None

    @property
    def currency(self) -> str:
        """The currency of the prices."""
        return self._prices.currency

    @property
    def demand_error(self) -> str | None:
        """Why demand cannot be read; None: it can."""
        return self._demand.error

    @property
    def pool_count(self) -> int:
        """WarmPools in the cluster."""
        return len(self.cache.pools)

    def pool_metrics(self) -> Iterator[PoolMetrics]:
        """Every pool that has been reconciled and has a valid spec."""
        for key, state in self.states.items():
            pool = self.cache.pools.get(key)
            if pool is None or pool.spec is None or state.decision is None:
                continue
            left = float(state.budget_left) if state.budget_left is not None else None
            yield PoolMetrics(
                key=key,
                target=pool.spec.target,
                decision=state.decision,
                ready=state.ready,
                requested=state.requested,
                lead_s=state.lead_s,
                failures=state.failures,
                budget_left=left,
                account=state.account,
                rollout_phase=state.rollout.phase.value if state.rollout else None,
                rollout_percent=state.rollout.percent if state.rollout else 0,
            )

    # ------------------------------------------------------------------------------------------ one pass
    async def refresh(self) -> None:
        """List every watched kind anew.

        Raises:
            ClusterError: the API does not answer; kinds that were not listed yet stay as they are known.
        """
        for resource in WATCHED:
            keys: set[ObjectKey] = set()
            async for page, _ in self._cluster.pages(resource, self._namespace):
                keys |= self.cache.put_all(resource, page)
            self.cache.keep(resource, keys)
        self._synced_at = self._clock.now()

    async def tick(
        self,
        now: datetime | None = None,
        only: Collection[ObjectKey] | None = None,
        *,
        refresh: bool = True,
    ) -> TickReport:
        """Reconcile every pool, or only those named.

        With `refresh` the cluster is listed first; the loop of `run` leaves that to its watches. An error
        with one pool is shown in its status and in the report, and affects no other.

        Raises:
            ClusterError: with `refresh`, when the cluster cannot be listed.
        """
        now = now or self._clock.now()
        if refresh:
            await self.refresh()
        await self._demand.read(now)
        await self._signals.read(self._queries(), now)
        await self._answers.read(self._windows(), now)
        await self._scheduling.check(self._slow_starts(now))
        before = self._writer.writes
        report = TickReport()
        for key in [key for key in self.states if key not in self.cache.pools]:
            del self.states[key]
        released, refused = await self._orphans.release()
        report.floors += released
        report.errors += refused
        keys = list(self.cache.pools) if only is None else [key for key in only if key in self.cache.pools]
        if only is None:
            keys = [key for key in keys if self._is_due(key, now)]
        pending = await self._reconcile(keys, now, report)
        await self._each(pending, self._effects.move_traffic)
        # Floors first: when many windows open at once, no floor waits for the event of another one.
        await self._each(pending, self._effects.write_floors)
        await self._each(pending, self._effects.order_warmth)
        await self._each(pending, self._effects.write_status)
        for entry in pending:
            self._finish(entry, report)
        report.reconciled = len(keys)
        report.writes = self._writer.writes - before
        self._count(report)
        if only is None:
            self.last_pass = now
        self.heartbeat = self._clock.now()
        accounts = {key: state.account for key, state in self.states.items() if state.account}
        self._history.save(now, accounts)
        return report

    def _slow_starts(self, now: datetime) -> Iterator[ObjectKey]:
        """Revisions whose replicas take longer to start than to be scheduled."""
        for (namespace, _), state in self.states.items():
            for name, progress in state.rollouts.items():
                since = progress.start_since
                if since is not None and now >= since + rollout_check.SCHEDULING:
                    yield namespace, name

    def _count(self, report: TickReport) -> None:
        self.counts.reconciles += report.reconciled
        self.counts.floors += report.floors
        self.counts.writes += report.writes
        self.counts.errors += len(report.errors)

    async def _reconcile(
        self, keys: Sequence[ObjectKey], now: datetime, report: TickReport
    ) -> list[PendingEffects]:
        """Decide about pools, which takes no I/O; returns the results that have effects."""
        pending: list[PendingEffects] = []
        for number, key in enumerate(keys, start=1):
            if number % _BATCH == 0:
                await asyncio.sleep(0)  # watches and health checks need a turn, too
            if key not in self.cache.pools:
                continue
            try:
                entry = await self._reconcile_one(key, now, report)
            except Exception as fault:  # a fault with one pool must not take the others' floors with it
                log.exception("pool %s/%s: a fault in the controller", *key)
                report.errors.append(f"{key[0]}/{key[1]}: {fault!r}")
                continue
            if entry is not None:
                pending.append(entry)
        return pending

    async def _reconcile_one(
        self, key: ObjectKey, now: datetime, report: TickReport
    ) -> PendingEffects | None:
        pool = self.cache.pools[key]
        observed = self._snapshots.basis(pool)
        state = self.states.get(key) or PoolState(account=self._snapshots.known_account(pool))
        self.states[key] = state
        try:
            snapshot = self._snapshots.build(pool)
            if pool.spec is not None and pool.spec.has_complex_schedule:
                # In a thread, because its schedule may take tenths of a second to work out.
                result = await asyncio.to_thread(reconciler.reconcile, snapshot, state, now)
            else:
                result = reconciler.reconcile(snapshot, state, now)
        except Exception as fault:  # as above, and its status says so
            log.exception("pool %s/%s cannot be reconciled", *key)
            report.errors.append(f"{key[0]}/{key[1]}: {fault!r}")
            result = reconciler.failed(pool, state, repr(fault), now)
        spread = 1 + zlib.crc32("/".join(key).encode()) / 2**32  # pools are not all rechecked in one pass
        state = replace(
            state,
            observed=observed,
            reconciled_at=now,
            stale_at=now + self._settings.recheck * spread,
        )
        self.states[key] = state
        self._record_cold_starts(result)
        entry = PendingEffects(state, result, transition.no_effects(state))
        if transition.has_effects(result, state):
            return entry
        self.states[key] = transition.next_state(state, result, entry.done, self._retry())
        return None

    def _queries(self) -> set[str]:
        """The queries of every pool's signals."""
        specs = (pool.spec for pool in self.cache.pools.values())
        return {
            signal.query for spec in specs if spec is not None and spec.enabled for signal in spec.signals
        }

    def _windows(self) -> dict[RolloutWindow, RolloutPlan]:
        """The steps of rollouts whose answers are to be counted."""
        found: dict[RolloutWindow, RolloutPlan] = {}
        for key, state in self.states.items():
            pool, window = self.cache.pools.get(key), state.analysis.window
            if window is not None and pool is not None and pool.spec is not None and pool.spec.rollout:
                found[window] = pool.spec.rollout
        return found

    def _record_cold_starts(self, result: ReconcileResult) -> None:
        target = result.pool.target
        for start in result.cold_starts if target else ():
            assert target is not None
            self._history.add_cold_start(target, start)
            if self._phase_collector is not None:
                self._phase_collector.enqueue(target, start)

    def _finish(self, entry: PendingEffects, report: TickReport) -> None:
        key, done = entry.key, entry.done
        report.floors += len(done.floors_written)
        report.errors += [
            f"{key[0]}/{key[1]}: {error}" for error in (done.write_error, done.status_error) if error
        ]
        if entry.result.wake and done.write_error is None:
            self.counts.wakes += 1
        self.states[key] = transition.next_state(entry.state, entry.result, done, self._retry())

    def _retry(self) -> RetryPolicy:
        settings = self._settings
        return RetryPolicy(settings.retry_first, settings.retry_last, self._writer.not_before)

    def _is_due(self, key: ObjectKey, now: datetime) -> bool:
        """Whether a reconciliation can have another result than the last one."""
        state = self.states.get(key)
        if state is None or state.reconciled_at is None or state.stale_at is None:
            return True
        if state.write_error is not None or not state.reconciled_at <= now < state.stale_at:
            return True
        if state.next_at is not None and now >= state.next_at:
            return True
        return state.observed != self._snapshots.basis(self.cache.pools[key])

    def _replan(self, key: ObjectKey, write: FloorWrite) -> FloorWrite | None:
        """The write for the same Revision, planned on what the cache knows by now."""
        pool, state = self.cache.pools.get(key), self.states.get(key)
        if pool is None or state is None or state.reconciled_at is None:
            return None
        result = reconciler.reconcile(self._snapshots.build(pool), state, state.reconciled_at)
        return next((other for other in result.plan.writes if other.revision == write.revision), None)

    async def _each(
        self,
        pending: Sequence[PendingEffects],
        effect: Callable[[PendingEffects], Awaitable[None]],
    ) -> None:
        """Carry out one kind of effect for many pools, with bounded concurrency."""
        waiting = iter(pending)

        async def work() -> None:
            for entry in waiting:
                await effect(entry)

        await asyncio.gather(*(work() for _ in range(min(self._settings.parallel, len(pending)))))

    # ------------------------------------------------------------------------------------------ the loop
    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile until `stop` is set; the API may come and go."""
        try:
            await Loop(self, self._cluster, self._clock, self._settings, self._namespace).run(stop)
        finally:
            await self._signals.close()
            await self._answers.close()
            if self._phase_collector is not None:
                await self._phase_collector.close()
            if self._waker is not None:
                await self._waker.close()

    def next_due(self) -> datetime | None:
        """When the next pool wants to be reconciled; None while none does."""
        return min((state.next_at for state in self.states.values() if state.next_at), default=None)

    def due(self, now: datetime) -> set[ObjectKey]:
        """The pools that want to be reconciled by now."""
        return {key for key, state in self.states.items() if state.next_at and state.next_at <= now}

    def needs_resync(self, now: datetime) -> bool:
        """Whether the cluster was listed too long ago to rely on its watches alone."""
        at = self._synced_at
        return at is None or now >= at + self._settings.resync or now < at
