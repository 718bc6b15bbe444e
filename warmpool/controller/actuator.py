"""Every request of the controller that changes something in the cluster."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from knative.autoscaling.annotations import MIN_SCALE
from knative.client.cluster import Cluster
from knative.client.errors import AlreadyExists, ClusterError, Conflict, NotFound, TooManyRequests
from knative.client.resources import EVENT, POD_AUTOSCALER, REVISION, SERVICE, WARM_POOL
from warmpool.controller.cluster_cache import ClusterCache
from warmpool.domain.object_key import ObjectKey
from warmpool.ports import Clock
from warmpool.reconcile import canary_record, events, ownership
from warmpool.reconcile.canary_values import TrafficWrite
from warmpool.reconcile.planning import AutoscalerWrite, FloorWrite
from warmpool.reconcile.views import PoolView

log = logging.getLogger(__name__)

Replan = Callable[[], FloorWrite | None]
_ATTEMPTS: Final = 4
_PAUSE_S: Final = 1.0
"""How long to send nothing after a 429 without Retry-After."""
_LONGEST_PAUSE_S: Final = 300.0
"""The longest Retry-After that is honoured: a wrong one must not stop the controller for hours."""


class ClusterWriter:
    """Writes to the cluster and stores the responses in the cache."""

    def __init__(self, cluster: Cluster, cache: ClusterCache, clock: Clock) -> None:
        self._cluster = cluster
        self._cache = cache
        self._clock = clock
        self._not_before: datetime | None = None
        self.writes = 0
        """Requests that changed something, since the start."""

    @property
    def not_before(self) -> datetime | None:
        """Until when the server has asked to send nothing (429 with Retry-After)."""
        return self._not_before

    async def set_floor(self, write: FloorWrite, replan: Replan) -> FloorWrite | None:
        """Patch a Revision; `replan` makes the write anew when the Revision has changed in the meantime.

        Returns the write that was made; None if none was needed.

        Raises:
            ClusterError: the API refuses it.
        """
        namespace, name = write.revision
        current: FloorWrite | None = write
        for _ in range(_ATTEMPTS):
            if current is None:
                return None
            body = {"metadata": {"resourceVersion": current.version, "annotations": current.annotations}}
            try:
                found = await self._send(partial(self._cluster.patch, REVISION, name, namespace, body))
            except Conflict:
                try:
                    found = await self._send(lambda: self._cluster.get(REVISION, name, namespace))
                except NotFound:
                    self._cache.remove(REVISION, write.revision)
                    return None
                self._cache.put(REVISION, found)
                current = replan()
                continue
            except NotFound:
                self._cache.remove(REVISION, write.revision)
                return None
            self.writes += 1
            self._cache.put(REVISION, found)
            log.info("revision %s/%s: min-scale %s", namespace, name, current.min_scale)
            return current
        raise Conflict(409, "Conflict", f"Revision {name} keeps changing")

    async def set_autoscaler(self, namespace: str, write: AutoscalerWrite) -> None:
        """Patch a PodAutoscaler, for a Knative that does not copy the Revision's annotation.

        Raises:
            ClusterError: the API refuses it.
        """
        value = None if write.min_scale is None else str(write.min_scale)
        body = {"metadata": {"annotations": {MIN_SCALE: value, ownership.LEVER: write.pool}}}
        try:
            found = await self._send(lambda: self._cluster.patch(POD_AUTOSCALER, write.name, namespace, body))
        except NotFound:
            return
        self.writes += 1
        self._cache.put(POD_AUTOSCALER, found)
        log.info("podautoscaler %s/%s: min-scale %s", namespace, write.name, value)

    async def set_traffic(self, namespace: str, write: TrafficWrite) -> bool:
        """Write a Service's traffic and the record of its rollout in one server-side apply.

        Both belong to a field manager of their own, so that whoever applies the Service without a traffic
        block changes neither. Nothing is written when somebody else has changed the traffic since.

        Raises:
            ClusterError: the API refuses it.
        """
        for _ in range(_ATTEMPTS):
            try:
                found = await self._send(lambda: self._cluster.get(SERVICE, write.service, namespace))
            except NotFound:
                self._cache.remove(SERVICE, (namespace, write.service))
                return False
            self._cache.put(SERVICE, found)
            present = canary_record.parse_traffic((found.get("spec") or {}).get("traffic"))
            if not canary_record.same(present, write.before):
                return False
            meta: dict[str, Any] = {"name": write.service, "namespace": namespace}
            meta["resourceVersion"] = found["metadata"]["resourceVersion"]
            body: dict[str, Any] = {"metadata": meta}
            if write.record is not None:
                meta["annotations"] = {canary_record.RECORD: canary_record.write(write.record)}
                body["spec"] = {"traffic": [entry.to_wire() for entry in write.record.traffic]}
            try:
                applied = await self._send(partial(self._apply_traffic, body))
            except Conflict:
                continue
            self.writes += 1
            self._cache.put(SERVICE, applied)
            log.info("service %s/%s: traffic %s", namespace, write.service, body.get("spec", "given back"))
            return True
        raise Conflict(409, "Conflict", f"Service {write.service} keeps changing")

    async def _apply_traffic(self, body: dict[str, Any]) -> Any:
        return await self._cluster.apply(SERVICE, body, field_manager=canary_record.FIELD_MANAGER, force=True)

    async def set_finalizer(self, pool: PoolView, *, present: bool) -> None:
        """Add the controller's finalizer to a pool, or remove it.

        Raises:
            ClusterError: the API refuses it.
        """
        names = [name for name in pool.finalizers if name != ownership.FINALIZER]
        if present:
            names.append(ownership.FINALIZER)
        body = {"metadata": {"resourceVersion": pool.version, "finalizers": names}}
        try:
            found = await self._send(lambda: self._cluster.patch(WARM_POOL, pool.key[1], pool.key[0], body))
        except NotFound:
            self._cache.remove(WARM_POOL, pool.key)
            return
        self.writes += 1
        if pool.deleting and not names:
            self._cache.remove(WARM_POOL, pool.key)
        else:
            self._cache.put(WARM_POOL, found)

    async def set_status(self, key: ObjectKey, patch: dict[str, Any]) -> None:
        """Patch a pool's status.

        Raises:
            ClusterError: the API refuses it.
        """
        body = {"status": patch}
        try:
            found = await self._send(
                lambda: self._cluster.patch(WARM_POOL, key[1], key[0], body, subresource="status")
            )
        except NotFound:
            self._cache.remove(WARM_POOL, key)
            return
        self.writes += 1
        self._cache.put(WARM_POOL, found)

    async def post_event(self, pool: PoolView, event: events.PoolEvent) -> None:
        """Create an Event. A failure is only logged: no floor depends on it."""
        level = logging.WARNING if event.type == "Warning" else logging.INFO
        log.log(level, "pool %s/%s: %s: %s", *pool.key, event.reason, event.message)
        body = events.build(pool, event, self._clock.now())
        try:
            await self._send(lambda: self._cluster.create(EVENT, body))
        except AlreadyExists:
            return
        except ClusterError as error:
            log.warning("event of pool %s/%s was not posted: %s", *pool.key, error)
            return
        self.writes += 1

    async def _send(self, request: Callable[[], Awaitable[Any]]) -> Any:
        """Send one request, unless the server has asked to send none."""
        if self._not_before is not None:
            if self._clock.now() < self._not_before:
                raise TooManyRequests(429, "TooManyRequests", "the API has asked to wait")
            self._not_before = None
        try:
            return await request()
        except TooManyRequests as error:
            pause = min(error.retry_after, _LONGEST_PAUSE_S) if error.retry_after is not None else _PAUSE_S
            self._not_before = self._clock.now() + timedelta(seconds=pause)
            raise
