"""Gathers facts and judges them: for the command `doctor`, and for `deploy` before it writes anything."""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from knative.client.cluster import Cluster
from pilotlight import yaml_locations
from pilotlight.agent import Agent
from pilotlight.deploy import is_local_platform
from pilotlight.doctor import cluster_checks, machine_checks, quantization_checks
from pilotlight.doctor import needs as reading
from pilotlight.doctor.cluster_facts import ClusterFacts
from pilotlight.doctor.findings import Finding, Level, Unknown
from pilotlight.doctor.gather_cluster import gather
from pilotlight.doctor.gather_machine import read_machine
from pilotlight.doctor.gather_model import read_models
from pilotlight.doctor.model_memory import ModelFacts
from pilotlight.doctor.probe import probe
from pilotlight.doctor.report import Line
from weights.cache.location import default_cache_dir

PORTS = (8080, 8081)
"""Of `pilotlight up`: function URLs, and the Kubernetes API."""


@dataclass(frozen=True)
class Agents:
    """The agents that are checked, and their files."""

    agents: Sequence[Agent] = ()
    paths: Sequence[Path] = ()

    def lines(self, findings: Iterable[Finding]) -> list[Line]:
        """The findings with the places of their fields."""
        documents = [yaml_locations.load(path) for path in self.paths]
        return [Line(finding, self._where(documents, finding)) for finding in findings]

    def _where(self, documents: Sequence[yaml_locations.Located], finding: Finding) -> str:
        if finding.field is None or finding.agent >= len(documents):
            return ""
        line = documents[finding.agent].line(finding.field)
        return f"{self.paths[finding.agent]}:{line}: {'.'.join(map(str, finding.field))}"


async def check_models_here(agents: Agents) -> list[Line]:
    """What can be said of models and their options without a cluster and without a request."""
    models = await read_models(agents.agents, remote=False)
    return agents.lines(quantization_checks.quantization(agents.agents, models))


async def check_cluster(cluster: Cluster, agents: Agents) -> list[Line]:
    """The checks of a cluster that need no pod of their own."""
    needs = reading.stages(agents.agents)
    facts = await gather(cluster, needs, reading.rights(agents.agents))
    models = await read_models(agents.agents, gpus=not facts.local)
    return agents.lines(cluster_checks.check(facts, agents.agents, needs, models))


def unusable(kubeconfig: Path, reason: str) -> list[Line]:
    """What is said of a kubeconfig that names no cluster."""
    facts = ClusterFacts(str(kubeconfig), Unknown(reason))
    return Agents().lines(cluster_checks.check(facts, (), (), {}))


def is_out_of_reach(lines: Iterable[Line]) -> bool:
    """Whether the cluster does not answer."""
    return any(line.finding.check == "api" and line.finding.level is Level.ERROR for line in lines)


async def check_access(cluster: Cluster | None, agents: Agents, tell: Callable[[str], None]) -> list[Line]:
    """Whether pods can read their models and write their caches; None: processes of this machine.

    Args:
        cluster: where the pods run.
        agents: whose models are read.
        tell: takes a line about what is waited for.

    Raises:
        ClusterError: the cluster cannot be reached.
    """
    here = cluster is None or await is_local_platform(cluster)
    return agents.lines(
        await probe(None if here else cluster, agents.agents, reading.stages(agents.agents), tell=tell)
    )


async def check_machine(agents: Agents, state_dir: Path, *, platform: bool) -> list[Line]:
    """The checks of this machine.

    Args:
        agents: that are to run here.
        state_dir: of the local platform.
        platform: whether it runs.
    """
    folders = {"weights cache": default_cache_dir(os.environ), "state folder": state_dir}
    facts = await asyncio.to_thread(read_machine, folders, PORTS, platform=platform)
    models: Mapping[str, ModelFacts | Unknown] = await read_models(agents.agents)
    return agents.lines(machine_checks.check(facts, agents.agents, models))
