"""Whether the scheduler can place the pods of Revisions that start slowly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.client.resources import POD
from knative.labels import REVISION_LABEL
from warmpool.controller.cluster_cache import ClusterCache
from warmpool.domain.object_key import ObjectKey
from warmpool.reconcile import parsing

log = logging.getLogger(__name__)


class SchedulingCheck:
    """Lists pods and notes in the cache which cannot be scheduled.

    A Revision that has one ready replica does not report others that wait for a GPU, and their waiting must
    not count as a slow cold start.
    """

    def __init__(self, cluster: Cluster, cache: ClusterCache, *, parallel: int) -> None:
        """`parallel` requests are sent at a time."""
        self._cluster = cluster
        self._cache = cache
        self._limit = asyncio.Semaphore(parallel)

    async def check(self, slow: Iterable[ObjectKey]) -> None:
        """List the pods of these Revisions; all others count as scheduled."""
        revisions = set(slow)
        for revision in self._cache.unscheduled - revisions:
            self._cache.set_unscheduled(revision, None)
        await asyncio.gather(*(self._check(revision) for revision in revisions))

    async def _check(self, revision: ObjectKey) -> None:
        try:
            async with self._limit:
                pods = await self._cluster.list(POD, revision[0], f"{REVISION_LABEL}={revision[1]}")
            self._cache.set_unscheduled(revision, parsing.parse_unscheduled(pods))
        except ClusterError as error:  # what was known before still counts
            log.debug("the pods of %s/%s cannot be listed: %s", *revision, error)
        except Exception:  # a malformed pod concerns this Revision alone
            log.exception("the pods of %s/%s cannot be parsed", *revision)
