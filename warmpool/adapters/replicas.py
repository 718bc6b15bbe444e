"""Orders to replicas: `POST /admin/warmth`, with the token that they were started with."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import aiohttp

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.client.resources import POD
from knative.labels import PORT_ANNOTATION, SERVICE_LABEL
from warmpool.domain.field_types import WARMTHS
from warmpool.domain.floor import Floor
from warmpool.domain.object_key import ObjectKey
from warmpool.reconcile.warmth_orders import Order, Replica, arrange

PATH: Final = "/admin/warmth"
"""Where the local platform says a replica's port; on a cluster it is queue-proxy's."""
_QUEUE_PROXY: Final = "8012"


class HttpWarmthActuator:
    """Finds a Service's replicas and orders them about."""

    def __init__(self, cluster: Cluster, token: str, *, timeout_s: float = 5.0) -> None:
        """`token` is the replicas' PILOTLIGHT_ADMIN_TOKEN."""
        self._cluster = cluster
        self._headers = {"Authorization": f"Bearer {token}"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def arrange(self, service: ObjectKey, floor: Floor) -> str | None:
        """Bring the replicas to a floor's warmth; returns what went wrong, if something did."""
        try:
            pods = await pods_of(self._cluster, service)
        except ClusterError as problem:
            return f"pods cannot be listed: {problem}"
        async with aiohttp.ClientSession(timeout=self._timeout, headers=self._headers) as session:
            doors = [(pod["metadata"]["name"], url) for pod in pods if (url := door(pod, PATH))]
            seen = await asyncio.gather(*(self._read(session, name, url) for name, url in doors))
            replicas = [found for found in seen if isinstance(found, Replica)]
            orders = arrange(replicas, floor)
            told = await asyncio.gather(*(self._order(session, order) for order in orders))
        troubles = [found for found in seen if isinstance(found, str)] + [text for text in told if text]
        return "; ".join(troubles) or None

    async def _read(self, session: aiohttp.ClientSession, name: str, url: str) -> Replica | str:
        try:
            async with session.get(url) as answer:
                if answer.status != 200:
                    return f"{name} does not tell its warmth: HTTP {answer.status}"
                rest = (await answer.json(content_type=None)).get("rest")
        except (aiohttp.ClientError, TimeoutError, ValueError) as problem:
            return f"{name} does not tell its warmth: {problem!r}"
        return (
            Replica(name, url, rest) if rest in WARMTHS else f"{name} rests on {rest!r}, which is no warmth"
        )

    async def _order(self, session: aiohttp.ClientSession, order: Order) -> str | None:
        try:
            async with session.post(order.replica.url, json={"warmth": order.warmth}) as answer:
                if answer.status < 300:
                    return None
                body = (await answer.text())[:200]
                return f"{order.replica.name} does not go {order.warmth}: HTTP {answer.status} {body}"
        except (aiohttp.ClientError, TimeoutError) as problem:
            return f"{order.replica.name} does not go {order.warmth}: {problem!r}"


async def pods_of(cluster: Cluster, service: ObjectKey) -> list[dict[str, Any]]:
    """The pods of a Service, in no order.

    Raises:
        ClusterError: the API does not answer.
    """
    return await cluster.list(POD, service[0], f"{SERVICE_LABEL}={service[1]}")


def door(pod: dict[str, Any], path: str) -> str | None:
    """The URL of a path at a ready replica's door; None for a pod that is not ready."""
    meta, status = pod["metadata"], pod.get("status") or {}
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
    if "deletionTimestamp" in meta or not ready or not status.get("podIP"):
        return None
    port = (meta.get("annotations") or {}).get(PORT_ANNOTATION, _QUEUE_PROXY)
    host = status["podIP"]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
