"""What people do to rollouts: each order is an annotation of the WarmPool, the controller does the rest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from knative.client.cluster import Cluster
from knative.client.errors import NotFound
from knative.client.resources import SERVICE, WARM_POOL, Object
from warmpool.reconcile import canary_record, parsing
from warmpool.reconcile.canary_record import RolloutRecord

Verb = Literal["promote", "abort", "resume"]


class RolloutError(ValueError):
    """There is nothing that the order could be about; the text says what there is."""


async def find(cluster: Cluster, name: str, namespace: str) -> Object:
    """The WarmPool of this name, else the one whose target it is.

    Raises:
        RolloutError: there is none, or it has no rollout.
        ClusterError: the API refuses.
    """
    try:
        pool = await cluster.get(WARM_POOL, name, namespace)
    except NotFound:
        pools = await cluster.list(WARM_POOL, namespace)
        found = [entry for entry in pools if (entry.get("spec") or {}).get("target") == name]
        if not found:
            raise RolloutError(
                f"{namespace}/{name}: there is no WarmPool of this name, and none for a Service of this name"
            ) from None
        pool = found[0]
    if (pool.get("spec") or {}).get("rollout") is None:
        raise RolloutError(
            f"{namespace}/{name}: the WarmPool has no rollout: write `rollout: {{}}` on the stage"
        )
    return pool


def state(pool: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the status says of the rollout."""
    found: Mapping[str, Any] = (pool.get("status") or {}).get("rollout") or {}
    return found


async def order(cluster: Cluster, name: str, namespace: str, verb: Verb) -> str:
    """Order something about the present canary; returns its Revision's name.

    Raises:
        RolloutError: there is no canary, or it is not in a state for this.
        ClusterError: the API refuses.
    """
    pool = await find(cluster, name, namespace)
    shown = state(pool)
    canary, phase = shown.get("canary"), shown.get("phase", "not seen by a controller yet")
    if verb == "resume" and phase == "Overridden":
        canary = canary or shown.get("stable")
    paused = (pool["metadata"].get("annotations") or {}).get(canary_record.PAUSED) == "true"
    if verb == "resume" and paused:
        await _annotate(cluster, pool, {canary_record.PAUSED: None})
        return str(canary or shown.get("stable") or name)
    if canary is None:
        raise RolloutError(f"{namespace}/{name}: there is no new Revision to {verb}; the rollout is {phase}")
    if verb == "resume" and phase not in {"RolledBack", "Overridden"}:
        raise RolloutError(f"{namespace}/{name}: {canary} is neither paused nor rolled back; it is {phase}")
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    await _annotate(cluster, pool, {canary_record.ORDER: f"{verb} {canary} {now}"})
    return str(canary)


async def pause(cluster: Cluster, name: str, namespace: str) -> None:
    """Take no further step until `resume`. A rollback still happens by itself.

    Raises:
        RolloutError: there is no rollout.
        ClusterError: the API refuses.
    """
    pool = await find(cluster, name, namespace)
    await _annotate(cluster, pool, {canary_record.PAUSED: "true"})


async def pin(cluster: Cluster, name: str, namespace: str) -> bool:
    """Name the Revision that has a Service's traffic, before a template is applied that makes another.

    Without that, a Service which gets its rollout and a new template at once would give the new Revision
    everything before a controller has seen it. Returns whether something was written.

    Raises:
        ClusterError: the API refuses.
    """
    try:
        found = await cluster.get(SERVICE, name, namespace)
    except NotFound:
        return False
    view = parsing.parse_service(found)
    sole = canary_record.sole(view.spec_traffic)
    serving = next((share.revision for share in view.traffic if share.percent == 100), None)
    if view.rollout is not None or sole is None or sole.revision is not None or serving is None:
        return False
    traffic = canary_record.split(view.spec_traffic, serving, None, 0)
    body: Object = {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "resourceVersion": found["metadata"]["resourceVersion"],
            "annotations": {canary_record.RECORD: canary_record.write(RolloutRecord(serving, traffic))},
        },
        "spec": {"traffic": [entry.to_wire() for entry in traffic]},
    }
    await cluster.apply(SERVICE, body, field_manager=canary_record.FIELD_MANAGER, force=True)
    return True


async def _annotate(cluster: Cluster, pool: Object, annotations: Mapping[str, str | None]) -> None:
    meta = pool["metadata"]
    body: Object = {"metadata": {"annotations": dict(annotations)}}
    await cluster.patch(WARM_POOL, meta["name"], meta["namespace"], body)
