"""One look at every pool: observe, decide, act. `loop` says when.

Level-triggered: a tick looks at what is there and brings it to what should be there. Whatever was missed (an
event, a tick, the whole night) is made good by the next one.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.client.resources import POD
from knative.labels import REVISION_LABEL
from warmpool.adapters.clock import Clock, SystemClock
from warmpool.adapters.price_file import packaged_prices
from warmpool.adapters.waker import HttpWaker, Waker
from warmpool.controller.actuator import ClusterWriter
from warmpool.controller.cluster_cache import WATCHED, ClusterCache
from warmpool.controller.loop import Loop
from warmpool.controller.phase_collector import PhaseCollector
from warmpool.controller.settings import Settings
from warmpool.domain.account import Account
from warmpool.domain.budget_period import budget_period
from warmpool.domain.cost import PriceList
from warmpool.domain.observation import Demand
from warmpool.ports import (
    DemandSource,
    DemandUnavailableError,
    History,
    InMemoryHistory,
    PhaseSource,
    WarmthActuator,
)
from warmpool.reconcile import contention, planning, reconciler, rollout_check, status, views
from warmpool.reconcile.planning import FloorWrite
from warmpool.reconcile.reconciler import ReconcileResult, Snapshot
from warmpool.reconcile.state import PoolState
from warmpool.reconcile.views import Key, PoolView

log = logging.getLogger(__name__)

_BREATH = 50
"""Looks without letting anybody else work."""


Effect = Callable[["Key", ReconcileResult, "TickReport"], Awaitable[None]]


@dataclass(slots=True)
class TickReport:
    """What one tick did."""

    reconciled_at: int = 0
    writes: int = 0
    """Requests that changed something in the cluster."""
    floors: int = 0
    """Of these, how many moved or re-affirmed a floor."""
    errors: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Counts:
    """What the controller has done since it started."""

    reconciles: int = 0
    floors: int = 0
    writes: int = 0
    errors: int = 0
    wakes: int = 0


class Controller:
    """Keeps every WarmPool of a cluster, or of one namespace."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        clock: Clock | None = None,
        history: History | None = None,
        prices: PriceList | None = None,
        namespace: str | None = None,
        demand: DemandSource | None = None,
        waker: Waker | None = None,
        warmth_actuator: WarmthActuator | None = None,
        phases: PhaseSource | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Everything but the cluster has a default: the machine's clock, a forgetful history, example prices.

        Without a `demand` source no request is ever seen: keep-alive and backlog then hold nothing. Without a
        `warmth_actuator` replicas are as warm as their own configuration makes them, and the status of a pool
        that wants less says so. Without `phases` nobody knows where the time of a cold start went.
        """
        self._cluster = cluster
        self._clock: Clock = clock or SystemClock()
        self._history: History = history or InMemoryHistory()
        self._prices = prices or packaged_prices()
        self._namespace = namespace
        self._demand = demand
        self._waker: Waker = waker or HttpWaker()
        self._warmth_actuator = warmth_actuator
        self._phase_collector = PhaseCollector(phases, self._history, self._clock) if phases else None
        self._settings = settings or Settings()
        self.cache = ClusterCache()
        self._writer = ClusterWriter(cluster, self.cache, self._clock)
        self.states: dict[Key, PoolState] = {}
        """What is remembered of each pool."""
        self._gate = asyncio.Semaphore(self._settings.parallel)
        self._reading: Mapping[Key, Demand] | None = {}
        self.demand_trouble: str | None = None
        """Why demand cannot be read, if it cannot."""
        self.counts = Counts()
        self.reconciled_at: datetime | None = None
        """When all pools were last looked at."""
        self._read_at: datetime | None = None
        self._synced_at: datetime | None = None

    @property
    def synced(self) -> bool:
        """Whether the cluster has been seen at all."""
        return self._synced_at is not None

    @property
    def currency(self) -> str:
        """The currency of its prices."""
        return self._prices.currency

    # ------------------------------------------------------------------------------------------ one look
    async def refresh(self) -> None:
        """List everything there is, anew.

        Raises:
            ClusterError: when the API does not answer; the picture of the kinds not yet listed is as it was.
        """
        for resource in WATCHED:
            there: set[Key] = set()
            async for page, _ in self._cluster.pages(resource, self._namespace):
                there |= self.cache.put_all(resource, page)
            self.cache.keep(resource, there)
        self._synced_at = self._clock.now()

    async def tick(
        self, now: datetime | None = None, only: Collection[Key] | None = None, *, refresh: bool = True
    ) -> TickReport:
        """Look at every pool (or only at those named) and bring it to what it should be.

        With `refresh` the cluster is listed first; the loop of `run` leaves that to its watches. Trouble
        with one pool is reported in its status and in the report, and is no trouble for another.
        """
        now = now or self._clock.now()
        if refresh:
            await self.refresh()
        await self._read_demand(now)
        await self._look_for_places(now)
        before = self._writer.writes
        report = TickReport()
        for key in [key for key in self.states if key not in self.cache.pools]:
            del self.states[key]
        keys = list(self.cache.pools) if only is None else [key for key in only if key in self.cache.pools]
        await asyncio.gather(*(self._give_back(write, report) for write in self._orphans()))
        # Looking is pure and quick; only what has to be written waits for the network, and side by side.
        if only is None:
            keys = [key for key in keys if self._worth_a_look(key, now)]
        pending: list[tuple[Key, ReconcileResult]] = []
        for number, key in enumerate(keys):
            if number % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)  # watches and health probes want to be served too
            if key in self.cache.pools and (result := self._look(key, now, report)) is not None:
                pending.append((key, reconciler.waiting(result)))
        # Floors first, words after: when many windows open at once, no floor waits for another one's event.
        moved = await self._each(pending, self._move_floor, report)
        said = [entry for entry, done in zip(pending, moved, strict=True) if done]
        await self._each(said, self._arrange, report)
        await self._each(said, self._say, report)
        report.reconciled_at = len(keys)
        report.writes = self._writer.writes - before
        self.counts.reconciles += report.reconciled_at
        self.counts.floors += report.floors
        self.counts.writes += report.writes
        self.counts.errors += len(report.errors)
        if only is None:
            self.reconciled_at = now
        accounts = {key: state.account for key, state in self.states.items() if state.account}
        self._history.save(now, accounts)
        return report

    async def _look_for_places(self, now: datetime) -> None:
        """Proposal the pods of Revisions whose replicas are long in coming whether they find a place.

        A Revision that has one replica says nothing of the others that wait for a GPU, and what waits for one
        must not be taken for a slow start.
        """
        waiting = [
            (key[0], name)
            for key, state in self.states.items()
            for name, watch in state.watches.items()
            if watch.start_since is not None and now >= watch.start_since + rollout_check.PLACING
        ]
        settled = self.cache.unplaced - set(waiting)
        for revision in settled:
            self.cache.place(revision, None)
        await asyncio.gather(*map(self._look_for_place, waiting))

    async def _look_for_place(self, revision: Key) -> None:
        try:
            async with self._gate:
                pods = await self._cluster.list(POD, revision[0], f"{REVISION_LABEL}={revision[1]}")
        except ClusterError as problem:  # what was known is all that is known
            log.debug("the pods of %s/%s cannot be listed: %s", *revision, problem)
            return
        self.cache.place(revision, views.unplaced(pods))

    def _worth_a_look(self, key: Key, now: datetime) -> bool:
        """Whether a look can find anything else than the last one did."""
        state = self.states.get(key)
        if state is None or state.reconciled_at is None or state.stale is None or state.trouble is not None:
            return True
        if now < state.reconciled_at or now >= state.stale or (state.due is not None and now >= state.due):
            return True
        return state.seen != self._basis(self.cache.pools[key])

    def _basis(self, pool: PoolView) -> object:
        """Everything but the time that a look depends on."""
        target = (pool.key[0], pool.spec.target) if pool.spec else None
        demand = self._reading.get(target) if self._reading is not None and target else None
        cold_starts = self._history.cold_starts(target) if target else None
        troubles = (self.demand_trouble, self._history.trouble)
        return self.cache.versions[pool.key], demand, cold_starts, troubles

    def _orphans(self) -> tuple[FloorWrite, ...]:
        return planning.give_back(self.cache.orphaned())

    async def _give_back(self, write: FloorWrite, report: TickReport) -> None:
        def again() -> FloorWrite | None:
            return next((other for other in self._orphans() if other.revision == write.revision), None)

        try:
            async with self._gate:
                report.floors += await self._writer.set_floor(write, again)
        except ClusterError as problem:
            report.errors.append(f"{write.revision[0]}/{write.revision[1]}: {problem}")

    def _look(self, key: Key, now: datetime, report: TickReport) -> ReconcileResult | None:
        """Judge a pool and remember; None when there is nothing to write."""
        pool = self.cache.pools[key]
        state = self.states.get(key) or PoolState(account=self._account_of(pool, now))
        self.states[key] = state
        try:
            result = reconciler.reconcile(self._snapshot(pool), state, now)
        except Exception as problem:  # one pool that trips us must not take the others' floors with it
            log.exception("pool %s/%s cannot be judged", *key)
            report.errors.append(f"{key[0]}/{key[1]}: {problem!r}")
            state.due = now + self._settings.retry_last
            return reconciler.broken(pool, state, repr(problem), now)
        self.states[key] = reconciler.remembered(state, result)
        self.states[key].seen = self._basis(pool)
        self.states[key].reconciled_at = now
        self.states[key].stale = now + self._settings.relook * (1 + _spread(key))
        for start in result.started:
            if pool.spec:
                self._history.add_cold_start((key[0], pool.spec.target), start)
                if self._phase_collector is not None:
                    self._phase_collector.enqueue((key[0], pool.spec.target), start)
        nothing = (
            not result.plan.writes
            and not result.autoscaler_writes
            and not result.events
            and not result.wake
            and result.arrange is None
            and not result.finished
            and (pool.finalized or not result.holds)
            and status.patch(pool.status, reconciler.words(result), now, state.status_at) is None
        )
        return None if nothing else result

    def _account_of(self, pool: PoolView, now: datetime) -> Account | None:
        """The account as the history has it, or else as the pool's own status says."""
        if pool.spec is None:
            return None
        limit = pool.spec.limits.budget
        since, _ = budget_period(now, limit.period if limit else "month", pool.spec.zone)
        kept = self._history.account(pool.key, since)
        told = status.account(pool.status, since)
        return max((known for known in (kept, told) if known), key=lambda known: known.spent, default=None)

    def _snapshot(self, pool: PoolView) -> Snapshot:
        target = (pool.key[0], pool.spec.target) if pool.spec else None
        revisions = self.cache.revisions_for(pool)
        reading = self._reading
        return Snapshot(
            pool=pool,
            service=self.cache.services.get(target) if target else None,
            revisions=revisions,
            scales={
                revision.key[1]: self.cache.scales[revision.key]
                for revision in revisions
                if revision.key in self.cache.scales
            },
            rightful=self.cache.rightful(target) if target else None,
            demand=None if reading is None or target is None else reading.get(target, Demand(0.0)),
            demand_trouble=self.demand_trouble,
            cold_starts=self._history.cold_starts(target) if target else None,
            history_trouble=self._history.trouble,
            prices=self._prices,
        )

    async def _each(
        self, results: Sequence[tuple[Key, ReconcileResult]], effect: Effect, report: TickReport
    ) -> list[bool]:
        """Carry out the same part of many results, as many at a time as the API may be asked at once.

        Not a task for each: tasks of ten thousand pools are most of what a first look would need in memory.
        """
        done = [False] * len(results)
        waiting = iter(enumerate(results))

        async def work() -> None:
            for number, (key, result) in waiting:
                done[number] = await self._try(key, effect, result, report)

        await asyncio.gather(*(work() for _ in range(min(self._settings.parallel, len(results)))))
        return done

    async def _try(self, key: Key, effect: Effect, result: ReconcileResult, report: TickReport) -> bool:
        """Carry out a part of an result; what fails is tried again, and said in the status."""
        state = self.states[key]
        try:
            async with self._gate:
                await effect(key, result, report)
        except Exception as problem:  # whatever it is, it is this pool's alone
            if not isinstance(problem, ClusterError):
                log.exception("pool %s/%s: a fault in the controller", *key)
            state.failures += 1
            state.trouble = f"the API did not take a write: {problem}"
            first, last = self._settings.retry_first, self._settings.retry_last
            state.due = result.at + min(first * 2 ** min(state.failures - 1, 10), last)
            quiet = self._writer.quiet_until
            if quiet is not None:
                state.due = max(state.due, quiet)
            report.errors.append(f"{key[0]}/{key[1]}: {problem}")
            log.warning("pool %s/%s: %s", *key, state.trouble)
            return False
        if effect == self._say:
            if state.trouble is not None:
                state.due = result.at  # the status still tells of it
            state.failures, state.trouble = 0, None
        return True

    async def _move_floor(self, key: Key, result: ReconcileResult, report: TickReport) -> None:
        pool = self.cache.pools.get(key)
        if pool is None:
            return
        if result.holds and not pool.finalized and not pool.deleting:
            await self._writer.finalize(pool, on=True)  # first, or a deletion could leave a floor behind
        for write in result.plan.writes:
            again = partial(self._again, key, write, result.at)
            if await self._writer.set_floor(write, again):
                report.floors += 1
                state = self.states[key]
                contention.remember(state.lowered, write, result.at)
                # A floor that arrives nowhere makes no event that would wake us.
                verify_at = result.at + rollout_check.ARRIVING
                state.due = min(state.due, verify_at) if state.due else verify_at
        for autoscaler_write in result.autoscaler_writes:
            await self._writer.set_scale(key[0], autoscaler_write)
        if result.wake and pool.spec:
            self.counts.wakes += 1
            await self._waker.wake(self.cache.services[key[0], pool.spec.target])

    async def _arrange(self, key: Key, result: ReconcileResult, report: TickReport) -> None:
        _ = report
        pool, state = self.cache.pools.get(key), self.states[key]
        if result.arrange is None or pool is None or pool.spec is None:
            return
        floor, _ready = result.arrange
        before = state.warmth_trouble
        if self._warmth_actuator is not None:
            state.warmth_trouble = await self._warmth_actuator.arrange((key[0], pool.spec.target), floor)
        elif floor.hot < floor.replicas:
            state.warmth_trouble = f"there is no token to order replicas with, so they are not kept {floor}"
        else:
            state.warmth_trouble = None
        if state.warmth_trouble is None or self._warmth_actuator is None:
            state.arranged = result.arrange  # nothing more can be done about it
        if state.warmth_trouble != before:
            state.due = result.at  # the status has to tell
        elif state.arranged != result.arrange:
            state.due = result.at + self._settings.retry_last

    async def _say(self, key: Key, result: ReconcileResult, report: TickReport) -> None:
        _ = report
        pool = self.cache.pools.get(key)
        if pool is None:
            return
        if result.finished:
            if pool.finalized:
                await self._writer.finalize(pool, on=False)
            return
        state = self.states[key]
        for event in result.events:
            await self._writer.tell(pool, event)
        state.announced = result.announces
        change = status.patch(pool.status, reconciler.words(result), result.at, state.status_at)
        if change is not None:
            await self._writer.set_status(key, change)
            state.status_at = result.at

    def _again(self, key: Key, write: FloorWrite, now: datetime) -> FloorWrite | None:
        """The write for the same Revision, planned on what the cache looks like by now."""
        pool = self.cache.pools.get(key)
        if pool is None:
            return None
        result = reconciler.reconcile(self._snapshot(pool), self.states[key], now)
        return next((other for other in result.plan.writes if other.revision == write.revision), None)

    async def _read_demand(self, now: datetime) -> None:
        if self._demand is None:
            return
        if self._read_at is not None and self._read_at <= now < self._read_at + self._settings.interval / 2:
            return
        self._read_at = now
        try:
            self._reading = await self._demand.read(now)
            self.demand_trouble = None
            self._history.add_demand(now, self._reading)
        except DemandUnavailableError as problem:
            self._reading = None
            self.demand_trouble = str(problem)

    # ------------------------------------------------------------------------------------------ the loop
    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; the API may come and go."""
        try:
            await Loop(self, self._cluster, self._clock, self._settings, self._namespace).run(stop)
        finally:
            if self._phase_collector is not None:
                await self._phase_collector.close()
            await self._waker.close()

    def next_due(self) -> datetime | None:
        """When a pool wants to be looked at next; None while none does."""
        return min((state.due for state in self.states.values() if state.due is not None), default=None)

    def due(self, now: datetime) -> set[Key]:
        """The pools whose time has come."""
        return {key for key, state in self.states.items() if state.due is not None and state.due <= now}

    def stale(self, now: datetime) -> bool:
        """Whether the cluster was listed too long ago to rely on its watches alone."""
        at = self._synced_at
        return at is None or now >= at + self._settings.resync or now < at


def _spread(key: Key) -> float:
    """From 0 to 1, the same for a pool each time: so that pools are not all looked at in one tick."""
    return zlib.crc32("/".join(key).encode()) / 2**32
