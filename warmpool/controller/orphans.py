"""Floors of pools that no longer exist."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from knative.client.errors import ClusterError
from warmpool.controller.actuator import ClusterWriter
from warmpool.controller.cluster_cache import ClusterCache
from warmpool.reconcile import planning
from warmpool.reconcile.planning import FloorWrite

log = logging.getLogger(__name__)


class OrphanedFloors:
    """Gives back floors whose pool is gone, because it was deleted without its finalizer."""

    def __init__(self, writer: ClusterWriter, cache: ClusterCache, *, parallel: int) -> None:
        """`parallel` requests are sent at a time."""
        self._writer = writer
        self._cache = cache
        self._limit = asyncio.Semaphore(parallel)

    async def release(self) -> tuple[int, list[str]]:
        """Give them back; returns how many were, and an error for each that could not be."""
        writes = planning.release_floors(self._cache.orphaned())
        errors = await asyncio.gather(*(self._release(write) for write in writes))
        refused = [error for error in errors if error]
        return len(writes) - len(refused), refused

    async def _release(self, write: FloorWrite) -> str | None:
        try:
            async with self._limit:
                await self._writer.set_floor(write, partial(self._replan, write))
        except Exception as error:
            if not isinstance(error, ClusterError):
                log.exception("the floor of %s/%s cannot be given back", *write.revision)
            return f"{write.revision[0]}/{write.revision[1]}: {error}"
        return None

    def _replan(self, write: FloorWrite) -> FloorWrite | None:
        writes = planning.release_floors(self._cache.orphaned())
        return next((other for other in writes if other.revision == write.revision), None)
