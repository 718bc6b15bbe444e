"""How a replica's start was spent, as reported by its `GET /healthz/ready`; no token is needed.

Only Pilotlight's own stages report phases. Any other response, or one that is late, too long or malformed,
means that the application reports none.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import ssl
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import aiohttp

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from warmpool.adapters.pods import pods_of, replica_url
from warmpool.domain.cold_start import MAX_PHASE_SECONDS, MAX_PHASES, is_duration
from warmpool.domain.object_key import ObjectKey

log = logging.getLogger(__name__)

PATH: Final = "/healthz/ready"
_ASKED: Final = 3
"""How many of the newest replicas are asked: the newest pod need not be the one that became ready last."""
_LONGEST_BODY: Final = 16_384
_LONGEST_NAME: Final = 32


class HttpPhases:
    """Asks the newest replicas of a Service for their phases."""

    def __init__(
        self, cluster: Cluster, *, timeout_s: float = 2.0, tls: ssl.SSLContext | None = None
    ) -> None:
        """`timeout_s` is for one response; `tls` for replicas that speak TLS."""
        self._tls = tls
        self._cluster = cluster
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def phases(self, service: ObjectKey, within: timedelta) -> Mapping[str, float] | None:
        """Seconds by phase of the youngest replica, if at most `within` old; None when none reports them."""
        try:
            pods = await pods_of(self._cluster, service)
        except ClusterError as error:
            log.debug("the pods of %s/%s cannot be listed: %s", *service, error)
            return None
        pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""), reverse=True)
        urls = [url for pod in pods if (url := replica_url(pod, PATH))][:_ASKED]
        connector = aiohttp.TCPConnector(ssl=self._tls or True)
        async with aiohttp.ClientSession(timeout=self._timeout, connector=connector) as session:
            answers = await asyncio.gather(*(self._ask(session, url) for url in urls))
        young = [known for known in answers if known is not None and known[0] <= within.total_seconds()]
        return min(young, key=lambda known: known[0])[1] if young else None

    async def _ask(
        self, session: aiohttp.ClientSession, url: str
    ) -> tuple[float, Mapping[str, float]] | None:
        try:
            async with session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    return None
                body = await response.content.read(_LONGEST_BODY)
                while len(body) < _LONGEST_BODY and (more := await response.content.read(_LONGEST_BODY)):
                    body += more
                return _read(json.loads(body)) if len(body) < _LONGEST_BODY else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError) as error:
            log.debug("%s reports no phases: %r", url, error)
            return None


def _read(body: Any) -> tuple[float, Mapping[str, float]] | None:
    """Age and phases in seconds from a readiness response; None unless all of it is valid."""
    if not isinstance(body, Mapping):
        return None
    age, phases = body.get("age_seconds"), body.get("phases")
    if not is_duration(age, math.inf) or not isinstance(phases, Mapping) or not 0 < len(phases) <= MAX_PHASES:
        return None
    if not all(0 < len(name) <= _LONGEST_NAME and name.isprintable() for name in phases):
        return None
    if not all(is_duration(seconds, MAX_PHASE_SECONDS) for seconds in phases.values()):
        return None
    return age, {name: round(float(seconds), 3) for name, seconds in phases.items()}
