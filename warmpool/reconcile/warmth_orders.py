"""Which replica is to be how warm: from what each rests on now, the orders that make up the floor. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warmpool.domain.cost import ReplicaPrice
from warmpool.domain.field_types import Warmth
from warmpool.domain.floor import Floor
from warmpool.domain.pool import WarmPoolTemplate


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica that takes orders."""

    name: str
    url: str
    rest: Warmth
    """What it rests on when it has nothing to do."""


@dataclass(frozen=True, slots=True)
class Order:
    """Rest on this from now on."""

    replica: Replica
    warmth: Warmth


def concerns(pool: WarmPoolTemplate, price: ReplicaPrice | None) -> bool:
    """Whether a pool can ever want anything but hot replicas."""
    spans = (*pool.windows, *pool.exceptions)
    cheaper = price is not None and pool.limits.budget is not None and price.share("standby") < 1
    return cheaper or any(span.warmth != "hot" for span in spans)


def arrange(replicas: Sequence[Replica], floor: Floor) -> tuple[Order, ...]:
    """The orders that lead to the floor; whoever is right already stays, who is beyond the floor is left be.

    Of too few replicas the warmest of the floor are made first.
    """
    left = sorted(replicas, key=lambda replica: replica.name)
    orders: list[Order] = []
    short: list[tuple[Warmth, int]] = []
    for warmth, count in floor.at_most(len(replicas)).by_warmth().items():
        right = [replica for replica in left if replica.rest == warmth][:count]
        left = [replica for replica in left if replica not in right]
        short.append((warmth, count - len(right)))
    for warmth, count in short:
        chosen, left = left[:count], left[count:]
        orders += [Order(replica, warmth) for replica in chosen]
    return tuple(orders)
