"""The demo's last cold start: a replica whose template process is restored from a snapshot."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from functions.engines.vllm.snapshots.criu import CriuError, find_criu
from functions.engines.vllm.template_snapshots import KIND
from knative import env_vars
from knative.client.resources import CONFIG_MAP
from pilotlight import deploy
from pilotlight.agent import Agent
from pilotlight.compile import compile_agent
from pilotlight.demo.arms import Prompt, Request, Runner
from pilotlight.stack import Stack
from pilotlight.stage_spec import Kind

_PROVIDED = Path("build/criu/criu")
"""Where `make demo` puts CRIU on a machine whose own is too old."""
_FEATURES = {"name": "config-features", "namespace": "knative-serving"}
_WRITE_SECONDS = 120.0


def criu_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variable that points replicas at the CRIU which `make demo` provides, if it does."""
    if env_vars.CRIU in environment or not _PROVIDED.is_file():
        return {}
    return {env_vars.CRIU: str(_PROVIDED.absolute())}


def why_not(environment: Mapping[str, str]) -> str | None:
    """Why snapshots cannot be written and restored here; None if they can.

    Args:
        environment: of the replicas.
    """
    try:
        find_criu({**os.environ, **environment})
    except CriuError as error:
        return str(error)
    return None


async def write_snapshot(running: Stack, runner: Runner, agent: Agent, cache: Path) -> bool:
    """Deploy the model's stage with `snapshot: true`, wait for the snapshot, and scale to zero.

    Args:
        running: the platform.
        runner: of this agent.
        agent: as it is deployed.
        cache: folder of the weights' cache; only the snapshot is left in it.

    Returns:
        Whether one was written in time; the stage's log says why not.
    """
    # On any cluster, somebody with the rights to do so has to allow it first.
    allowed = {"metadata": _FEATURES, "data": {"kubernetes.containerspec-addcapabilities": "enabled"}}
    await running.cluster.apply(CONFIG_MAP, allowed)
    await deploy.apply(running.cluster, _objects(agent))
    written = await asyncio.to_thread(_wait_written, cache / KIND)
    await runner.until(runner.services, hot=False, timeout_s=300)
    await asyncio.to_thread(_keep_only_snapshots, cache)
    return written


async def restored_request(runner: Runner, prompt: Prompt) -> Request:
    """One request to the agent at zero replicas."""
    arm = await runner.run("restored", [prompt], pool=False, on_progress=lambda *_: None)
    return arm.requests[0]


def _objects(agent: Agent) -> list[dict[str, Any]]:
    """The Service of the model's stage, with a snapshot to be written."""
    stages = [
        stage.model_copy(update={"snapshot": True}) if stage.kind is Kind.GENERATE else stage
        for stage in agent.spec.stages
    ]
    changed = agent.model_copy(update={"spec": agent.spec.model_copy(update={"stages": stages})})
    names = {changed.service_name(stage) for stage in stages if stage.snapshot}
    return [
        obj for obj in compile_agent(changed) if obj["kind"] == "Service" and obj["metadata"]["name"] in names
    ]


def _wait_written(folder: Path) -> bool:
    deadline = monotonic() + _WRITE_SECONDS
    while monotonic() < deadline:
        with contextlib.suppress(OSError):
            if any(folder.iterdir()):
                return True
        sleep(0.2)
    return False


def _keep_only_snapshots(cache: Path) -> None:
    for path in cache.iterdir():
        if path.name != KIND:
            shutil.rmtree(path, ignore_errors=True)
