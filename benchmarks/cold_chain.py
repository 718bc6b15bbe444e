"""First token of a whole chain of four stages from zero replicas, with and without imports on the way.

Arms, in turns, on one machine, each a local platform with the example agent and real vLLM:

| arm | the model's template | the other stages, and the process of the model's stage |
|---|---|---|
| `import` | imported | started by `exec`, which import |
| `exec` | restored from a snapshot | the same |
| `forked` | restored from a snapshot | forked |

Without CRIU and its rights `exec` and `forked` import the template as well.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from functions.engines.vllm.template_snapshots import KIND
from knative.client.resources import CONFIG_MAP, POD
from pilotlight import deploy, stack
from pilotlight.agent import Agent
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent
from pilotlight.stage_spec import Kind
from weights.make_model import make_model

AGENT = Path(__file__).parents[1] / "examples" / "support" / "agent.yaml"
ARMS = ("import", "exec", "forked")
_SNAPSHOT_SECONDS = 120.0
_ZERO_SECONDS = 180.0
_FEATURES = {"name": "config-features", "namespace": "knative-serving"}


@dataclass(frozen=True)
class Arm:
    """One platform with the agent deployed."""

    running: stack.Stack
    agent: Agent

    @property
    def names(self) -> list[str]:
        """The Services."""
        return [self.agent.service_name(stage) for stage in self.agent.spec.services]

    async def deploy(self) -> None:
        """Apply the agent without pools and queues, and wait until it is ready."""
        allowed = {"metadata": _FEATURES, "data": {"kubernetes.containerspec-addcapabilities": "enabled"}}
        await self.running.cluster.apply(CONFIG_MAP, allowed)
        services = [obj for obj in compile_agent(self.agent) if obj["kind"] == "Service"]
        await deploy.apply(self.running.cluster, services)
        namespace = self.agent.metadata.namespace
        async for _ in deploy.watch_until_ready(self.running.cluster, self.names, namespace, timeout_s=600):
            pass

    async def at_zero(self) -> None:
        """Wait until no replica is left."""
        deadline = time.monotonic() + _ZERO_SECONDS
        while await self.running.cluster.list(POD, self.agent.metadata.namespace):
            if time.monotonic() > deadline:
                raise TimeoutError(f"replicas are left after {_ZERO_SECONDS:g} s")
            await asyncio.sleep(0.2)

    async def first_token(self) -> float:
        """Seconds from a request to the first event with text."""
        front = next(stage for stage in self.agent.spec.services if stage.kind is Kind.ORCHESTRATE)
        name, namespace = self.agent.service_name(front), self.agent.metadata.namespace
        url = f"{self.running.gateway_url}/{namespace}/{name}/invoke"
        body = {"input": "Where is my order?", "stream": True, "parameters": {"max_tokens": 16}}
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            began, first = time.monotonic(), None
            async with http.post(url, json=body) as response:
                response.raise_for_status()
                async for line in response.content:
                    if first is None and line.startswith(b"event: delta"):
                        first = time.monotonic() - began
            if first is None:
                raise RuntimeError("the chain gave no token")
            return first


async def measure_chain(folder: Path, runs: int, variables: Mapping[str, str]) -> dict[str, Any]:
    """`chain_cold_vs_import` and the seconds of each arm."""
    model = make_model(folder / "chain-model", name="support-llama")
    agent = load_agent(AGENT).with_model(str(model.path))
    stages = [
        stage.model_copy(update={"scaling": stage.scaling.model_copy(update={"window": "6s"})})
        for stage in agent.spec.stages
    ]
    agent = _with_stages(agent, stages)
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    for name in ARMS * runs:
        seconds[name].append(await _one(folder, name, agent, variables, len(seconds[name])))
    medians = {f"chain_cold_{name}_s": statistics.median(values) for name, values in seconds.items()}
    return {
        "chain_cold_vs_import": medians["chain_cold_import_s"] / medians["chain_cold_forked_s"],
        "chain_cold_vs_exec": medians["chain_cold_exec_s"] / medians["chain_cold_forked_s"],
        **medians,
        "chain_runs": seconds,
    }


async def _one(folder: Path, name: str, agent: Agent, variables: Mapping[str, str], number: int) -> float:
    snapshot = name != "import"
    if snapshot:
        stages = [
            stage.model_copy(update={"snapshot": stage.kind is Kind.GENERATE}) for stage in agent.spec.stages
        ]
        agent = _with_stages(agent, stages)
    cache = folder / ("chain-cache" if snapshot else "chain-cache-without")
    config = stack.StackConfig(
        state_dir=folder / f"chain-{name}-{number}",
        gateway_port=0,
        api_port=0,
        gpus=1,
        env={**stack.inherited_env(), **variables, "PILOTLIGHT_CACHE_DIR": str(cache)},
        preimport=name == "forked",
    )
    async with stack.running(config) as running:
        arm = Arm(running, agent)
        await arm.deploy()
        await arm.first_token()
        if snapshot:
            await _written(cache / KIND)
        await arm.at_zero()
        return await arm.first_token()


async def _written(folder: Path) -> None:
    """Wait for a snapshot, for as long as one takes; without CRIU there is none."""
    deadline = time.monotonic() + _SNAPSHOT_SECONDS
    while time.monotonic() < deadline:
        if folder.is_dir() and any(folder.iterdir()):
            return
        await asyncio.sleep(0.2)


def _with_stages(agent: Agent, stages: list[Any]) -> Agent:
    return agent.model_copy(update={"spec": agent.spec.model_copy(update={"stages": stages})})
