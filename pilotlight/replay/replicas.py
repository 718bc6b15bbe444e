"""The replicas of Services as the Kubernetes API shows them, and the GPU-seconds that they hold."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import aiohttp

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.client.resources import POD
from knative.labels import READY_AT_ANNOTATION, SCHEDULED_AT_ANNOTATION, SERVICE_LABEL
from pilotlight import metrics_page
from pilotlight.metric_samples import Sample
from warmpool.experiments.replay_results import GpuSeconds

_STATES: Final = ("busy", "idle", "starting")
_NEAR_S: Final = 1.0
"""A hold that ended within so many seconds of a replica's becoming ready had waited for it."""


@dataclass(slots=True)
class _Pod:
    """One replica; instants by `perf_counter`."""

    service: str
    seen: float
    ready: float | None = None
    start_s: float | None = None
    ending: float | None = None
    gone: float | None = None
    is_ready: bool = False


class ReplicaWatch:
    """Follows the pods of some Services; from `watching`."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = services
        self._pods: dict[str, _Pod] = {}
        self._changed = asyncio.Event()
        self.problem: ClusterError | None = None

    def take(self, kind: str, pod: Mapping[str, Any]) -> None:
        """Take in one event of the watch."""
        service = (pod["metadata"].get("labels") or {}).get(SERVICE_LABEL)
        if service is None or service not in self._services:
            return
        now = perf_counter()
        entry = self._pods.setdefault(pod["metadata"]["uid"], _Pod(service, now))
        entry.is_ready = kind != "DELETED" and _ready(pod)
        if entry.is_ready and entry.ready is None:
            entry.ready = now
            entry.start_s = _start_seconds(pod) or now - entry.seen
        if entry.ending is None and pod["metadata"].get("deletionTimestamp"):
            entry.ending = now
        if kind == "DELETED":
            entry.gone = now
        self._changed.set()

    def present(self, service: str) -> int:
        """Replicas that are there, also those that start or end."""
        return sum(pod.service == service and pod.gone is None for pod in self._pods.values())

    def ready(self, service: str) -> int:
        """Replicas that can answer."""
        return sum(pod.service == service and pod.is_ready for pod in self._pods.values())

    def became_ready(self, service: str, at: float) -> bool:
        """Whether a replica became ready near this instant."""
        return any(
            pod.service == service and pod.ready is not None and abs(pod.ready - at) <= _NEAR_S
            for pod in self._pods.values()
        )

    def starts(self, service: str, origin: float) -> tuple[tuple[float, float], ...]:
        """(instant of readiness since `origin`, seconds of the start) of replicas that became ready since."""
        found = [
            (pod.ready - origin, pod.start_s)
            for pod in self._pods.values()
            if pod.service == service and pod.ready is not None and pod.start_s is not None
        ]
        return tuple(sorted(entry for entry in found if entry[0] >= 0))

    def stops(self, service: str, origin: float) -> tuple[float, ...]:
        """How long replicas that ended since `origin` took from the order to end until they were gone, s."""
        return tuple(
            pod.gone - pod.ending
            for pod in self._pods.values()
            if pod.service == service
            and pod.ending is not None
            and pod.gone is not None
            and pod.gone >= origin
        )

    def gpu_seconds(self, service: str, gpus: int, origin: float) -> GpuSeconds:
        """GPU-seconds since `origin`, from the lifetimes of the pods."""
        now = perf_counter()
        total = starting = 0.0
        for pod in self._pods.values():
            end = now if pod.gone is None else pod.gone
            if pod.service != service or end < origin:
                continue
            ready = end if pod.ready is None else min(pod.ready, end)
            begin = ready - pod.start_s if pod.start_s is not None else pod.seen
            total += end - max(begin, origin)
            starting += max(0.0, ready - max(begin, origin))
        return GpuSeconds(total * gpus, starting * gpus, source="pods")

    async def until(self, condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
        """Wait until a condition on the replicas holds.

        Raises:
            TimeoutError: it did not in time; the text says what was waited for.
            ClusterError: the replicas cannot be followed.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    if self.problem is not None:
                        raise self.problem
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"{what} within {timeout_s:g} s") from None

    async def follow(self, cluster: Cluster, namespace: str) -> None:
        """Take in every event until cancelled."""
        try:
            async for kind, pod in cluster.watch(POD, namespace):
                self.take(kind, pod)
        except ClusterError as error:
            self.problem = error
            self._changed.set()


@asynccontextmanager
async def watching(cluster: Cluster, namespace: str, services: Sequence[str]) -> AsyncIterator[ReplicaWatch]:
    """Follow the replicas of these Services for as long as the context lasts."""
    watch = ReplicaWatch(services)
    for pod in await cluster.list(POD, namespace):
        watch.take("ADDED", pod)
    following = asyncio.create_task(watch.follow(cluster, namespace))
    try:
        yield watch
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


class PlatformAccounts:
    """The platform's own account of GPU-seconds, from its page of metrics; a cluster has none."""

    def __init__(self, kubeconfig: Path | None) -> None:
        self._api = None if kubeconfig is None else metrics_page.api_server(kubeconfig)

    async def read(self, namespace: str, service: str) -> GpuSeconds | None:
        """What a Service has held so far; None where nobody counts it."""
        if self._api is None:
            return None
        server, trust = self._api
        connector = aiohttp.TCPConnector(ssl=trust)
        async with aiohttp.ClientSession(connector=connector) as http:
            samples = await metrics_page.read(http, f"{server}/metrics")
        return gpu_seconds_of(samples, namespace, service)


def gpu_seconds_of(samples: Sequence[Sample], namespace: str, service: str) -> GpuSeconds | None:
    """The GPU-seconds of one Service in a page of metrics; None if it does not count them."""
    totals = dict.fromkeys(_STATES, 0.0)
    found = False
    for name, labels, value in samples:
        if name == "pilotlight_gpu_seconds_total":
            found = True
            if (labels.get("namespace"), labels.get("service")) == (namespace, service):
                totals[labels["state"]] += value
    if not found:
        return None
    return GpuSeconds(sum(totals.values()), totals["starting"], totals["busy"], totals["idle"])


def difference(after: GpuSeconds | None, before: GpuSeconds | None) -> GpuSeconds | None:
    """What was held between two readings; None without both."""
    if after is None or before is None:
        return None

    def less(name: str) -> float:
        return float(getattr(after, name) - getattr(before, name))

    return GpuSeconds(less("total"), less("starting"), less("busy"), less("idle"))


def _ready(pod: Mapping[str, Any]) -> bool:
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def _start_seconds(pod: Mapping[str, Any]) -> float | None:
    """From schedule to ready by the platform's own instants, which are finer than Kubernetes'."""
    annotations = pod["metadata"].get("annotations") or {}
    try:
        begin, end = (
            datetime.fromisoformat(annotations[name])
            for name in (SCHEDULED_AT_ANNOTATION, READY_AT_ANNOTATION)
        )
    except (KeyError, ValueError):
        return None
    return (end - begin).total_seconds()
