"""One arm of the demo: the same prompts, with the pool off or on, and what is measured meanwhile."""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import aiohttp

from knative.client.cluster import Cluster
from knative.client.resources import POD, WARM_POOL
from knative.labels import SERVICE_LABEL
from pilotlight import invoke
from pilotlight.agent import Agent
from pilotlight.gpu_settings import GPU
from pilotlight.stage_spec import Kind

_GPU_SECONDS = re.compile(
    r"^pilotlight_gpu_seconds_total\{(?P<labels>[^}]*)\}\s+(?P<value>\S+)", re.MULTILINE
)


@dataclass(frozen=True)
class Prompt:
    """One line of a prompts file."""

    id: str
    prompt: str
    max_tokens: int = 48


@dataclass(frozen=True)
class Request:
    """One request as its user saw it; `error` is None for a good one."""

    id: str
    at_s: float
    ttft_s: float | None = None
    e2e_s: float | None = None
    tokens: int | None = None
    cold: bool = False
    phases: dict[str, float] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class ReplicaCount:
    """The model's replicas at one instant (seconds after the arm began)."""

    at_s: float
    ready: int
    starting: int


@dataclass(frozen=True)
class GpuSeconds:
    """GPU-seconds held, by what the replica did."""

    busy: float = 0.0
    idle: float = 0.0
    starting: float = 0.0

    def __sub__(self, other: "GpuSeconds") -> "GpuSeconds":
        return GpuSeconds(self.busy - other.busy, self.idle - other.idle, self.starting - other.starting)

    @property
    def total(self) -> float:
        """All that is paid for."""
        return self.busy + self.idle + self.starting


@dataclass(frozen=True)
class ArmMeasurement:
    """What one arm measured."""

    name: str
    requests: tuple[Request, ...]
    samples: tuple[ReplicaCount, ...]
    gpu: GpuSeconds
    seconds: float
    warm_up_s: float | None
    """How long the pool took to be hot before the first request; None with the pool off."""

    @property
    def failures(self) -> list[Request]:
        """Requests without an answer."""
        return [request for request in self.requests if request.error is not None]

    def times(self, attribute: str, *, cold: bool | None = None) -> list[float]:
        """`ttft_s` or `e2e_s` of the good requests, all or only (not) cold ones."""
        return [
            getattr(request, attribute)
            for request in self.requests
            if request.error is None and (cold is None or request.cold is cold)
        ]

    @property
    def cold_starts(self) -> int:
        """Requests that waited for a start of the model."""
        return sum(request.cold for request in self.requests)

    def phases(self) -> dict[str, float]:
        """Median seconds of each cold-start phase over the cold requests."""
        found: dict[str, list[float]] = {}
        for request in self.requests:
            if request.cold:
                for phase, seconds in request.phases.items():
                    found.setdefault(phase, []).append(seconds)
        return {phase: median(values) for phase, values in found.items()}


class Runner:
    """Runs arms against a deployed agent."""

    def __init__(self, cluster: Cluster, gateway_url: str, metrics_url: str, agent: Agent) -> None:
        self._cluster = cluster
        self._gateway = gateway_url
        self._metrics = metrics_url
        self._agent = agent
        self._namespace = agent.metadata.namespace
        model = next(stage for stage in agent.spec.services if stage.kind is Kind.GENERATE)
        self.model_service = agent.service_name(model)
        self.gpus_per_replica = int(model.resources.limits.get(GPU, "0"))

    @property
    def services(self) -> list[str]:
        """The agent's Services, in the order of the chain."""
        return [self._agent.service_name(stage) for stage in self._agent.spec.services]

    async def run(
        self, name: str, prompts: Sequence[Prompt], *, pool: bool, on_progress: Callable[[str, int], None]
    ) -> ArmMeasurement:
        """From zero to zero: turn the pool on if asked, send the prompts, turn it off, wait for zero."""
        began = perf_counter()
        async with invoke.client() as session:
            before = await self._gpu_seconds(session)
            samples: list[ReplicaCount] = []
            sampling = asyncio.create_task(self._sample(began, samples))
            try:
                warm_up = None
                if pool:
                    on_progress("the pool raises the floor", 0)
                    await self.set_pool(enabled=True)
                    await self.until(self.services, hot=True, timeout_s=600)
                    warm_up = perf_counter() - began
                requests = []
                for index, prompt in enumerate(prompts):
                    on_progress(f"request {index + 1} of {len(prompts)}", index)
                    requests.append(await self._request(session, prompt, began))
                on_progress("back to zero", len(prompts))
                if pool:
                    await self.set_pool(enabled=False)
                await self.until(self.services, hot=False, timeout_s=300)
            finally:
                sampling.cancel()
            gpu = await self._gpu_seconds(session) - before
        return ArmMeasurement(name, tuple(requests), tuple(samples), gpu, perf_counter() - began, warm_up)

    async def engine_version(self) -> str:
        """What the engine says of itself (wakes it if need be)."""
        url = f"{self._gateway}/{self._namespace}/{self.model_service}/version"
        async with (
            invoke.client() as session,
            session.get(url, timeout=aiohttp.ClientTimeout(total=600)) as response,
        ):
            response.raise_for_status()
            return str((await response.json())["version"])

    async def set_pool(self, *, enabled: bool) -> None:
        """Enable or disable the agent's warm pools."""
        for name in self.services:
            body = {"spec": {"enabled": enabled}}
            await self._cluster.patch(WARM_POOL, name, self._namespace, body)

    async def until(self, services: Sequence[str], *, hot: bool, timeout_s: float) -> None:
        """Wait until each Service has a ready replica, or until none has any.

        Raises:
            TimeoutError: it did not happen in time.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                pods = await self._cluster.list(POD, self._namespace)
                counts = {
                    service: [ready(pod) for pod in pods if service_of(pod) == service]
                    for service in services
                }
                if all(any(found) if hot else not found for found in counts.values()):
                    return
                await asyncio.sleep(0.1)

    async def _request(self, session: aiohttp.ClientSession, prompt: Prompt, began: float) -> Request:
        entry = self._agent.service_name(self._agent.entry())
        call = invoke.Call(
            url=f"{self._gateway}/{self._namespace}/{entry}/invoke",
            prompt=prompt.prompt,
            parameters={"max_tokens": prompt.max_tokens, "temperature": 0.0, "seed": 0},
            timeout_s=600,
        )
        at = perf_counter() - began
        try:
            answer = await invoke.stream(session, call)
        except invoke.InvokeError as error:
            return Request(prompt.id, at, error=str(error))
        timing = self._model_timing(answer.reply)
        tokens = answer.reply.get("usage", {}).get("completion_tokens")
        if not answer.text and not tokens:
            return Request(prompt.id, at, error="the answer has no tokens")
        return Request(
            id=prompt.id,
            at_s=at,
            ttft_s=answer.ttft_s,
            e2e_s=answer.e2e_s,
            tokens=tokens,
            cold=timing.get("warmth", "hot") != "hot",
            phases={key: float(value) for key, value in timing.get("phases", {}).items()},
        )

    def _model_timing(self, reply: dict[str, Any]) -> dict[str, Any]:
        model = next(stage.name for stage in self._agent.spec.services if stage.kind is Kind.GENERATE)
        for timing in reply.get("timings", ()):
            if timing["stage"] == model:
                return dict(timing)
        return {}

    async def _sample(self, began: float, into: list[ReplicaCount], every_s: float = 0.5) -> None:
        while True:
            pods = await self._cluster.list(POD, self._namespace)
            mine = [ready(pod) for pod in pods if service_of(pod) == self.model_service]
            into.append(ReplicaCount(perf_counter() - began, sum(mine), len(mine) - sum(mine)))
            await asyncio.sleep(every_s)

    async def _gpu_seconds(self, session: aiohttp.ClientSession) -> GpuSeconds:
        async with session.get(self._metrics) as response:
            response.raise_for_status()
            return parse_gpu_seconds(await response.text(), self.model_service)


def parse_gpu_seconds(metrics: str, service: str) -> GpuSeconds:
    """The GPU-seconds of one Service in a Prometheus text."""
    totals = {"busy": 0.0, "idle": 0.0, "starting": 0.0}
    for match in _GPU_SECONDS.finditer(metrics):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', match["labels"]))
        if labels.get("service") == service:
            totals[labels["state"]] += float(match["value"])
    return GpuSeconds(**totals)


def service_of(pod: dict[str, Any]) -> str | None:
    """The Service that a pod belongs to."""
    name = pod["metadata"].get("labels", {}).get(SERVICE_LABEL)
    return None if name is None else str(name)


def ready(pod: dict[str, Any]) -> bool:
    """Whether the pod's Ready condition is True."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
