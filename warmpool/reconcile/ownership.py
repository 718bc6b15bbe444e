"""The annotations that record which WarmPool holds a Revision's floor, and how any controller gives it back.

They are written in the same patch as min-scale, so that neither is ever there without the other.

Their names begin with `autoscaling.knative.dev` for a reason: Knative copies a Revision's annotations into
its Deployment's pod template, and a changed template replaces every replica. Only annotations with that
prefix are left out (pkg/reconciler/revision/resources/meta.go), and only they are removed from the
PodAutoscaler again when they are removed from the Revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from knative.autoscaling.annotations import ALIASES, GROUP, MIN_SCALE, lookup
from warmpool.domain.counts import parse_count

_PREFIX: Final = f"{GROUP}.pilotlight.dev"
"""A domain of this project that Knative takes for one of the autoscaler's."""

POOL: Final = f"{_PREFIX}/pool"
"""The WarmPool that holds the floor."""
WRITTEN: Final = f"{_PREFIX}/min-scale-written"
"""The min-scale that the pool wrote; another value on the Revision was set by a user since."""
USER: Final = f"{_PREFIX}/min-scale-user"
"""The Revision's own min-scale, to be restored; empty: it had none."""
EXPIRES: Final = f"{_PREFIX}/floor-expires"
"""When the floor is void unless a controller has renewed it since."""
WARMTH: Final = f"{_PREFIX}/floor-warmth"
"""How warm the replicas are kept, e.g. `1 hot + 1 standby`; absent when all are hot."""

LEVER: Final = f"{_PREFIX}/lever"
"""On a PodAutoscaler: the pool that wrote min-scale there directly, because the Revision's is not copied.

A Knative that copies the Revision's annotations removes it by itself.
"""

FINALIZER: Final = "pilotlight.dev/floor"
"""On a WarmPool: its floors are given back before it is deleted."""
HOLD_REPLICAS: Final = "pilotlight.dev/hold-replicas"
HOLD_UNTIL: Final = "pilotlight.dev/hold-until"
"""On a WarmPool: a person's order, see `pilotlight pool hold`."""
GPU: Final = "pilotlight.dev/gpu"
"""On a Service or its template: the GPU's name in the price list."""

ALL: Final = (POOL, WRITTEN, USER, EXPIRES, WARMTH)
OLDER: Final = {name: f"pilotlight.dev/{name.partition('/')[2]}" for name in ALL}
"""The names that earlier builds wrote, by the current ones: read, and removed with the floor.

They stay until then: Knative has copied them into the pod template, and removing them replaces the replicas.
"""
KEPT: Final = (MIN_SCALE, ALIASES[MIN_SCALE], *ALL, *OLDER.values())
"""The annotations of a Revision that are needed to see its floor and to give it back."""


@dataclass(frozen=True, slots=True)
class FloorOwnership:
    """Who holds a Revision's floor, and what to restore afterwards."""

    pool: str
    """Name of the WarmPool, in the Revision's namespace."""
    written: int | None
    """The min-scale that the pool wrote."""
    user: int | None
    """The min-scale that the Revision had before; None: none."""
    expires: datetime | None
    warmth: str | None = None


def read(annotations: Mapping[str, str]) -> FloorOwnership | None:
    """The ownership annotations of a Revision; None when no pool holds it."""
    if POOL not in annotations:
        annotations = {name: annotations[older] for name, older in OLDER.items() if older in annotations}
    pool = annotations.get(POOL)
    if pool is None:
        return None
    return FloorOwnership(
        pool,
        parse_count(annotations.get(WRITTEN)),
        parse_count(annotations.get(USER)),
        parse_instant(annotations.get(EXPIRES)),
        annotations.get(WARMTH),
    )


def user_min_scale(annotations: Mapping[str, str]) -> int | None:
    """The Revision's own min-scale, whatever a pool may have written in its place."""
    current = min_scale(annotations)
    owner = read(annotations)
    if owner is None or current != owner.written:
        return current  # no pool holds it, or a user has set another value since
    return owner.user


def min_scale(annotations: Mapping[str, str]) -> int | None:
    """The min-scale in force, in the current or the older spelling."""
    found = lookup(annotations, MIN_SCALE)
    return parse_count(found[1]) if found else None


def write(owner: FloorOwnership) -> dict[str, str | None]:
    """The annotations of a merge patch that sets min-scale and its ownership."""
    return {
        MIN_SCALE: None if owner.written is None else str(owner.written),
        POOL: owner.pool,
        WRITTEN: None if owner.written is None else str(owner.written),
        USER: "" if owner.user is None else str(owner.user),
        EXPIRES: None if owner.expires is None else timestamp(owner.expires),
        WARMTH: owner.warmth,
    }


def erase(annotations: Mapping[str, str]) -> dict[str, str | None]:
    """The annotations of a merge patch that restores the Revision's own min-scale."""
    removed: dict[str, str | None] = dict.fromkeys(ALL)
    removed |= dict.fromkeys(older for older in OLDER.values() if older in annotations)
    user = user_min_scale(annotations)
    older = parse_count(annotations.get(ALIASES[MIN_SCALE]))  # never overwritten: it applies again by itself
    return {MIN_SCALE: None if user is None or user == older else str(user), **removed}


def timestamp(instant: datetime) -> str:
    """RFC 3339 in whole seconds, as Kubernetes writes it."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_instant(value: object) -> datetime | None:
    """An RFC 3339 timestamp in UTC; None when the value is not one."""
    if not isinstance(value, str) or not value:
        return None
    try:
        instant = datetime.fromisoformat(value)
        return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
