"""Gathers what the dashboard shows: once for all open pages, bounded, and each reading for itself."""

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import aiohttp

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.client.resources import POD, REVISION, SERVICE, TRIGGER, WARM_POOL, Object
from pilotlight import metrics_page
from pilotlight.cost_account import By, service_costs, shares, uses_of
from pilotlight.dashboard.detail import detail
from pilotlight.dashboard.document import Observed, document
from pilotlight.dashboard.history import History, RecentStarts
from pilotlight.dashboard.object_cache import ObjectCache
from pilotlight.metric_samples import Key, Sample
from pilotlight.readiness import pod_is_ready
from pilotlight.service_readings import Reading, metrics_url, pods_by_service, rates, read_services

log = logging.getLogger(__name__)

WATCHED_S = 1.0
"""Between two readings while a page is open."""
UNWATCHED_S = 10.0
"""While none is: the chart's last hour goes on."""
_SHARE = 10
"""A reading that took t seconds is followed by a pause of at least this many times t."""
_PAGE_IS_OPEN_S = 15.0
"""After its last request."""
_FRESH_S = 0.5
"""How long a page that is opened waits for a new reading at most; it begins with the last one otherwise."""
_REPLICAS_READ = 128
_AT_ONCE = 16
_CONTAINER_PORT = 8080
_LOGS_OF = 4
_LINE_CHARACTERS = 2000
_PLATFORM_NAMES = frozenset(
    {
        "autoscaler_desired_pods",
        "autoscaler_stable_request_concurrency",
        "autoscaler_target_concurrency_per_pod",
        "activator_request_count",
        "pilotlight_gpu_seconds_total",
        "pilotlight_gpu_slots",
        "pilotlight_recent_requests",
        "pilotlight_start_seconds",
        "pilotlight_abandoned_requests_total",
    }
)


class Gatherer:
    """The state of a cluster or of this machine's platform, for pages that look at it.

    Args:
        cluster: the API.
        platform: URL of the platform's metrics; None: a cluster, which has no such page.
        namespace: the one to look at; None: all.
        tls: for replicas that speak TLS.
    """

    def __init__(
        self,
        cluster: Cluster,
        platform: str | None,
        namespace: str | None = None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self._cluster = cluster
        self._platform = platform
        self._cache = ObjectCache(cluster, namespace)
        self._history = History()
        self._starts = RecentStarts()
        self._reading: Reading | None = None
        self._replicas: dict[Key, list[Sample]] = {}
        self._asked_at = float("-inf")
        self._asked = asyncio.Event()
        self._first = asyncio.Event()
        self._next = asyncio.Event()
        self._body = b"{}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Gather for as long as the context lasts."""
        tasks = [asyncio.create_task(self._cache.run()), asyncio.create_task(self._run())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def overview(self) -> bytes:
        """The document as JSON, at most some seconds old."""
        was_open = monotonic() - self._asked_at <= _PAGE_IS_OPEN_S
        self._asked_at = monotonic()
        self._asked.set()
        await self._first.wait()
        if not was_open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FRESH_S):
                    await self._next.wait()
        return self._body

    async def service(self, namespace: str, name: str) -> dict[str, Any] | None:
        """One Service in depth; None: there is none of this name."""
        self._asked_at = monotonic()
        key = namespace, name
        if self._cache.get(SERVICE, key) is None:
            return None
        identity = f"{namespace}/{name}"
        pool = next(
            (
                item
                for item in self._cache.of(WARM_POOL)
                if item["metadata"]["namespace"] == namespace
                and (item.get("spec") or {}).get("target") == name
            ),
            None,
        )
        return detail(pool, self._history.points(identity), self._starts.of(identity), datetime.now(UTC))

    async def logs(self, namespace: str, name: str, lines: int) -> list[dict[str, Any]] | None:
        """The last lines of a Service's newest replicas; None: there is no such Service."""
        if self._cache.get(SERVICE, (namespace, name)) is None:
            return None
        pods = pods_by_service(self._cache.of(POD)).get((namespace, name), [])
        newest = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True)
        return await asyncio.gather(*(self._log(pod, lines) for pod in newest[:_LOGS_OF]))

    async def _log(self, pod: Mapping[str, Any], lines: int) -> dict[str, Any]:
        name = pod["metadata"]["name"]
        try:
            async with asyncio.timeout(5):
                found = await self._cluster.pod_log(name, pod["metadata"]["namespace"], tail_lines=lines)
        except (ClusterError, TimeoutError) as problem:
            return {"pod": name, "lines": [], "problem": str(problem) or "no answer within 5 s"}
        return {"pod": name, "lines": [line[:_LINE_CHARACTERS] for line in found], "problem": None}

    def cost(self, by: By) -> list[dict[str, Any]]:
        """The account of the pools, divided by what the replicas that run now have counted; dearest first."""
        costs, _ = service_costs(self._cache.of(WARM_POOL), self._cache.of(SERVICE))
        uses = uses_of(
            (name, {**labels, "namespace": key[0]}, value)
            for key, samples in self._replicas.items()
            for name, labels, value in samples
        )
        return [
            {**asdict(line), "amount": None if line.amount is None else f"{line.amount:.4f}"}
            for line in shares(costs, uses, by)[:100]
        ]

    async def _run(self) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls or True)) as http:
            await asyncio.sleep(0.2)  # what exists has come by then, as a rule
            while True:
                begin = monotonic()
                try:
                    await self._gather(http)
                except Exception:  # the page says less; what it shows must not end
                    log.exception("the dashboard could not be brought up to date")
                self._first.set()
                self._next.set()
                self._next = asyncio.Event()
                await self._pause(_SHARE * (monotonic() - begin))

    async def _pause(self, least_s: float) -> None:
        self._asked.clear()
        await asyncio.sleep(max(WATCHED_S, least_s))
        if monotonic() - self._asked_at > _PAGE_IS_OPEN_S:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(UNWATCHED_S - WATCHED_S):
                    await self._asked.wait()

    async def _gather(self, http: aiohttp.ClientSession) -> None:
        pods = self._cache.of(POD)
        platform, self._replicas = await asyncio.gather(self._read_platform(http), _read_replicas(http, pods))
        services = self._cache.of(SERVICE)
        before = self._reading
        now = Reading(
            monotonic(), read_services(services, self._cache.of(REVISION), pods, platform, self._replicas)
        )
        seconds = now.at - before.at if before else 0.0
        since = {
            name: rates(before.services.get(name) if before else None, reading, seconds)
            for name, reading in now.services.items()
        }
        self._reading = now
        instant = datetime.now(UTC)
        self._history.add(instant.timestamp(), now.services, since)
        self._starts.add(pods, self._replicas)
        problems = self._cache.problems
        if self._platform and not platform:
            problems.append("metrics: the platform's page of metrics does not answer")
        shown = document(
            Observed(
                instant,
                services,
                self._cache.of(WARM_POOL),
                self._cache.of(TRIGGER),
                now.services,
                since,
                platform,
                problems,
            )
        )
        self._body = json.dumps(shown, separators=(",", ":")).encode()

    async def _read_platform(self, http: aiohttp.ClientSession) -> list[Sample]:
        if self._platform is None:
            return []
        return await metrics_page.read(http, self._platform, _PLATFORM_NAMES)


async def _read_replicas(http: aiohttp.ClientSession, pods: list[Object]) -> dict[Key, list[Sample]]:
    """The own metrics of replicas that are ready, of some of them where there are very many."""
    asked = [(pod, url) for pod in pods if pod_is_ready(pod) and (url := _url(pod))][:_REPLICAS_READ]
    slots = asyncio.Semaphore(_AT_ONCE)

    async def read(url: str) -> list[Sample]:
        async with slots:
            return await metrics_page.read(http, url)

    found = await asyncio.gather(*(read(url) for _, url in asked))
    keys = [(pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod, _ in asked]
    return dict(zip(keys, found, strict=True))


def _url(pod: Object) -> str | None:
    ip = (pod.get("status") or {}).get("podIP")
    return metrics_url(pod) or (f"http://{ip}:{_CONTAINER_PORT}/metrics" if ip else None)
