"""One endless watch of one kind, which keeps the cache up to date and survives whatever the server sends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.client.resources import Resource
from warmpool.controller.cluster_cache import ClusterCache
from warmpool.controller.settings import Settings
from warmpool.domain.object_key import ObjectKey

log = logging.getLogger(__name__)


async def watch(  # noqa: PLR0917  what a watch is made of
    cluster: Cluster,
    resource: Resource,
    namespace: str | None,
    cache: ClusterCache,
    on_change: Callable[[set[ObjectKey]], None],
    settings: Settings,
) -> None:
    """Watch a kind until cancelled; `on_change` hears of the pools that have to be reconciled.

    A watch that ends or fails, for whatever reason, is started again with exponential back-off.
    """
    delay = settings.retry_first
    while True:
        try:
            async for kind, obj in cluster.watch(resource, namespace):
                concerned = _store(cache, resource, kind, obj)
                if concerned:
                    on_change(concerned)
                delay = settings.retry_first
        except ClusterError as error:  # 403, too: a server that has just started knows no roles yet
            log.warning("watch of %s: %s", resource.plural, error)
        except Exception:  # a watch that has ended for good would leave floors to the next resync
            log.exception("watch of %s failed and is started again", resource.plural)
        await asyncio.sleep(delay.total_seconds())
        delay = min(delay * 2, settings.retry_last)


def _store(cache: ClusterCache, resource: Resource, kind: str, obj: dict[str, Any]) -> set[ObjectKey]:
    if kind == "DELETED":
        meta = obj["metadata"]
        return cache.remove(resource, (meta.get("namespace", ""), meta["name"]))
    return cache.put(resource, obj)
