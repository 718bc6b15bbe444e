"""Where replicas find their GPUs: no limit, a number that functions share, or nodes that come and go.

Greedy-dual is a shared number with a rule for who has to leave: after FaasCache (Fuerst and Sharma, ASPLOS
2021), a warm function's priority is `clock + uses * load_s / gpus`; where room is needed the lowest leaves,
and the clock becomes its priority.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from warmpool.domain.floor import NOTHING, Floor
from warmpool.experiments.cold_start import ColdStarts
from warmpool.experiments.floors import NEVER, Second

ANYWHERE = 0
"""The node of a replica where there are no nodes."""
_TURNS_S = 2.0
"""No function is further ahead of another that asks for GPUs, s."""


class Capacity(Protocol):
    """GPUs that replicas take and give back."""

    def place(self, gpus: int, now: float) -> tuple[int, float] | None:
        """Take GPUs: the node, and the instant at which it is there; None: there is no room."""

    def leave(self, node: int, gpus: int, now: float) -> None:
        """Give GPUs back."""


@dataclass(slots=True)
class SharedGpus:
    """GPUs that functions share; `total` None: as many as they like."""

    total: int | None = None
    taken: int = 0
    _left: list[tuple[float, int]] = field(default_factory=list)

    def place(self, gpus: int, now: float) -> tuple[int, float] | None:
        """Take GPUs if they are free."""
        if self.missing(gpus, now) > 0:
            return None
        self.taken += gpus
        return ANYWHERE, now

    def missing(self, gpus: int, now: float) -> int:
        """How many of so many GPUs are not free; 0 or less: all are."""
        if self.total is None:
            return 0
        # Functions take turns of a second: what one gives back at its end is not there for another before.
        while self._left and self._left[0][0] < now - _TURNS_S:
            self.taken -= heapq.heappop(self._left)[1]
        return self.taken - sum(count for at, count in self._left if at <= now) + gpus - self.total

    def leave(self, node: int, gpus: int, now: float) -> None:  # noqa: ARG002 - they are all the same
        """Give GPUs back."""
        if self.total is None:
            self.taken -= gpus
        else:
            heapq.heappush(self._left, (now, gpus))


@dataclass(slots=True)
class _Node:
    ordered: float
    ready_at: float
    free: int
    empty_since: float | None = None


@dataclass(slots=True)
class Nodes:
    """Nodes of some GPUs each: ordered when a replica finds no room, returned after a time without one.

    Args:
        gpus: GPUs of a node.
        provisioning: how long it takes from the order until replicas can start there.
        keep_s: how long a node without replicas is kept.
        most: the most nodes at once; None: no limit.
        rng: draws the provisioning times.
    """

    gpus: int
    provisioning: ColdStarts
    keep_s: float
    most: int | None
    rng: np.random.Generator
    ordered: int = 0
    _spent_s: float = 0.0
    _nodes: dict[int, _Node] = field(default_factory=dict)

    def place(self, gpus: int, now: float) -> tuple[int, float] | None:
        """Room on the oldest node that has some, else on a new one."""
        if not gpus:
            return ANYWHERE, now
        self._return_empty(now)
        for name, node in self._nodes.items():
            if node.free >= gpus:
                node.free -= gpus
                node.empty_since = None
                return name, max(now, node.ready_at)
        if self.most is not None and len(self._nodes) >= self.most:
            return None
        self.ordered += 1
        ready_at = now + float(self.provisioning.draw(1, self.rng)[0])
        self._nodes[self.ordered] = _Node(now, ready_at, self.gpus - gpus)
        return self.ordered, ready_at

    def leave(self, node: int, gpus: int, now: float) -> None:
        """Give GPUs of a node back."""
        if node == ANYWHERE:
            return
        found = self._nodes[node]
        found.free += gpus
        if found.free == self.gpus:
            found.empty_since = now

    def gpu_s(self, now: float) -> float:
        """GPU-seconds of all nodes from their orders to their returns, or to now."""
        self._return_empty(now)
        return (self._spent_s + sum(now - node.ordered for node in self._nodes.values())) * self.gpus

    def _return_empty(self, now: float) -> None:
        for name, node in list(self._nodes.items()):
            if node.empty_since is not None and node.empty_since + self.keep_s <= now:
                self._spent_s += node.empty_since + self.keep_s - node.ordered
                del self._nodes[name]


class GreedyDualFloor:
    """Holds what demand has brought to a function until greedy-dual lets another one have its room.

    Args:
        load_s: seconds that a new start costs.
        gpus: GPUs of a replica.
        concurrency: requests that one replica takes.
    """

    drains = False
    orders_warmth = False

    def __init__(self, load_s: float, *, gpus: int = 1, concurrency: int = 1) -> None:
        self._worth = load_s / max(1, gpus)
        self._concurrency = max(1, concurrency)
        self._uses = 0
        self._used_at_clock = 0.0
        self._floor = NOTHING
        self.clock: Callable[[], float] = lambda: 0.0

    @property
    def priority(self) -> float:
        """The lowest leaves first."""
        return self._used_at_clock + self._uses * self._worth

    @property
    def held(self) -> int:
        """Replicas."""
        return self._floor.replicas

    def observe(self, second: Second, now: float) -> None:  # noqa: ARG002 - a use counts whenever it is
        """Count uses, and hold what they needed."""
        if second.arrivals:
            self._uses += second.arrivals
            self._used_at_clock = self.clock()
        needed = -(-second.peak // self._concurrency)
        if needed > self._floor.replicas:
            self._floor = Floor.of(needed)

    def idle(self, seconds: int) -> int:
        """Nothing is learned."""
        return seconds

    def decide(self, now: float) -> tuple[Floor, float]:  # noqa: ARG002 - time alone changes nothing
        """What it holds."""
        return self._floor, NEVER

    def give_up_one(self) -> None:
        """Hold one replica less; without any, its uses are forgotten."""
        self._floor = Floor.of(self._floor.replicas - 1)
        if not self._floor.replicas:
            self._uses = 0


@dataclass(slots=True)
class Tenant:
    """A function that greedy-dual can take room from.

    Attributes:
        policy: its floor.
        gpus: GPUs of one of its replicas.
        spare: replicas beyond what its requests and Knative's autoscaler need now.
        leaving: replicas that it holds no more but that are not gone yet.
        tell: makes it look at its floor at an instant.
    """

    policy: GreedyDualFloor
    gpus: int
    spare: Callable[[], int]
    leaving: Callable[[], int]
    tell: Callable[[float], None]


class GreedyDual(SharedGpus):
    """GPUs that functions share, with eviction.

    Who needs room asks again each second; a replica that is told to leave goes when Knative lets it.

    Args:
        total: how many there are.
    """

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.clock = 0.0
        self._tenants: list[Tenant] = []

    def enter(self, tenant: Tenant) -> None:
        """Add a function."""
        tenant.policy.clock = lambda: self.clock
        self._tenants.append(tenant)

    def place(self, gpus: int, now: float) -> tuple[int, float] | None:
        """Take GPUs if they are free; else let the least worthy functions leave, for the next time."""
        missing = self.missing(gpus, now)
        if missing > 0:
            missing -= sum(tenant.leaving() * tenant.gpus for tenant in self._tenants)
            missing -= sum(count for at, count in self._left if at > now)
        while missing > 0:
            spare = [tenant for tenant in self._tenants if tenant.policy.held and tenant.spare() > 0]
            if not spare:
                break
            least = min(spare, key=lambda tenant: tenant.policy.priority)
            self.clock = max(self.clock, least.policy.priority)
            least.policy.give_up_one()
            missing -= least.gpus
            least.tell(now)
        return super().place(gpus, now)
