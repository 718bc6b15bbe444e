"""What an operator does to pools by hand: each changes the WarmPool, and the controller does the rest."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

from knative.autoscaling.annotations import MIN_SCALE
from knative.client.cluster import Cluster
from knative.client.errors import AlreadyExists, Conflict, NotFound
from knative.client.resources import POD_AUTOSCALER, REVISION, WARM_POOL, Object
from warmpool.domain.field_types import MAX_REPLICAS
from warmpool.domain.spec_errors import SpecError
from warmpool.reconcile import ownership, parsing, planning, views

LONGEST_HOLD: Final = timedelta(days=7)
DELETION_PATIENCE: Final = timedelta(minutes=5)
"""A running controller finishes the deletion of a pool within seconds."""
_ATTEMPTS: Final = 5


async def hold(
    cluster: Cluster, name: str, namespace: str, *, replicas: int, span: timedelta, now: datetime
) -> datetime:
    """Keep at least `replicas` hot until `now + span`; returns when that ends.

    Raises:
        SpecError: the number or the time is out of bounds.
        ClusterError: the API refuses the change.
    """
    if not 1 <= replicas <= MAX_REPLICAS:
        raise SpecError([f"--replicas = {replicas}, must be from 1 to {MAX_REPLICAS}"])
    if not timedelta(minutes=1) <= span <= LONGEST_HOLD:
        raise SpecError(["--for must be from 1m to 7d: use a window for more"])
    until = now + span
    await _annotate(
        cluster,
        name,
        namespace,
        {ownership.HOLD_REPLICAS: str(replicas), ownership.HOLD_UNTIL: ownership.timestamp(until)},
    )
    return until


async def release(cluster: Cluster, name: str, namespace: str) -> None:
    """End a hold."""
    await _annotate(cluster, name, namespace, {ownership.HOLD_REPLICAS: None, ownership.HOLD_UNTIL: None})


async def release_abandoned(cluster: Cluster, namespace: str | None, now: datetime) -> list[str]:
    """Give back every floor that has expired or whose pool is gone; returns what was released.

    For when no controller runs: the floors that it left behind cost money. A pool whose deletion has waited
    for a controller for longer than `DELETION_PATIENCE` is gone, too, and loses the finalizer that kept it.
    """
    existing, abandoned = set(), []
    for obj in await _pools(cluster, namespace):
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        deleted = ownership.parse_instant(obj["metadata"].get("deletionTimestamp"))
        if deleted is None or now - deleted < DELETION_PATIENCE:
            existing.add(key)
        elif ownership.FINALIZER in obj["metadata"].get("finalizers", ()):
            abandoned.append(obj)
    released = []
    for obj in await cluster.list(REVISION, namespace):
        revision = parsing.parse_revision(obj)
        found = revision.ownership
        if found is None:
            continue
        orphaned = (revision.key[0], found.pool) not in existing
        expired = found.expires is not None and found.expires <= now
        if orphaned or expired:
            await _give_back_autoscaler(cluster, revision)
            if await _give_back(cluster, revision):
                released.append(f"{revision.key[0]}/{revision.key[1]}")
    for obj in abandoned:
        await _remove_finalizer(cluster, obj)
        released.append(f"{obj['metadata']['namespace']}/{obj['metadata']['name']} (WarmPool)")
    return released


async def give_up(cluster: Cluster, name: str, namespace: str) -> list[str]:
    """Delete a pool, give its floors back and let go of it, whether a controller runs or not.

    Returns:
        The Revisions that had a floor of it.
    """
    with suppress(NotFound):
        await cluster.delete(WARM_POOL, name, namespace)
    released = []
    for obj in await cluster.list(REVISION, namespace):
        revision = parsing.parse_revision(obj)
        if revision.ownership is not None and revision.ownership.pool == name:
            await _give_back_autoscaler(cluster, revision)
            if await _give_back(cluster, revision):
                released.append(revision.key[1])
    with suppress(NotFound):
        left = await cluster.get(WARM_POOL, name, namespace)
        if ownership.FINALIZER in left["metadata"].get("finalizers", ()):
            await _remove_finalizer(cluster, left)
    return released


async def apply(cluster: Cluster, wanted: Object) -> Object:
    """Create a WarmPool, or give one that exists this spec and leave its labels; returns it as it is then.

    Raises:
        ClusterError: the API refuses it.
    """
    meta = {"namespace": "default", **wanted["metadata"]}
    try:
        return await cluster.create(WARM_POOL, {**wanted, "metadata": meta})
    except AlreadyExists:
        before = await cluster.get(WARM_POOL, meta["name"], meta["namespace"])
    spec = wanted.get("spec") or {}
    gone = dict.fromkeys(before["spec"].keys() - spec.keys())
    return await cluster.patch(WARM_POOL, meta["name"], meta["namespace"], {"spec": {**spec, **gone}})


async def enable(cluster: Cluster, name: str, namespace: str, *, on: bool) -> None:
    """Enable or disable a pool; disabling gives every Revision its own min-scale back."""
    await cluster.patch(WARM_POOL, name, namespace, {"spec": {"enabled": on}})


async def pools(cluster: Cluster, namespace: str | None) -> list[Object]:
    """The WarmPools of a namespace, or of all (None), by namespace and name."""
    found = await _pools(cluster, namespace)
    return sorted(found, key=lambda obj: (obj["metadata"]["namespace"], obj["metadata"]["name"]))


async def _pools(cluster: Cluster, namespace: str | None) -> list[Object]:
    return await cluster.list(WARM_POOL, namespace)


async def _annotate(cluster: Cluster, name: str, namespace: str, annotations: dict[str, Any]) -> None:
    await cluster.patch(WARM_POOL, name, namespace, {"metadata": {"annotations": annotations}})


async def _give_back_autoscaler(cluster: Cluster, revision: views.RevisionView) -> None:
    """Restore min-scale on the PodAutoscaler, where a pool wrote it for a Knative before 1.21.

    It comes before the Revision, whose annotations say what to restore.
    """
    namespace, name = revision.key
    try:
        found = parsing.parse_autoscaler(await cluster.get(POD_AUTOSCALER, name, namespace))
        if found.written_by is not None:
            user = revision.user_min_scale
            annotations = {MIN_SCALE: None if user is None else str(user), ownership.LEVER: None}
            await cluster.patch(POD_AUTOSCALER, name, namespace, {"metadata": {"annotations": annotations}})
    except NotFound:
        return


async def _remove_finalizer(cluster: Cluster, pool: Object) -> None:
    meta = pool["metadata"]
    kept = [name for name in meta["finalizers"] if name != ownership.FINALIZER]
    body = {"metadata": {"resourceVersion": meta["resourceVersion"], "finalizers": kept}}
    with suppress(NotFound, Conflict):  # somebody else is at it
        await cluster.patch(WARM_POOL, meta["name"], meta["namespace"], body)


async def _give_back(cluster: Cluster, revision: views.RevisionView) -> bool:
    for _ in range(_ATTEMPTS):
        writes = planning.release_floors([revision])
        if not writes:
            return False
        body = {"metadata": {"resourceVersion": writes[0].version, "annotations": writes[0].annotations}}
        try:
            await cluster.patch(REVISION, revision.key[1], revision.key[0], body)
        except NotFound:
            return False
        except Conflict:
            try:
                revision = parsing.parse_revision(
                    await cluster.get(REVISION, revision.key[1], revision.key[0])
                )
            except NotFound:
                return False
        else:
            return True
    raise Conflict(409, "Conflict", f"Revision {revision.key[1]} keeps changing")
