"""Remove everything that an agent has left: what `delete` removes, and its marks, Jobs and cached model."""

import asyncio
import contextlib
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
from pilotlight.warm_weights.jobs import WarmError, WarmTarget, loading_stages, warm_target
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
        caches: the caches that have the agent's models.
        folder: of these on this machine; None on a cluster.
        kept: what stays because it is not only this agent's.
    """

    namespace: str
    pools: tuple[str, ...]
    objects: tuple[str, ...]
    caches: tuple[WarmTarget, ...]
    folder: Path | None
    kept: tuple[str, ...]

    def lines(self) -> list[str]:
        """The plan for a person, a line for each thing."""
        found = [f"warmpool/{name}, its floors on Revisions and its finalizer" for name in self.pools]
        found += self.objects
        for cache in self.caches:
            place = self.folder or f"claim {cache.claim}"
            found.append(f"{cache.uri} in {place}, except files that other models share")
            found.append(f"Jobs and CronJobs of `pilotlight weights warm` for {cache.name}")
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
    caches = _caches(agent)
    folder = None
    if caches and await deploy.is_local_platform(cluster):
        folder = on_this_machine.folder_of(caches[0], state_dir)
    else:
        caches = [cache for cache in caches if cache.claim is not None]
    claims = dict.fromkeys(cache.claim for cache in caches if cache.claim is not None)
    kept = [f"claim {claim} and the models of other agents in it" for claim in claims]
    kept.append("callers' keys, accounts and everything else that the file only names")
    return PurgePlan(agent.metadata.namespace, pools, others, tuple(caches), folder, tuple(kept))


def _caches(agent: Agent) -> list[WarmTarget]:
    """One for each model; none for a stage that has no cache, or one that ends with its pods."""
    found: dict[str, WarmTarget] = {}
    for stage in loading_stages(agent):
        with contextlib.suppress(WarmError):
            target = warm_target(agent, stage.name)
            found.setdefault(f"{target.uri} {target.claim}", target)
    return list(found.values())


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
    for cache in found.caches:
        if found.folder is not None:
            yield await _remove_here(cache.uri, found.folder, timeout_s=timeout_s)
            continue
        for name in await on_a_cluster.remove(cluster, cache):
            yield f"{name} deleted"
        jobs = await on_a_cluster.jobs_for(cluster, cache, remove=True)
        await on_a_cluster.start(cluster, jobs)
        fills = await on_a_cluster.follow(cluster, jobs, _ignore, timeout_s=timeout_s)
        if left := [fill.name for fill in fills if fill.state is not State.DONE]:
            raise WarmError(
                f"{cache.uri} is still in claim {cache.claim}: see the log of job/{left[0]} "
                f"in {found.namespace}; the agent's objects are gone"
            )
        await on_a_cluster.remove(cluster, cache)
        yield f"{cache.uri} removed from claim {cache.claim}"


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
