"""What the controller writes on a Revision, so that any controller, also a fresh one, can undo it.

The marks travel in the same patch as the floor, so that neither is ever there without the other.

Their names begin with `autoscaling.knative.dev` for a reason: what a Revision is annotated with, Knative
copies into its Deployment's pod template, and a template that changes replaces every replica. Only those with
that beginning are left out (pkg/reconciler/revision/resources/meta.go), and they alone are taken off the
PodAutoscaler again when they go from the Revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from knative.autoscaling.annotations import ALIASES, GROUP, MIN_SCALE, lookup

_PREFIX: Final = f"{GROUP}.pilotlight.dev"
"""A name under pilotlight.dev that Knative takes for one of the autoscaler's."""

POOL: Final = f"{_PREFIX}/pool"
"""The WarmPool that holds the floor."""
WRITTEN: Final = f"{_PREFIX}/min-scale-written"
"""The min-scale that was written; another value on the Revision is a user's."""
USER: Final = f"{_PREFIX}/min-scale-user"
"""The Revision's own min-scale, to be restored; empty: it had none."""
EXPIRES: Final = f"{_PREFIX}/floor-expires"
"""When the floor is void if no controller has said otherwise since."""
WARMTH: Final = f"{_PREFIX}/floor-warmth"
"""How warm the replicas are kept, e.g. `1 hot + 1 standby`; absent when all are hot."""

LEVER: Final = f"{_PREFIX}/lever"
"""On a PodAutoscaler: the pool that wrote its min-scale there, because the Revision's does not arrive. A
Knative that passes the Revision's annotations on takes it off by itself."""

FINALIZER: Final = "pilotlight.dev/floor"
"""On a WarmPool: its floors are given back before it goes."""
HOLD_REPLICAS: Final = "pilotlight.dev/hold-replicas"
HOLD_UNTIL: Final = "pilotlight.dev/hold-until"
"""On a WarmPool: a person's order, see `pilotlight pool hold`."""
GPU: Final = "pilotlight.dev/gpu"
"""On a Service or its template: the GPU's name in the price list."""

ALL: Final = (POOL, WRITTEN, USER, EXPIRES, WARMTH)
KEPT: Final = (MIN_SCALE, ALIASES[MIN_SCALE], *ALL)
"""What has to be known of a Revision's annotations to see its floor and give it back."""


@dataclass(frozen=True, slots=True)
class FloorOwnership:
    """What stands on a Revision that somebody holds."""

    pool: str
    written: int | None
    user: int | None
    expires: datetime | None
    warmth: str | None = None


def read(annotations: Mapping[str, str]) -> FloorOwnership | None:
    """The marks of a Revision; None when no pool holds it."""
    pool = annotations.get(POOL)
    if pool is None:
        return None
    return FloorOwnership(
        pool,
        _number(annotations.get(WRITTEN)),
        _number(annotations.get(USER)),
        parse_instant(annotations.get(EXPIRES)),
        annotations.get(WARMTH),
    )


def user_min_scale(annotations: Mapping[str, str]) -> int | None:
    """The Revision's own min-scale, seen through what a pool may have written over it."""
    current = min_scale(annotations)
    marks = read(annotations)
    if marks is None or current != marks.written:
        return current  # nobody holds it, or somebody has set another value by hand since
    return marks.user


def min_scale(annotations: Mapping[str, str]) -> int | None:
    """The min-scale that counts, in whichever spelling."""
    found = lookup(annotations, MIN_SCALE)
    return _number(found[1]) if found else None


def write(marks: FloorOwnership) -> dict[str, str | None]:
    """The annotations of a merge patch that sets floor and marks."""
    return {
        MIN_SCALE: None if marks.written is None else str(marks.written),
        POOL: marks.pool,
        WRITTEN: None if marks.written is None else str(marks.written),
        USER: "" if marks.user is None else str(marks.user),
        EXPIRES: None if marks.expires is None else timestamp(marks.expires),
        WARMTH: marks.warmth,
    }


def erase(annotations: Mapping[str, str]) -> dict[str, str | None]:
    """The annotations of a merge patch that gives a Revision back as it was."""
    gone: dict[str, str | None] = dict.fromkeys(ALL)
    user = user_min_scale(annotations)
    older = _number(annotations.get(ALIASES[MIN_SCALE]))  # never touched: it counts again by itself
    return {MIN_SCALE: None if user is None or user == older else str(user), **gone}


def timestamp(instant: datetime) -> str:
    """RFC 3339 in whole seconds, as Kubernetes writes it."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def parse_instant(text: str | None) -> datetime | None:
    """An RFC 3339 timestamp; None when there is none or it is none."""
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
