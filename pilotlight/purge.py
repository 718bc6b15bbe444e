"""Remove everything that an agent has left: what `delete` removes, and its marks, Jobs and cached model."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knative.client.cluster import Cluster
from knative.client.errors import NotFound
from knative.client.resources import WARM_POOL
from pilotlight import deploy
from pilotlight.agent import Agent
from pilotlight.agent_resources import resource_of
from pilotlight.warm_weights import on_a_cluster, on_this_machine
from pilotlight.warm_weights.fill_state import Fill, State
from pilotlight.warm_weights.jobs import WarmError, WarmTarget, warm_target
from warmpool import operations
from weights.cache.cache import Cache
from weights.cache.pruning import Pruned
from weights.sizes import format_size


@dataclass(frozen=True)
class PurgePlan:
    """What is there to be removed.

    Attributes:
        pools: WarmPools, by name.
        objects: the agent's other objects that exist, as `kind/name`.
        cache: the cache that has the agent's model; None without one of its own.
        folder: that cache on this machine; None on a cluster.
        kept: what stays because it is not only this agent's.
    """

    namespace: str
    pools: tuple[str, ...]
    objects: tuple[str, ...]
    cache: WarmTarget | None
    folder: Path | None
    kept: tuple[str, ...]

    def lines(self) -> list[str]:
        """The plan for a person, a line for each thing."""
        found = [f"warmpool/{name}, its floors on Revisions and its finalizer" for name in self.pools]
        found += self.objects
        if self.cache is not None:
            place = self.folder or f"claim {self.cache.claim}"
            found.append(f"{self.cache.uri} in {place}, except files that other models share")
            found.append(f"Jobs and CronJobs of `pilotlight weights warm` for {self.cache.name}")
        return [f"removes {line}" for line in found] + [f"keeps   {line}" for line in self.kept]


async def plan(
    cluster: Cluster, agent: Agent, objects: Sequence[dict[str, Any]], *, state_dir: Path
) -> PurgePlan:
    """Look what there is of an agent; nothing is changed.

    Args:
        cluster: where it is deployed.
        agent: from its file.
        objects: what it compiles to.
        state_dir: of the local platform.
    """
    there = []
    for obj in objects:
        meta = obj["metadata"]
        try:
            await cluster.get(resource_of(obj), meta["name"], meta["namespace"])
        except NotFound:
            continue
        there.append(obj)
    pools = tuple(obj["metadata"]["name"] for obj in there if obj["kind"] == WARM_POOL.kind)
    others = tuple(
        f"{obj['kind'].lower()}/{obj['metadata']['name']}" for obj in there if obj["kind"] != WARM_POOL.kind
    )
    kept = ["callers' keys, accounts and everything else that the file only names"]
    folder = None
    target = _cache(agent)
    if target is not None and await deploy.is_local_platform(cluster):
        folder = on_this_machine.folder_of(target, state_dir)
    elif target is not None and target.claim is None:
        target = None
    if target is not None and target.claim is not None:
        kept.insert(0, f"claim {target.claim} and the models of other agents in it")
    return PurgePlan(agent.metadata.namespace, pools, others, target, folder, tuple(kept))


def _cache(agent: Agent) -> WarmTarget | None:
    try:
        return warm_target(agent)
    except WarmError:
        return None  # it has no cache, or one that ends with its pods


async def purge(
    cluster: Cluster, found: PurgePlan, objects: Sequence[dict[str, Any]], *, timeout_s: float
) -> AsyncIterator[str]:
    """Carry a plan out; yields a line for each step that is done.

    Pools go first, so that no controller raises a floor again; the model goes last, once replicas have let go
    of it.

    Raises:
        WarmError: the model could not be removed from the cache; everything else is gone.
    """
    for name in found.pools:
        floors = await operations.give_up(cluster, name, found.namespace)
        given = f", floor of {', '.join(floors)} given back" if floors else ""
        yield f"warmpool/{name} deleted{given}"
    for name in await deploy.delete(cluster, objects):
        yield f"{name} deleted"
    if found.cache is None:
        return
    if found.folder is not None:
        yield await _remove_here(found.cache.uri, found.folder, timeout_s=timeout_s)
        return
    for name in await on_a_cluster.remove(cluster, found.cache):
        yield f"{name} deleted"
    jobs = await on_a_cluster.jobs_for(cluster, found.cache, remove=True)
    await on_a_cluster.start(cluster, jobs)
    fills = await on_a_cluster.follow(cluster, jobs, _ignore, timeout_s=timeout_s)
    if left := [fill.name for fill in fills if fill.state is not State.DONE]:
        raise WarmError(
            f"{found.cache.uri} is still in claim {found.cache.claim}: see the log of job/{left[0]} "
            f"in {found.namespace}; everything else is gone"
        )
    await on_a_cluster.remove(cluster, found.cache)
    yield f"{found.cache.uri} removed from claim {found.cache.claim}"


async def _remove_here(uri: str, folder: Path, *, timeout_s: float) -> str:
    """Remove a model, once the replicas that end have let go of it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    total = 0
    while True:
        removed = await asyncio.to_thread(_remove_model, folder, uri)
        total += removed.removed_bytes
        if not removed.in_use_bytes or loop.time() > deadline:
            break
        await asyncio.sleep(0.5)
    in_use = f", {format_size(removed.in_use_bytes)} stay in use" if removed.in_use_bytes else ""
    return f"{uri}: {format_size(total)} removed from {folder}{in_use}"


def _remove_model(folder: Path, uri: str) -> Pruned:
    if not folder.is_dir():
        return Pruned((), 0, 0, 0)
    cache = Cache(folder)
    try:
        return cache.remove_model(uri)
    finally:
        cache.close()


def _ignore(fill: Fill) -> None:
    """Show nothing of the removal's progress."""
