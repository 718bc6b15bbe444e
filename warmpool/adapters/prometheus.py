"""Demand from a Prometheus server that scrapes Knative, by its HTTP API.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp

from warmpool.adapters.metric_names import NAMES, Sample, Tally
from warmpool.domain.object_key import ObjectKey
from warmpool.domain.observation import Demand
from warmpool.ports import DemandUnavailableError

_QUERY: Final = '{__name__=~"' + "|".join(NAMES) + '"}'
_GAUGES: Final = [name for name, (meaning, _) in NAMES.items() if meaning in {"in flight", "average"}]
LOOK_BACK: Final = timedelta(hours=4)
"""How far to look for the last request at the first reading: as long as a keep-alive can be."""


class Prometheus:
    """Reads a Prometheus server."""

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = 10.0) -> None:
        """`url` is the server's root; `token` is sent as a bearer token."""
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._tally = Tally()
        self._seeded = False

    async def read(self, now: datetime) -> Mapping[ObjectKey, Demand]:
        """Demand by Service.

        Raises:
            DemandUnavailableError: when the server cannot be had, refuses, or has none of the metrics.
        """
        async with aiohttp.ClientSession(timeout=self._timeout, headers=self._headers) as session:
            if not self._seeded:
                self._tally.seed(await self._last_active(session, now))
                self._seeded = True
            result = await self._ask(session, "query", {"query": _QUERY, "time": f"{now.timestamp():.3f}"})
        samples = list(_samples(result))
        if not samples:
            raise DemandUnavailableError(f"{self._url} has none of Knative's metrics: is Knative scraped?")
        return self._tally.demand(samples, now)

    async def _last_active(self, session: aiohttp.ClientSession, now: datetime) -> dict[ObjectKey, datetime]:
        query = '{__name__=~"' + "|".join(_GAUGES) + '"} > 0'
        span = {
            "query": query,
            "start": f"{(now - LOOK_BACK).timestamp():.0f}",
            "end": f"{now.timestamp():.0f}",
            "step": "60",
        }
        latest: dict[ObjectKey, datetime] = {}
        for series in await self._ask(session, "query_range", span):
            labels = series["metric"]
            _, (namespace, service) = NAMES[labels["__name__"]]
            key = (labels.get(namespace, ""), labels.get(service, ""))
            at = datetime.fromtimestamp(float(series["values"][-1][0]), UTC)
            latest[key] = max(at, latest.get(key, at))
        return latest

    async def _ask(
        self, session: aiohttp.ClientSession, endpoint: str, parameters: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        url = f"{self._url}/api/v1/{endpoint}"
        try:
            async with session.post(url, data=parameters) as answer:
                body = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as problem:
            raise DemandUnavailableError(
                f"Prometheus at {self._url} does not answer: {problem!r}"
            ) from problem
        if not isinstance(body, dict) or body.get("status") != "success":
            error = body.get("error", "no reason given") if isinstance(body, dict) else "no JSON object"
            raise DemandUnavailableError(f"Prometheus at {self._url} refuses: HTTP {answer.status}: {error}")
        result: list[dict[str, Any]] = body["data"]["result"]
        return result


def _samples(result: list[dict[str, Any]]) -> Iterator[Sample]:
    for series in result:
        labels = series["metric"]
        yield Sample(labels["__name__"], labels, float(series["value"][1]))
