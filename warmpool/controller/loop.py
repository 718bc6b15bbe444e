"""When to reconcile: as soon as something changes, at every edge of a window, and everything now and then.

Watches report changes and an APScheduler job fires at the next edge. A watch that breaks costs nothing but
time: what it missed is found by the next pass over everything, or by the next list.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from warmpool.controller.cluster_cache import WATCHED, ClusterCache
from warmpool.controller.settings import Settings
from warmpool.controller.watches import watch
from warmpool.domain.object_key import ObjectKey
from warmpool.ports import Clock

log = logging.getLogger(__name__)

_SOONEST: Final = timedelta(milliseconds=20)
"""The shortest time to the next edge, so that one that has just passed does not make the loop spin."""
_EDGE: Final = "edge"
"""The job that fires at the next edge."""


class PassRunner(Protocol):
    """What the loop drives; see `warmpool.controller.runner.Controller`."""

    cache: ClusterCache
    heartbeat: datetime | None

    async def refresh(self) -> None:
        """List everything anew."""

    async def tick(
        self,
        now: datetime | None = None,
        only: Collection[ObjectKey] | None = None,
        *,
        refresh: bool = True,
    ) -> object:
        """Reconcile every pool, or only those named."""

    def next_due(self) -> datetime | None:
        """When the next pool wants to be reconciled."""

    def due(self, now: datetime) -> set[ObjectKey]:
        """The pools that want to be reconciled by now."""

    def needs_resync(self, now: datetime) -> bool:
        """Whether the cluster was listed too long ago."""


class Loop:
    """Drives a reconciler until it is stopped."""

    def __init__(
        self,
        reconciler: PassRunner,
        cluster: Cluster,
        clock: Clock,
        settings: Settings,
        namespace: str | None,
    ) -> None:
        self._reconciler = reconciler
        self._cluster = cluster
        self._clock = clock
        self._settings = settings
        self._namespace = namespace
        self._wake_up = asyncio.Event()
        self._changed: set[ObjectKey] = set()
        self._everything = True

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile until `stop` is set; the API may come and go."""
        await self._first_sync(stop)
        if stop.is_set():
            return
        scheduler = AsyncIOScheduler(timezone=UTC)
        seconds = self._settings.interval.total_seconds()
        scheduler.add_job(
            self._schedule_everything,
            IntervalTrigger(seconds=seconds),
            coalesce=True,
            misfire_grace_time=None,
        )
        scheduler.start()
        watches = [
            asyncio.create_task(
                watch(
                    self._cluster,
                    resource,
                    self._namespace,
                    self._reconciler.cache,
                    self._on_change,
                    self._settings,
                ),
                name=f"watch {resource.plural}",
            )
            for resource in WATCHED
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            while not stop.is_set():
                try:
                    await self._pass(scheduler)
                except Exception:  # a fault in one pass must not leave every floor to its expiry
                    log.exception("a pass of the control loop failed; the next one follows")
                    self._everything = True
                    await asyncio.sleep(self._settings.retry_first.total_seconds())
                waking = asyncio.create_task(self._wake_up.wait())
                await asyncio.wait({waking, stopping}, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                await asyncio.sleep(self._settings.gather.total_seconds() if self._changed else 0)
        finally:
            scheduler.shutdown(wait=False)
            stopping.cancel()
            for task in watches:
                task.cancel()
            await asyncio.gather(*watches, stopping, return_exceptions=True)

    async def _first_sync(self, stop: asyncio.Event) -> None:
        delay = self._settings.retry_first
        while not stop.is_set():
            try:
                await self._reconciler.refresh()
            except ClusterError as error:
                log.warning("the cluster cannot be listed yet: %s", error)
                self._reconciler.heartbeat = self._clock.now()
            except Exception:  # without a heartbeat the liveness check fails, if this goes on
                log.exception("the cluster cannot be listed yet")
            else:
                return
            try:
                await asyncio.wait_for(stop.wait(), delay.total_seconds())
            except TimeoutError:
                delay = min(delay * 2, self._settings.retry_last)

    async def _pass(self, scheduler: AsyncIOScheduler) -> None:
        """Reconcile what there is reason to, and set the alarm for the next edge."""
        self._wake_up.clear()
        now = self._clock.now()
        everything, self._everything = self._everything, False
        changed, self._changed = self._changed, set()
        due = self._reconciler.due(now)
        resync = self._reconciler.needs_resync(now)
        if resync:
            try:
                await self._reconciler.refresh()
            except Exception as error:  # what is known is reconciled all the same
                known = isinstance(error, ClusterError)
                log.warning("the cluster cannot be listed: %s", error, exc_info=None if known else error)
        await self._reconciler.tick(now, None if everything or resync else changed | due, refresh=False)
        self._set_alarm(scheduler)

    def _set_alarm(self, scheduler: AsyncIOScheduler) -> None:
        next_due = self._reconciler.next_due()
        if next_due is None:
            if scheduler.get_job(_EDGE):
                scheduler.remove_job(_EDGE)
            return
        at = datetime.now(UTC) + max(next_due - self._clock.now(), _SOONEST)
        scheduler.add_job(
            self._wake_up.set, DateTrigger(at), id=_EDGE, replace_existing=True, misfire_grace_time=None
        )

    async def _schedule_everything(self) -> None:
        self._everything = True
        self._wake_up.set()

    def _on_change(self, pools: set[ObjectKey]) -> None:
        self._changed |= pools
        self._wake_up.set()
