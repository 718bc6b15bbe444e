"""Which replica is ordered to which warmth, from how warm each one is now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warmpool.domain.cost import ReplicaPrice
from warmpool.domain.field_types import Warmth
from warmpool.domain.floor import Floor
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.domain.replica_warmth import ReplicaWarmth


@dataclass(frozen=True, slots=True)
class WarmthOrder:
    """A replica, and the warmth that it is to keep when it serves no request."""

    replica: ReplicaWarmth
    warmth: Warmth


def needs_warmth(pool: WarmPoolTemplate, price: ReplicaPrice | None) -> bool:
    """Whether a pool can ever want a replica that is not hot."""
    windows = (*pool.windows, *pool.exceptions)
    cheaper = price is not None and pool.limits.budget is not None and price.share("standby") < 1
    return cheaper or any(window.warmth != "hot" for window in windows)


def orders_for(replicas: Sequence[ReplicaWarmth], floor: Floor) -> tuple[WarmthOrder, ...]:
    """The orders that bring replicas to a floor.

    Replicas that already have the right warmth keep it, replicas beyond the floor are left alone, and with
    too few replicas the warmest part of the floor comes first.
    """
    left = sorted(replicas, key=lambda replica: replica.name)
    missing: list[tuple[Warmth, int]] = []
    for warmth, count in floor.at_most(len(replicas)).by_warmth().items():
        right = [replica for replica in left if replica.warmth == warmth][:count]
        left = [replica for replica in left if replica not in right]
        missing.append((warmth, count - len(right)))
    orders: list[WarmthOrder] = []
    for warmth, count in missing:
        chosen, left = left[:count], left[count:]
        orders += [WarmthOrder(replica, warmth) for replica in chosen]
    return tuple(orders)
