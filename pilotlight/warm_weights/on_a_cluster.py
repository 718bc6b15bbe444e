"""Make the Jobs that fill a cache, and follow them."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from knative.client.cluster import Cluster
from knative.client.errors import AlreadyExists, Forbidden, Invalid, NotFound, Unavailable
from knative.client.resources import CRON_JOB, JOB, NODE, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, POD
from knative.labels import WARMS_LABEL
from pilotlight.warm_weights.fill_state import Fill, of_job
from pilotlight.warm_weights.jobs import WarmError, WarmTarget, nodes_of, warm_job

_MANAGER = "pilotlight-warm"
_LOG_LINES = 5
_JOB_LABEL = "batch.kubernetes.io/job-name"
_GONE_S = 60
"""How long to wait for an ended Job of the same name to be deleted."""


async def jobs_for(
    cluster: Cluster,
    target: WarmTarget,
    *,
    nodes: Sequence[str] = (),
    anywhere: bool = False,
    remove: bool = False,
) -> list[dict[str, Any]]:
    """The Jobs that fill the caches of a target: one, or one for each node that has a cache of its own.

    Args:
        cluster: where the claim is.
        target: from `warm_target`.
        nodes: only on these.
        anywhere: leave the stage's placement out.
        remove: Jobs that take the model out of the caches.

    Raises:
        WarmError: the claim does not exist, no node takes the stage's pods, or the nodes cannot be listed.
        ClusterError: as `Cluster.list`.
    """
    if target.claim is None:
        raise WarmError(f"{target.name} has no cache to fill: write spec.cache with persistentVolumeClaim")
    if nodes:
        return [warm_job(target, node=node, remove=remove) for node in nodes]
    if anywhere or not await _is_a_folder_of_each_node(cluster, target.claim, target.namespace):
        return [warm_job(target, anywhere=anywhere, remove=remove)]
    try:
        listed = await cluster.list(NODE)
    except Forbidden as error:
        raise WarmError(f"the nodes cannot be listed ({error}): name them with --node NAME") from error
    return [warm_job(target, node=node, remove=remove) for node in nodes_of(target, listed)]


async def _is_a_folder_of_each_node(cluster: Cluster, claim: str, namespace: str) -> bool:
    """Whether a claim's volume is a hostPath: one folder on every node that mounts it.

    One that may not be read, or is not there before a pod claims it, is taken for a shared one.
    """
    try:
        found = await cluster.get(PERSISTENT_VOLUME_CLAIM, claim, namespace)
    except NotFound as error:
        raise WarmError(
            f"spec.cache.persistentVolumeClaim.claimName = {claim}: there is no such claim in {namespace}"
        ) from error
    except Forbidden:
        return False
    name = found["spec"].get("volumeName")
    if not name:
        return False
    try:
        volume = await cluster.get(PERSISTENT_VOLUME, name)
    except (Forbidden, NotFound):
        return False
    return "hostPath" in volume["spec"]


async def start(cluster: Cluster, jobs: Sequence[dict[str, Any]]) -> None:
    """Make the Jobs. One that is at work already is left alone, one that has ended is made again.

    All are tried with a dry run before the first is made.

    Raises:
        ClusterError: the server refuses one.
    """
    missing, again = [], []
    for job in jobs:
        meta = job["metadata"]
        try:
            found = await cluster.get(JOB, meta["name"], meta["namespace"])
        except NotFound:
            await cluster.create(JOB, job, dry_run=True)
            missing.append(job)
        else:
            if of_job(found, (), ()).ended or "deletionTimestamp" in found["metadata"]:
                again.append(job)
    for job in again:
        await _delete(cluster, job["metadata"]["name"], job["metadata"]["namespace"])
    for job in (*again, *missing):
        await _create(cluster, job)


async def _create(cluster: Cluster, job: dict[str, Any]) -> None:
    """Create a Job, once the one of its name that is being deleted is gone."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _GONE_S
    while True:
        try:
            await cluster.create(JOB, job)
        except AlreadyExists:
            if loop.time() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            return


async def _delete(cluster: Cluster, name: str, namespace: str) -> None:
    try:
        await cluster.delete(JOB, name, namespace)
    except NotFound:
        return


async def remove(cluster: Cluster, target: WarmTarget) -> list[str]:
    """Delete every Job and CronJob that fills the caches of a target; `kind/name` of each.

    What has arrived stays in the cache.
    """
    gone = await _remove_cron_jobs(cluster, target, kept=())
    for job in await cluster.list(JOB, target.namespace, label_selector=f"{WARMS_LABEL}={target.name}"):
        await _delete(cluster, job["metadata"]["name"], target.namespace)
        gone.append(f"job/{job['metadata']['name']}")
    return gone


async def schedule(
    cluster: Cluster, target: WarmTarget, cron_jobs: Sequence[dict[str, Any]]
) -> dict[str, list[str]]:
    """Apply CronJobs, and delete the target's others; the names of both, as `applied` and `deleted`.

    All are tried with a dry run before the first is written.

    Raises:
        ClusterError: the server refuses one.
    """
    for dry_run in (True, False):
        for cron_job in cron_jobs:
            await cluster.apply(CRON_JOB, cron_job, field_manager=_MANAGER, force=True, dry_run=dry_run)
    names = [cron_job["metadata"]["name"] for cron_job in cron_jobs]
    gone = await _remove_cron_jobs(cluster, target, kept=names)
    return {"applied": names, "deleted": [name.partition("/")[2] for name in gone]}


async def _remove_cron_jobs(cluster: Cluster, target: WarmTarget, *, kept: Sequence[str]) -> list[str]:
    selector = f"{WARMS_LABEL}={target.name}"
    gone = []
    for cron_job in await cluster.list(CRON_JOB, target.namespace, label_selector=selector):
        name = cron_job["metadata"]["name"]
        if name not in kept:
            with contextlib.suppress(NotFound):
                await cluster.delete(CRON_JOB, name, target.namespace)
            gone.append(f"cronjob/{name}")
    return gone


async def follow(
    cluster: Cluster,
    jobs: Sequence[dict[str, Any]],
    show: Callable[[Fill], None],
    *,
    timeout_s: float,
    poll_s: float = 1.0,
) -> list[Fill]:
    """Wait until all Jobs have ended.

    Args:
        cluster: where they are.
        jobs: from `jobs_for`.
        show: called with each Job's state whenever it has changed.
        timeout_s: after that, the states as they are then are returned.
        poll_s: seconds between two looks.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    states: dict[str, Fill] = {}
    while True:
        for job in jobs:
            name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
            if (known := states.get(name)) is not None and known.ended:
                continue
            now = await _look(cluster, name, namespace)
            if now != known:
                states[name] = now
                show(now)
        if all(state.ended for state in states.values()) or loop.time() > deadline:
            return list(states.values())
        await asyncio.sleep(poll_s)


async def _look(cluster: Cluster, name: str, namespace: str) -> Fill:
    try:
        job = await cluster.get(JOB, name, namespace)
    except NotFound as error:
        raise WarmError(f"Job {namespace}/{name} was deleted before it had ended") from error
    pods = await cluster.list(POD, namespace, label_selector=f"{_JOB_LABEL}={name}")
    log: list[str] = []
    if pods:
        newest = max(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or "")
        try:
            log = await cluster.pod_log(newest["metadata"]["name"], namespace, tail_lines=_LOG_LINES)
        except (Invalid, NotFound, Unavailable):
            log = []  # its container has not started yet, its pod is gone, or its kubelet does not answer
    return of_job(job, pods, log)
