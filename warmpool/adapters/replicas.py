"""How warm replicas are, over their `/admin/warmth`, with the secret of their own Service."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Final

import aiohttp

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.service_token import service_token
from warmpool.adapters.pods import pods_of, replica_url
from warmpool.domain.field_types import WARMTHS, Warmth
from warmpool.domain.object_key import ObjectKey
from warmpool.domain.replica_warmth import ReplicaWarmth

PATH: Final = "/admin/warmth"
_LONGEST_BODY: Final = 200
"""Characters of an error's body that are shown."""


class HttpWarmthClient:
    """Reads and changes the warmth of a Service's replicas."""

    def __init__(
        self, cluster: Cluster, key: str, *, timeout_s: float = 5.0, tls: ssl.SSLContext | None = None
    ) -> None:
        """A client.

        Args:
            cluster: where the replicas are.
            key: derives the PILOTLIGHT_ADMIN_TOKEN of each Service's replicas (`knative.service_token`).
            timeout_s: for one response.
            tls: for replicas that speak TLS.
        """
        self._tls = tls
        self._cluster = cluster
        self._key = key
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def replicas(self, service: ObjectKey) -> tuple[Sequence[ReplicaWarmth], Sequence[str]]:
        """The ready replicas of a Service, and an error for each that could not be read."""
        try:
            pods = await pods_of(self._cluster, service)
        except ClusterError as error:
            return (), (f"pods cannot be listed: {error}",)
        urls = [(pod["metadata"]["name"], url) for pod in pods if (url := replica_url(pod, PATH))]
        async with self._session(service) as session:
            found = await asyncio.gather(*(self._read(session, name, url) for name, url in urls))
        replicas = [entry for entry in found if isinstance(entry, ReplicaWarmth)]
        return replicas, [entry for entry in found if isinstance(entry, str)]

    async def set_warmth(self, service: ObjectKey, replica: ReplicaWarmth, warmth: Warmth) -> str | None:
        """Order one replica to a warmth; returns why it refused, None if it accepted."""
        failure = f"{replica.name} does not go {warmth}"
        try:
            async with (
                self._session(service) as session,
                session.post(replica.url, json={"warmth": warmth}, allow_redirects=False) as response,
            ):
                if 200 <= response.status < 300:
                    return None
                body = (await response.text())[:_LONGEST_BODY]
                return f"{failure}: HTTP {response.status} {body}"
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return f"{failure}: {error!r}"

    def _session(self, service: ObjectKey) -> aiohttp.ClientSession:
        headers = {"Authorization": f"Bearer {service_token(self._key, *service)}"}
        connector = aiohttp.TCPConnector(ssl=self._tls or True)
        return aiohttp.ClientSession(timeout=self._timeout, headers=headers, connector=connector)

    async def _read(self, session: aiohttp.ClientSession, name: str, url: str) -> ReplicaWarmth | str:
        failure = f"the warmth of {name} cannot be read"
        try:
            async with session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    return f"{failure}: HTTP {response.status}"
                body = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return f"{failure}: {error!r}"
        warmth = body.get("rest") if isinstance(body, dict) else None
        if warmth not in WARMTHS:
            return f"{failure}: it answers {warmth!r}, must be one of {', '.join(WARMTHS)}"
        return ReplicaWarmth(name, url, warmth)
