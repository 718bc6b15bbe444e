"""Carries out what a reconciliation decided, pool by pool, and returns the outcome.

Whatever fails, fails for one pool alone: errors are returned as values, and the status of that pool shows
them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from knative.client.errors import ClusterError
from warmpool.controller.actuator import ClusterWriter
from warmpool.controller.cluster_cache import ClusterCache
from warmpool.domain.object_key import ObjectKey
from warmpool.ports import Waker, WarmthClient
from warmpool.reconcile import status, transition, warmth_orders
from warmpool.reconcile.canary_values import TrafficWrite
from warmpool.reconcile.planning import FloorWrite
from warmpool.reconcile.reconciler import ReconcileResult
from warmpool.reconcile.state import PoolState
from warmpool.reconcile.transition import EffectResults

log = logging.getLogger(__name__)

Replan = Callable[[ObjectKey, FloorWrite], FloorWrite | None]
"""Makes a write of a pool anew, from what the cache knows by now."""


@dataclass(slots=True)
class PendingEffects:
    """A result that is being carried out, and the outcome so far."""

    state: PoolState
    result: ReconcileResult
    done: EffectResults

    @property
    def key(self) -> ObjectKey:
        """The pool."""
        return self.result.pool.key


class EffectRunner:
    """Writes floors, orders warmth and writes statuses, with bounded concurrency."""

    def __init__(
        self,
        writer: ClusterWriter,
        cache: ClusterCache,
        waker: Waker | None,
        warmth_client: WarmthClient | None,
        replan: Replan,
    ) -> None:
        """Without a `waker` no wake-up request is sent, without a `warmth_client` replicas are left alone."""
        self._writer = writer
        self._cache = cache
        self._waker = waker
        self._warmth_client = warmth_client
        self._replan = replan

    async def move_traffic(self, pending: PendingEffects) -> None:
        """Write the traffic of one pool's target, before any floor: a rollback must not wait for replicas."""
        write = pending.result.traffic
        if write is not None:
            await self._attempt(pending, partial(self._move_traffic, pending.key[0], write), "traffic")

    async def _move_traffic(self, namespace: str, write: TrafficWrite) -> None:
        await self._writer.set_traffic(namespace, write)

    async def write_floors(self, pending: PendingEffects) -> None:
        """Write the finalizer and then the floors of one pool: a deletion must not leave a floor behind.

        A write that is refused stops no other: each Revision has a webhook and annotations of its own.
        """
        result = pending.result
        pool = self._cache.pools.get(pending.key)
        if pool is None:
            return
        if result.add_finalizer and not pool.finalized and not pool.deleting:
            error = await self._attempt(pending, partial(self._writer.set_finalizer, pool, present=True))
            if error is not None:
                return
        for write in result.plan.writes:
            await self._attempt(pending, partial(self._write_floor, pending, write))
        for autoscaler_write in result.autoscaler_writes:
            await self._attempt(
                pending, partial(self._writer.set_autoscaler, pending.key[0], autoscaler_write)
            )
        if result.wake:
            await self._attempt(pending, partial(self._wake, pending))

    async def _attempt(
        self, pending: PendingEffects, write: Callable[[], Awaitable[None]], what: str = "floor"
    ) -> str | None:
        """Make one write; an error is added to the outcome and returned."""
        try:
            await write()
        except Exception as error:  # noqa: BLE001  whatever it is, it must stop neither other writes nor other pools
            text = _describe(error, pending.key, what)
            errors = dict.fromkeys([*filter(None, [pending.done.write_error]), text])
            pending.done = replace(pending.done, write_error="; ".join(errors))
            return text
        return None

    async def _write_floor(self, pending: PendingEffects, write: FloorWrite) -> None:
        made = await self._writer.set_floor(write, partial(self._replan, pending.key, write))
        if made is not None:
            written = (*pending.done.floors_written, made)
            pending.done = replace(pending.done, floors_written=written)

    async def _wake(self, pending: PendingEffects) -> None:
        target = pending.result.pool.target
        service = self._cache.services.get(target) if target else None
        if self._waker is not None and service is not None:
            urls = [url for url in (service.address, service.url) if url]
            await self._waker.wake(service.key, urls)

    async def order_warmth(self, pending: PendingEffects) -> None:
        """Order the replicas of one pool to the warmth of its floor, if they are not there yet."""
        target, service = pending.result.warmth, pending.result.pool.target
        done = pending.done
        if target is None or service is None or target == done.warmth_applied or done.write_error:
            return
        if self._warmth_client is None:
            # Nothing more can be done about it, so that it is not tried again.
            error = None
            if target.floor.hot < target.floor.replicas:
                error = f"no key to set the warmth of replicas with, so they are not kept {target.floor}"
            pending.done = replace(done, warmth_applied=target, warmth_error=error)
            return
        try:
            replicas, errors = await self._warmth_client.replicas(service)
            orders = warmth_orders.orders_for(replicas, target.floor)
            answers = await asyncio.gather(
                *(self._warmth_client.set_warmth(service, order.replica, order.warmth) for order in orders)
            )
            text = "; ".join([*errors, *(answer for answer in answers if answer)]) or None
        except Exception as error:  # noqa: BLE001  whatever it is, it must not stop the other pools
            text = _describe(error, pending.key, "warmth")
        applied = done.warmth_applied if text else target
        pending.done = replace(done, warmth_applied=applied, warmth_error=text)

    async def write_status(self, pending: PendingEffects) -> None:
        """Post the events of one pool and write its status, or remove its finalizer when it is released."""
        state, result = pending.state, pending.result
        try:
            pool = self._cache.pools.get(pending.key)
            if pool is None:
                return
            if result.remove_finalizer and pending.done.write_error is None:
                await self._writer.set_finalizer(pool, present=False)
                return
            description = transition.describe(result, state, pending.done)
            for event in description.events:
                await self._writer.post_event(pool, event)
            pending.done = replace(pending.done, announced=description.announced)
            patch = status.patch(pool.status, description.status, result.at, state.status_written_at)
            if patch is not None:
                await self._writer.set_status(pending.key, patch)
                pending.done = replace(pending.done, status_written=True)
        except Exception as error:  # noqa: BLE001  whatever it is, it must not stop the other pools
            text = _describe(error, pending.key, "status")
            pending.done = replace(pending.done, status_error=text)


def _describe(error: Exception, key: ObjectKey, what: str) -> str:
    """One sentence for the status; a fault in the controller is logged with its traceback."""
    if isinstance(error, ClusterError):
        log.warning("pool %s/%s: the API refused to write the %s: %s", *key, what, error)
        return f"the API refused to write the {what}: {error}"
    log.error("pool %s/%s: a fault in the controller", *key, exc_info=error)
    return f"a fault in the controller kept it from writing the {what}: {error!r}"
