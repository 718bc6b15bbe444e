"""Where the time of a replica's start went, as its `GET /healthz/ready` tells; no token is needed.

Only Pilotlight's own replicas tell it. Whatever else answers there is an application that tells nothing, and
so is what answers too late, too much or nonsense.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import aiohttp

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from warmpool.adapters.replicas import door, pods_of
from warmpool.domain.cold_start import MAX_PHASE_SECONDS, MAX_PHASES, is_duration
from warmpool.domain.object_key import ObjectKey

log = logging.getLogger(__name__)

PATH: Final = "/healthz/ready"
_ASKED: Final = 3
"""How many of the newest replicas are asked: the newest pod need not be the last that came up."""
_LONGEST_BODY: Final = 16_384
_LONGEST_NAME: Final = 32


class HttpPhases:
    """Asks the newest replicas of a Service."""

    def __init__(self, cluster: Cluster, *, timeout_s: float = 2.0) -> None:
        """`timeout_s` is for one answer."""
        self._cluster = cluster
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def phases(self, service: ObjectKey, within: timedelta) -> Mapping[str, float] | None:
        """Seconds by phase of the youngest replica, if it is at most so old; None when nobody tells."""
        try:
            pods = await pods_of(self._cluster, service)
        except ClusterError as problem:
            log.debug("the pods of %s/%s cannot be listed: %s", *service, problem)
            return None
        pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""), reverse=True)
        doors = [url for pod in pods if (url := door(pod, PATH))][:_ASKED]
        async with aiohttp.ClientSession(timeout=self._timeout) as session:
            told = await asyncio.gather(*(self._ask(session, url) for url in doors))
        young = [known for known in told if known is not None and known[0] <= within.total_seconds()]
        return min(young, key=lambda known: known[0])[1] if young else None

    async def _ask(
        self, session: aiohttp.ClientSession, url: str
    ) -> tuple[float, Mapping[str, float]] | None:
        try:
            async with session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    return None
                body = await answer.content.read(_LONGEST_BODY)
                while len(body) < _LONGEST_BODY and (more := await answer.content.read(_LONGEST_BODY)):
                    body += more
                return _read(json.loads(body)) if len(body) < _LONGEST_BODY else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError) as problem:
            log.debug("%s tells no phases: %r", url, problem)
            return None


def _read(body: Any) -> tuple[float, Mapping[str, float]] | None:
    """Age and phases in seconds from a readiness body; None unless all of it makes sense."""
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
