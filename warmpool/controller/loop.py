"""When to look: as soon as something changes, at every window's edge, and at everything now and then.

Watches say what changed and an alarm says when the next edge is. A watch that breaks costs nothing but time:
what it missed is found by the next look at everything, or by the next list.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.client.resources import Resource
from warmpool.adapters.clock import Clock
from warmpool.controller.cluster_cache import WATCHED, ClusterCache
from warmpool.controller.settings import Settings
from warmpool.reconcile.views import Key

log = logging.getLogger(__name__)

_SOONEST = timedelta(milliseconds=20)


class Looker(Protocol):
    """Who looks; see `warmpool.controller.runner.Controller`."""

    cache: ClusterCache

    async def refresh(self) -> None:
        """List everything there is, anew."""

    async def tick(
        self, now: datetime | None = None, only: Collection[Key] | None = None, *, refresh: bool = True
    ) -> object:
        """Look at every pool, or only at those named."""

    def next_due(self) -> datetime | None:
        """When a pool wants to be looked at next."""

    def due(self, now: datetime) -> set[Key]:
        """The pools whose time has come."""

    def stale(self, now: datetime) -> bool:
        """Whether the cluster was listed too long ago."""


class Loop:
    """Makes a controller look whenever there is reason to."""

    def __init__(
        self, looker: Looker, cluster: Cluster, clock: Clock, settings: Settings, namespace: str | None
    ) -> None:
        self._looker = looker
        self._cluster = cluster
        self._clock = clock
        self._settings = settings
        self._namespace = namespace
        self._woken = asyncio.Event()
        self._dirty: set[Key] = set()
        self._whole = True

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; the API may come and go."""
        await self._first_sight(stop)
        if stop.is_set():
            return
        scheduler = AsyncIOScheduler(timezone=UTC)
        scheduler.add_job(
            self._look_at_all, IntervalTrigger(seconds=self._settings.interval.total_seconds()), coalesce=True
        )
        scheduler.start()
        tasks = [
            asyncio.create_task(self._watch(resource), name=f"watch {resource.plural}")
            for resource in WATCHED
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            while not stop.is_set():
                try:
                    await self._turn(scheduler)
                except Exception:  # a fault of ours in one turn must not leave every floor to its expiry
                    log.exception("a turn of the control loop failed; it goes on")
                    self._whole = True
                    await asyncio.sleep(self._settings.retry_first.total_seconds())
                waking = asyncio.create_task(self._woken.wait())
                await asyncio.wait({waking, stopping}, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                await asyncio.sleep(self._settings.gather.total_seconds() if self._dirty else 0)
        finally:
            scheduler.shutdown(wait=False)
            stopping.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)

    async def _first_sight(self, stop: asyncio.Event) -> None:
        delay = self._settings.retry_first
        while not stop.is_set():
            try:
                await self._looker.refresh()
            except ClusterError as problem:
                log.warning("the cluster cannot be seen yet: %s", problem)
            else:
                return
            try:
                await asyncio.wait_for(stop.wait(), delay.total_seconds())
            except TimeoutError:
                delay = min(delay * 2, self._settings.retry_last)

    async def _turn(self, scheduler: AsyncIOScheduler) -> None:
        """One tick over what there is reason to look at, and an alarm for the next edge."""
        self._woken.clear()
        now = self._clock.now()
        whole, self._whole = self._whole, False
        dirty, self._dirty = self._dirty, set()
        due = self._looker.due(now)
        stale = self._looker.stale(now)
        if stale:
            try:
                await self._looker.refresh()
            except ClusterError as problem:  # what is known is looked at all the same
                log.warning("the cluster cannot be listed: %s", problem)
        await self._looker.tick(now, None if whole or stale else dirty | due, refresh=False)
        self._set_alarm(scheduler)

    def _set_alarm(self, scheduler: AsyncIOScheduler) -> None:
        next_due = self._looker.next_due()
        if next_due is None:
            if scheduler.get_job("edge"):
                scheduler.remove_job("edge")
            return
        wait = max(next_due - self._clock.now(), _SOONEST)
        at = datetime.now(UTC) + wait
        scheduler.add_job(
            self._woken.set, DateTrigger(at), id="edge", replace_existing=True, misfire_grace_time=None
        )

    async def _look_at_all(self) -> None:
        self._whole = True
        self._woken.set()

    async def _watch(self, resource: Resource) -> None:
        delay = self._settings.retry_first
        while True:
            try:
                async for kind, obj in self._cluster.watch(resource, self._namespace):
                    self._take(resource, kind, obj)
                    delay = self._settings.retry_first
            except ClusterError as problem:  # 403 too: a server that has just started knows no roles yet
                log.warning("watch of %s: %s", resource.plural, problem)
            await asyncio.sleep(delay.total_seconds())
            delay = min(delay * 2, self._settings.retry_last)

    def _take(self, resource: Resource, kind: str, obj: dict[str, Any]) -> None:
        meta = obj["metadata"]
        if kind == "DELETED":
            concerned = self._looker.cache.remove(resource, (meta.get("namespace", ""), meta["name"]))
        else:
            concerned = self._looker.cache.put(resource, obj)
        if concerned:
            self._dirty |= concerned
            self._woken.set()
