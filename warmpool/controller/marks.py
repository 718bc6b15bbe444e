"""What the controller writes on a Revision, so that any controller, also a fresh one, can undo it.

The marks travel in the same patch as the floor, so that neither is ever there without the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from knative.annotations import MIN_SCALE

POOL: Final = "pilotlight.dev/pool"
"""The WarmPool that holds the floor."""
WRITTEN: Final = "pilotlight.dev/min-scale-written"
"""The min-scale that was written; another value on the Revision is a user's."""
USER: Final = "pilotlight.dev/min-scale-user"
"""The Revision's own min-scale, to be restored; empty: it had none."""
EXPIRES: Final = "pilotlight.dev/floor-expires"
"""When the floor is void if no controller has said otherwise since."""
WARMTH: Final = "pilotlight.dev/floor-warmth"
"""How warm the replicas are kept, e.g. `1 hot + 1 standby`; absent when all are hot."""

FINALIZER: Final = "pilotlight.dev/floor"
"""On a WarmPool: its floors are given back before it goes."""
HOLD_REPLICAS: Final = "pilotlight.dev/hold-replicas"
HOLD_UNTIL: Final = "pilotlight.dev/hold-until"
"""On a WarmPool: a person's order, see `pilotlight pool hold`."""
GPU: Final = "pilotlight.dev/gpu"
"""On a Service or its template: the GPU's name in the price list."""

ALL: Final = (POOL, WRITTEN, USER, EXPIRES, WARMTH)


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands on a Revision that somebody holds."""

    pool: str
    written: int | None
    user: int | None
    expires: datetime | None
    warmth: str | None = None


def read(annotations: dict[str, str]) -> Marks | None:
    """The marks of a Revision; None when no pool holds it."""
    pool = annotations.get(POOL)
    if pool is None:
        return None
    return Marks(
        pool,
        _number(annotations.get(WRITTEN)),
        _number(annotations.get(USER)),
        parse_instant(annotations.get(EXPIRES)),
        annotations.get(WARMTH),
    )


def user_min_scale(annotations: dict[str, str]) -> int | None:
    """The Revision's own min-scale, seen through what a pool may have written over it."""
    current = _number(annotations.get(MIN_SCALE))
    marks = read(annotations)
    if marks is None or current != marks.written:
        return current  # nobody holds it, or somebody has set another value by hand since
    return marks.user


def write(marks: Marks) -> dict[str, str | None]:
    """The annotations of a merge patch that sets floor and marks."""
    return {
        MIN_SCALE: None if marks.written is None else str(marks.written),
        POOL: marks.pool,
        WRITTEN: None if marks.written is None else str(marks.written),
        USER: "" if marks.user is None else str(marks.user),
        EXPIRES: None if marks.expires is None else timestamp(marks.expires),
        WARMTH: marks.warmth,
    }


def erase(user: int | None) -> dict[str, str | None]:
    """The annotations of a merge patch that gives a Revision back as it was."""
    gone: dict[str, str | None] = dict.fromkeys(ALL)
    return {MIN_SCALE: None if user is None else str(user), **gone}


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
