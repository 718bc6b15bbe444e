"""One durable run whose replica is killed in the middle: the next one goes on, and the run ends once."""

import asyncio
import contextlib
import importlib.util
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import aiohttp

from knative.client.cluster import Cluster
from knative.client.resources import POD
from pilotlight import deploy
from pilotlight.agent import Agent
from pilotlight.compile import compile_agent
from pilotlight.demo.arms import Prompt, ready, service_of
from pilotlight.demo.errors import DemoError
from pilotlight.stage_spec import Kind

LEASE_S = 2.0
"""After so long without a word from its replica another one takes the run up; 15 s unless told otherwise."""
TOKENS = 256
"""For the model to be at work when its caller is killed."""
_TIMEOUT_S = 120.0
_PROCESS = "process://"
"""Before a local container's process id."""


@dataclass(frozen=True)
class Survival:
    """What became of the run.

    Attributes:
        run: its id.
        killed_after: the step that was recorded last when the replica was killed.
        attempts: replicas that have worked on it.
        steps: each step's attempts that were recorded, by name.
        seconds: from the request to the end of the run.
        ends: how often the run's events say that it has ended.
    """

    run: str
    killed_after: str
    attempts: int
    steps: dict[str, int]
    seconds: float
    ends: int

    def to_json(self) -> dict[str, Any]:
        """As `report.json` has it."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


def why_not() -> str | None:
    """Why durable runs cannot be shown here; None if they can."""
    if importlib.util.find_spec("sqlalchemy") is None:
        return "sqlalchemy is not installed (pip install 'pilotlight[runs]')"
    return None


async def survive(
    cluster: Cluster, gateway: str, agent: Agent, prompt: Prompt, progress: Callable[[str], None]
) -> Survival:
    """Begin a durable run, kill the process that works on it, and wait for the run's end.

    Raises:
        DemoError: it did not end, or not once.
        DeployError: the stage with durable runs does not start.
    """
    entry, namespace = agent.service_name(agent.entry()), agent.metadata.namespace
    await deploy.apply(cluster, _objects(agent))
    async for _ in deploy.watch_until_ready(cluster, [entry], namespace, timeout_s=_TIMEOUT_S):
        pass
    url = f"{gateway}/{namespace}/{entry}"
    began = perf_counter()
    try:
        async with asyncio.timeout(_TIMEOUT_S), aiohttp.ClientSession() as session:
            body = {"input": prompt.prompt, "parameters": {"max_tokens": TOKENS, "temperature": 0.0}}
            async with session.post(
                f"{url}/invoke", json=body, headers={"Prefer": "respond-async"}
            ) as response:
                run = (await response.json())["id"]
                if response.status != 202:
                    raise DemoError(f"a durable run was answered {response.status}, must be 202")
            progress("the run is accepted")
            before = await _run_with(session, url, run, lambda found: bool(found["steps"]))
            await _kill(cluster, entry, namespace)
            progress("its replica is killed; the next one takes the run up")
            after = await _run_with(session, url, run, lambda found: "finished" in found)
            seconds = perf_counter() - began
            ends = await _ends(session, f"{url}/runs/{run}/events")
    except TimeoutError:
        raise DemoError(f"a durable run has not ended within {_TIMEOUT_S:g} s of its replica's end") from None
    if after["state"] != "succeeded" or ends != 1:
        raise DemoError(f"a durable run is {after['state']} and ended {ends} times, must be succeeded, once")
    steps = {step["name"]: step["attempts"] for step in after["steps"]}
    return Survival(run, before["steps"][-1]["name"], after["attempt"], steps, seconds, ends)


def _objects(agent: Agent) -> list[dict[str, Any]]:
    """The Service of the entry, with durable runs."""
    runs = {"store": "sqlite", "leaseSeconds": LEASE_S}
    stages = [
        stage.model_copy(update={"config": {**stage.config, "runs": runs}})
        if stage.kind is Kind.ORCHESTRATE
        else stage
        for stage in agent.spec.stages
    ]
    changed = agent.model_copy(update={"spec": agent.spec.model_copy(update={"stages": stages})})
    name = changed.service_name(changed.entry())
    return [
        obj for obj in compile_agent(changed) if (obj["kind"], obj["metadata"]["name"]) == ("Service", name)
    ]


async def _run_with(
    session: aiohttp.ClientSession, url: str, run: str, good: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The run once it is so."""
    while True:
        # While no replica is there, the gateway starts one, or says that one has gone.
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{url}/runs/{run}") as response:
                if response.status == 200 and good(found := await response.json()):
                    return dict(found)
        await asyncio.sleep(0.02)


async def _kill(cluster: Cluster, service: str, namespace: str) -> None:
    """SIGKILL for every replica of a Service."""
    pods = [pod for pod in await cluster.list(POD, namespace) if service_of(pod) == service and ready(pod)]
    for pod in pods:
        for container in pod["status"].get("containerStatuses", ()):
            process = str(container.get("containerID", ""))
            if process.startswith(_PROCESS):
                os.kill(int(process.removeprefix(_PROCESS)), signal.SIGKILL)


async def _ends(session: aiohttp.ClientSession, url: str) -> int:
    """How often the events of a run tell of its end."""
    async with session.get(url) as response:
        lines = (await response.text()).splitlines()
    return sum('"state": "succeeded"' in line for line in lines)
