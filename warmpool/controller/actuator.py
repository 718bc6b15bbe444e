"""The effects: every request that the controller sends to the API, and what it makes of the answers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from knative.autoscaling.annotations import MIN_SCALE
from knative.client.cluster import Cluster
from knative.client.errors import AlreadyExists, ClusterError, Conflict, NotFound, TooManyRequests
from knative.client.resources import EVENT, POD_AUTOSCALER, REVISION, WARM_POOL
from warmpool.adapters.clock import Clock
from warmpool.controller.cluster_cache import ClusterCache
from warmpool.reconcile import events, ownership
from warmpool.reconcile.planning import AutoscalerWrite, FloorWrite
from warmpool.reconcile.views import Key, PoolView

log = logging.getLogger(__name__)

Replan = Callable[[], FloorWrite | None]
_ATTEMPTS = 4


class ClusterWriter:
    """Writes to the cluster and keeps the picture of it up to date with the answers."""

    def __init__(self, cluster: Cluster, cache: ClusterCache, clock: Clock) -> None:
        self._cluster = cluster
        self._cache = cache
        self._clock = clock
        self._quiet_until: datetime | None = None
        self.writes = 0
        """Requests that changed something, since the start."""

    @property
    def quiet_until(self) -> datetime | None:
        """Until when the server asked to be left alone."""
        return self._quiet_until

    async def set_floor(self, write: FloorWrite, replan: Replan) -> bool:
        """Patch a Revision; `replan` is asked again when it has changed meanwhile.

        Returns whether anything was written.
        """
        namespace, name = write.revision
        current: FloorWrite | None = write
        for _ in range(_ATTEMPTS):
            if current is None:
                return False
            body = {"metadata": {"resourceVersion": current.version, "annotations": current.annotations}}
            try:
                found = await self._send(partial(self._cluster.patch, REVISION, name, namespace, body))
            except Conflict:
                try:
                    found = await self._send(lambda: self._cluster.get(REVISION, name, namespace))
                except NotFound:
                    self._cache.remove(REVISION, write.revision)
                    return False
                self._cache.put(REVISION, found)
                current = replan()
                continue
            except NotFound:
                self._cache.remove(REVISION, write.revision)
                return False
            self.writes += 1
            self._cache.put(REVISION, found)
            log.info("revision %s/%s: min-scale %s", namespace, name, current.min_scale)
            return True
        raise Conflict(409, "Conflict", f"Revision {name} keeps changing")

    async def set_scale(self, namespace: str, write: AutoscalerWrite) -> None:
        """Patch a PodAutoscaler, for a Knative that does not pass the Revision's annotation on."""
        value = None if write.min_scale is None else str(write.min_scale)
        body = {"metadata": {"annotations": {MIN_SCALE: value, ownership.LEVER: write.pool}}}
        try:
            found = await self._send(lambda: self._cluster.patch(POD_AUTOSCALER, write.name, namespace, body))
        except NotFound:
            return
        self.writes += 1
        self._cache.put(POD_AUTOSCALER, found)
        log.info("podautoscaler %s/%s: min-scale %s", namespace, write.name, value)

    async def finalize(self, pool: PoolView, *, on: bool) -> bool:
        """Put our finalizer on a pool, or take it off; returns whether the pool is still there."""
        names = [name for name in pool.finalizers if name != ownership.FINALIZER]
        if on:
            names.append(ownership.FINALIZER)
        body = {"metadata": {"resourceVersion": pool.version, "finalizers": names}}
        try:
            found = await self._send(lambda: self._cluster.patch(WARM_POOL, pool.key[1], pool.key[0], body))
        except NotFound:
            self._cache.remove(WARM_POOL, pool.key)
            return False
        self.writes += 1
        if not on and pool.deleting and not names:
            self._cache.remove(WARM_POOL, pool.key)
            return False
        self._cache.put(WARM_POOL, found)
        return True

    async def set_status(self, key: Key, patch: dict[str, Any]) -> None:
        """Patch a pool's status."""
        try:
            found = await self._send(
                lambda: self._cluster.patch(
                    WARM_POOL, key[1], key[0], {"status": patch}, subresource="status"
                )
            )
        except NotFound:
            self._cache.remove(WARM_POOL, key)
            return
        self.writes += 1
        self._cache.put(WARM_POOL, found)

    async def tell(self, pool: PoolView, event: events.PoolEvent) -> None:
        """Post an Event. One that cannot be posted is logged and forgotten: no floor depends on it."""
        now = self._clock.now()
        level = logging.WARNING if event.type == "Warning" else logging.INFO
        log.log(level, "pool %s/%s: %s: %s", *pool.key, event.reason, event.message)
        try:
            await self._send(lambda: self._cluster.create(EVENT, events.build(pool, event, now)))
        except AlreadyExists:
            return
        except ClusterError as problem:
            log.warning("event of pool %s/%s was not posted: %s", *pool.key, problem)
            return
        self.writes += 1

    async def _send(self, request: Callable[[], Awaitable[Any]]) -> Any:
        """Send one request, unless the server has asked to be left alone."""
        if self._quiet_until is not None:
            if self._clock.now() < self._quiet_until:
                raise TooManyRequests(429, "TooManyRequests", "the API has asked to wait")
            self._quiet_until = None
        try:
            return await request()
        except TooManyRequests as told:
            wait = told.retry_after if told.retry_after is not None else 1.0
            self._quiet_until = self._clock.now() + timedelta(seconds=wait)
            raise
