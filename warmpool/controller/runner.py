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

from knative.client.cluster import POD, Cluster, ClusterError
from warmpool.adapters.clock import Clock, SystemClock
from warmpool.adapters.waker import HttpWaker, Waker
from warmpool.controller.actuator import Hands
from warmpool.controller.cluster_cache import WATCHED, World
from warmpool.controller.loop import Loop
from warmpool.controller.phase_collector import Learner
from warmpool.controller.settings import Settings
from warmpool.domain.account import Account
from warmpool.domain.cost import PriceList, packaged_prices
from warmpool.domain.observation import Demand
from warmpool.domain.periods import period_of
from warmpool.ports import (
    DemandSource,
    DemandUnavailableError,
    ForgetfulHistory,
    History,
    PhaseSource,
    Warmer,
)
from warmpool.reconcile import contention, planning, reconcile, rollout_check, status, views
from warmpool.reconcile.planning import Write
from warmpool.reconcile.reconcile import Outcome, Sight
from warmpool.reconcile.state import PoolState
from warmpool.reconcile.views import Key, PoolView

log = logging.getLogger(__name__)

_BREATH = 50
"""Looks without letting anybody else work."""

_REVISION_LABEL = "serving.knative.dev/revision"

Effect = Callable[["Key", Outcome, "TickReport"], Awaitable[None]]


@dataclass(slots=True)
class TickReport:
    """What one tick did."""

    looked_at: int = 0
    writes: int = 0
    """Requests that changed something in the cluster."""
    floors: int = 0
    """Of these, how many moved or re-affirmed a floor."""
    errors: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Counts:
    """What the controller has done since it started."""

    looks: int = 0
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
        warmer: Warmer | None = None,
        phases: PhaseSource | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Everything but the cluster has a default: the machine's clock, a forgetful history, example prices.

        Without a `demand` source no request is ever seen: keep-alive and backlog then hold nothing. Without a
        `warmer` replicas are as warm as their own configuration makes them, and a pool that wants less says
        so. Without `phases` nobody knows where the time of a cold start went.
        """
        self._cluster = cluster
        self._clock: Clock = clock or SystemClock()
        self._history: History = history or ForgetfulHistory()
        self._prices = prices or packaged_prices()
        self._namespace = namespace
        self._demand = demand
        self._waker: Waker = waker or HttpWaker()
        self._warmer = warmer
        self._learner = Learner(phases, self._history, self._clock) if phases else None
        self._settings = settings or Settings()
        self.world = World()
        self._hands = Hands(cluster, self.world, self._clock)
        self.states: dict[Key, PoolState] = {}
        """What is remembered of each pool."""
        self._gate = asyncio.Semaphore(self._settings.parallel)
        self._reading: Mapping[Key, Demand] | None = {}
        self.demand_trouble: str | None = None
        """Why demand cannot be read, if it cannot."""
        self.counts = Counts()
        self.looked_at: datetime | None = None
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
                there |= self.world.put_all(resource, page)
            self.world.keep(resource, there)
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
        before = self._hands.writes
        report = TickReport()
        for key in [key for key in self.states if key not in self.world.pools]:
            del self.states[key]
        keys = list(self.world.pools) if only is None else [key for key in only if key in self.world.pools]
        await asyncio.gather(*(self._give_back(write, report) for write in self._orphans()))
        # Looking is pure and quick; only what has to be written waits for the network, and side by side.
        if only is None:
            keys = [key for key in keys if self._worth_a_look(key, now)]
        pending: list[tuple[Key, Outcome]] = []
        for number, key in enumerate(keys):
            if number % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)  # watches and health probes want to be served too
            if key in self.world.pools and (outcome := self._look(key, now, report)) is not None:
                pending.append((key, reconcile.waiting(outcome)))
        # Floors first, words after: when many windows open at once, no floor waits for another one's event.
        moved = await self._each(pending, self._move_floor, report)
        said = [entry for entry, done in zip(pending, moved, strict=True) if done]
        await self._each(said, self._arrange, report)
        await self._each(said, self._say, report)
        report.looked_at = len(keys)
        report.writes = self._hands.writes - before
        self.counts.looks += report.looked_at
        self.counts.floors += report.floors
        self.counts.writes += report.writes
        self.counts.errors += len(report.errors)
        if only is None:
            self.looked_at = now
        accounts = {key: state.account for key, state in self.states.items() if state.account}
        self._history.save(now, accounts)
        return report

    async def _look_for_places(self, now: datetime) -> None:
        """Ask the pods of Revisions whose replicas are long in coming whether they find a place.

        A Revision that has one replica says nothing of the others that wait for a GPU, and what waits for one
        must not be taken for a slow start.
        """
        waiting = [
            (key[0], name)
            for key, state in self.states.items()
            for name, watch in state.watches.items()
            if watch.start_since is not None and now >= watch.start_since + rollout_check.PLACING
        ]
        settled = self.world.unplaced - set(waiting)
        for revision in settled:
            self.world.place(revision, None)
        await asyncio.gather(*map(self._look_for_place, waiting))

    async def _look_for_place(self, revision: Key) -> None:
        try:
            async with self._gate:
                pods = await self._cluster.list(POD, revision[0], f"{_REVISION_LABEL}={revision[1]}")
        except ClusterError as problem:  # what was known is all that is known
            log.debug("the pods of %s/%s cannot be listed: %s", *revision, problem)
            return
        self.world.place(revision, views.unplaced(pods))

    def _worth_a_look(self, key: Key, now: datetime) -> bool:
        """Whether a look can find anything else than the last one did."""
        state = self.states.get(key)
        if state is None or state.looked_at is None or state.stale is None or state.trouble is not None:
            return True
        if now < state.looked_at or now >= state.stale or (state.due is not None and now >= state.due):
            return True
        return state.seen != self._basis(self.world.pools[key])

    def _basis(self, pool: PoolView) -> object:
        """Everything but the time that a look depends on."""
        target = (pool.key[0], pool.spec.target) if pool.spec else None
        demand = self._reading.get(target) if self._reading is not None and target else None
        cold_starts = self._history.cold_starts(target) if target else None
        troubles = (self.demand_trouble, self._history.trouble)
        return self.world.versions[pool.key], demand, cold_starts, troubles

    def _orphans(self) -> tuple[Write, ...]:
        return planning.give_back(self.world.orphaned())

    async def _give_back(self, write: Write, report: TickReport) -> None:
        def again() -> Write | None:
            return next((other for other in self._orphans() if other.revision == write.revision), None)

        try:
            async with self._gate:
                report.floors += await self._hands.set_floor(write, again)
        except ClusterError as problem:
            report.errors.append(f"{write.revision[0]}/{write.revision[1]}: {problem}")

    def _look(self, key: Key, now: datetime, report: TickReport) -> Outcome | None:
        """Judge a pool and remember; None when there is nothing to write."""
        pool = self.world.pools[key]
        state = self.states.get(key) or PoolState(account=self._account_of(pool, now))
        self.states[key] = state
        try:
            outcome = reconcile.judge(self._sight(pool), state, now)
        except Exception as problem:  # one pool that trips us must not take the others' floors with it
            log.exception("pool %s/%s cannot be judged", *key)
            report.errors.append(f"{key[0]}/{key[1]}: {problem!r}")
            state.due = now + self._settings.retry_last
            return reconcile.broken(pool, state, repr(problem), now)
        self.states[key] = reconcile.remembered(state, outcome)
        self.states[key].seen = self._basis(pool)
        self.states[key].looked_at = now
        self.states[key].stale = now + self._settings.relook * (1 + _spread(key))
        for start in outcome.started:
            if pool.spec:
                self._history.add_cold_start((key[0], pool.spec.target), start)
                if self._learner is not None:
                    self._learner.hear((key[0], pool.spec.target), start)
        nothing = (
            not outcome.plan.writes
            and not outcome.scale_writes
            and not outcome.notices
            and not outcome.wake
            and outcome.arrange is None
            and not outcome.finished
            and (pool.finalized or not outcome.holds)
            and status.patch(pool.status, reconcile.words(outcome), now, state.status_at) is None
        )
        return None if nothing else outcome

    def _account_of(self, pool: PoolView, now: datetime) -> Account | None:
        """The account as the history has it, or else as the pool's own status says."""
        if pool.spec is None:
            return None
        limit = pool.spec.limits.budget
        since, _ = period_of(now, limit.period if limit else "month", pool.spec.zone)
        kept = self._history.account(pool.key, since)
        told = status.account(pool.status, since)
        return max((known for known in (kept, told) if known), key=lambda known: known.spent, default=None)

    def _sight(self, pool: PoolView) -> Sight:
        target = (pool.key[0], pool.spec.target) if pool.spec else None
        revisions = self.world.revisions_for(pool)
        reading = self._reading
        return Sight(
            pool=pool,
            service=self.world.services.get(target) if target else None,
            revisions=revisions,
            scales={
                revision.key[1]: self.world.scales[revision.key]
                for revision in revisions
                if revision.key in self.world.scales
            },
            rightful=self.world.rightful(target) if target else None,
            demand=None if reading is None or target is None else reading.get(target, Demand(0.0)),
            demand_trouble=self.demand_trouble,
            cold_starts=self._history.cold_starts(target) if target else None,
            history_trouble=self._history.trouble,
            prices=self._prices,
        )

    async def _each(
        self, outcomes: Sequence[tuple[Key, Outcome]], effect: Effect, report: TickReport
    ) -> list[bool]:
        """Carry out the same part of many outcomes, as many at a time as the API may be asked at once.

        Not a task for each: tasks of ten thousand pools are most of what a first look would need in memory.
        """
        done = [False] * len(outcomes)
        waiting = iter(enumerate(outcomes))

        async def work() -> None:
            for number, (key, outcome) in waiting:
                done[number] = await self._try(key, effect, outcome, report)

        await asyncio.gather(*(work() for _ in range(min(self._settings.parallel, len(outcomes)))))
        return done

    async def _try(self, key: Key, effect: Effect, outcome: Outcome, report: TickReport) -> bool:
        """Carry out a part of an outcome; what fails is tried again, and said in the status."""
        state = self.states[key]
        try:
            async with self._gate:
                await effect(key, outcome, report)
        except Exception as problem:  # whatever it is, it is this pool's alone
            if not isinstance(problem, ClusterError):
                log.exception("pool %s/%s: a fault in the controller", *key)
            state.failures += 1
            state.trouble = f"the API did not take a write: {problem}"
            first, last = self._settings.retry_first, self._settings.retry_last
            state.due = outcome.at + min(first * 2 ** min(state.failures - 1, 10), last)
            quiet = self._hands.quiet_until
            if quiet is not None:
                state.due = max(state.due, quiet)
            report.errors.append(f"{key[0]}/{key[1]}: {problem}")
            log.warning("pool %s/%s: %s", *key, state.trouble)
            return False
        if effect == self._say:
            if state.trouble is not None:
                state.due = outcome.at  # the status still tells of it
            state.failures, state.trouble = 0, None
        return True

    async def _move_floor(self, key: Key, outcome: Outcome, report: TickReport) -> None:
        pool = self.world.pools.get(key)
        if pool is None:
            return
        if outcome.holds and not pool.finalized and not pool.deleting:
            await self._hands.finalize(pool, on=True)  # first, or a deletion could leave a floor behind
        for write in outcome.plan.writes:
            again = partial(self._again, key, write, outcome.at)
            if await self._hands.set_floor(write, again):
                report.floors += 1
                state = self.states[key]
                contention.remember(state.lowered, write, outcome.at)
                # A floor that arrives nowhere makes no event that would wake us.
                verify_at = outcome.at + rollout_check.ARRIVING
                state.due = min(state.due, verify_at) if state.due else verify_at
        for scale_write in outcome.scale_writes:
            await self._hands.set_scale(key[0], scale_write)
        if outcome.wake and pool.spec:
            self.counts.wakes += 1
            await self._waker.wake(self.world.services[key[0], pool.spec.target])

    async def _arrange(self, key: Key, outcome: Outcome, report: TickReport) -> None:
        _ = report
        pool, state = self.world.pools.get(key), self.states[key]
        if outcome.arrange is None or pool is None or pool.spec is None:
            return
        floor, _ready = outcome.arrange
        before = state.warmth_trouble
        if self._warmer is not None:
            state.warmth_trouble = await self._warmer.arrange((key[0], pool.spec.target), floor)
        elif floor.hot < floor.replicas:
            state.warmth_trouble = f"there is no token to order replicas with, so they are not kept {floor}"
        else:
            state.warmth_trouble = None
        if state.warmth_trouble is None or self._warmer is None:
            state.arranged = outcome.arrange  # nothing more can be done about it
        if state.warmth_trouble != before:
            state.due = outcome.at  # the status has to tell
        elif state.arranged != outcome.arrange:
            state.due = outcome.at + self._settings.retry_last

    async def _say(self, key: Key, outcome: Outcome, report: TickReport) -> None:
        _ = report
        pool = self.world.pools.get(key)
        if pool is None:
            return
        if outcome.finished:
            if pool.finalized:
                await self._hands.finalize(pool, on=False)
            return
        state = self.states[key]
        for notice in outcome.notices:
            await self._hands.tell(pool, notice)
        state.announced = outcome.announces
        change = status.patch(pool.status, reconcile.words(outcome), outcome.at, state.status_at)
        if change is not None:
            await self._hands.set_status(key, change)
            state.status_at = outcome.at

    def _again(self, key: Key, write: Write, now: datetime) -> Write | None:
        """The write for the same Revision, planned on what the world looks like by now."""
        pool = self.world.pools.get(key)
        if pool is None:
            return None
        outcome = reconcile.judge(self._sight(pool), self.states[key], now)
        return next((other for other in outcome.plan.writes if other.revision == write.revision), None)

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
            if self._learner is not None:
                await self._learner.close()
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
