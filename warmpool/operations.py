"""What an operator does to pools by hand: each changes the WarmPool, and the controller does the rest."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from knative.client.cluster import Cluster
from knative.client.errors import Conflict, NotFound
from knative.client.resources import REVISION, WARM_POOL, Object
from warmpool.domain.field_types import MAX_REPLICAS
from warmpool.domain.spec_errors import SpecError
from warmpool.reconcile import ownership, parsing, planning, views

LONGEST_HOLD: Final = timedelta(days=7)
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
    """Give back every floor that is past its expiry or whose pool is gone; returns the Revisions.

    For when no controller runs: the floors that it left behind cost money.
    """
    pools = {
        (pool["metadata"]["namespace"], pool["metadata"]["name"]) for pool in await _pools(cluster, namespace)
    }
    released = []
    for obj in await cluster.list(REVISION, namespace):
        revision = parsing.parse_revision(obj)
        found = revision.ownership
        if found is None:
            continue
        orphaned = (revision.key[0], found.pool) not in pools
        expired = found.expires is not None and found.expires <= now
        if (orphaned or expired) and await _give_back(cluster, revision):
            released.append(f"{revision.key[0]}/{revision.key[1]}")
    return released


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
