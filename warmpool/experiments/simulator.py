"""Experiments in virtual time: requests, activator, Knative's autoscaler, replicas that start, floors.

The autoscaler is the project's own (`knative.autoscaling`), the floors are the controller's (`floors`), the
data path follows Knative's activator: requests wait in one queue for a free slot of a ready replica.
Between two seconds everything runs compiled; at each second the autoscaler gets its reports, and every two
it decides. Seconds in which nothing can change are passed over at once: `RevisionAutoscaler.settled_until`
knows how long. The same seed gives the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from knative.autoscaling import kpa
from knative.autoscaling.annotations import AutoscalingSpec
from knative.autoscaling.revision_autoscaler import RevisionAutoscaler, RevisionScaling
from warmpool.domain.field_types import WARMTHS, Warmth
from warmpool.domain.floor import NOTHING
from warmpool.domain.replica_warmth import ReplicaWarmth
from warmpool.experiments import data_path
from warmpool.experiments.capacity import Capacity, GreedyDualFloor, SharedGpus, Tenant
from warmpool.experiments.cold_start import ColdStarts, Constant
from warmpool.experiments.floors import FixedFloor, FloorPolicy, Second
from warmpool.experiments.result import Result
from warmpool.reconcile.warmth_orders import orders_for

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DRAIN_LIMIT_S: Final = 7200.0
"""How long after the last request an arm is still charged, at most."""
_NEVER: Final = math.inf
_NONE: Final[Floats] = np.empty(0)
_LONG_AGO_S: Final = 86_400.0
POKE: Final = -1
"""The origin of a request that only wakes a stage."""


@dataclass(frozen=True, slots=True)
class Warmths:
    """How warm a replica rests.

    Attributes:
        resting: of a replica that no floor wants warmer.
        idle_after_s: seconds without a request after which it rests again.
        wake_s: from asleep and from standby to hot, s.
        shares: what an idle replica costs, as a share of the hot price.
    """

    resting: Warmth = "hot"
    idle_after_s: float = _NEVER
    wake_s: dict[Warmth, float] = field(default_factory=dict)
    shares: dict[Warmth, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Replica:
    """What one replica is.

    Attributes:
        cold_starts: how long it takes to start, until it is hot.
        gpus: GPUs that it holds from its first second to its last.
        concurrency: requests at once (`containerConcurrency`); 0: no limit.
        slowdown: share by which each further request in a replica lengthens one that begins there.
        hourly: the price of one GPU for an hour.
        stop_s: how long its GPUs are held after the order to stop, while it ends.
        warmths: how warm it rests; it starts to its resting warmth in its cold start less the time to wake.
    """

    cold_starts: ColdStarts = field(default_factory=lambda: Constant(30.0))
    gpus: int = 1
    concurrency: int = 1
    slowdown: float = 0.0
    hourly: float = 0.0
    stop_s: float = 0.0
    warmths: Warmths = field(default_factory=Warmths)


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """The requests of one function.

    Attributes:
        name: the function.
        arrivals: (n,) seconds, ascending; of a later stage, those at the first one.
        service_s: (n,) seconds with the replica to itself.
        first_token_s: (n,) seconds from the beginning of service to the first token.
    """

    name: str
    arrivals: Floats
    service_s: Floats
    first_token_s: Floats


class FunctionSimulation:
    """One function in virtual time; `plan` and `step` by turns until it is `finished`.

    Args:
        load: its requests.
        replica: what one replica is.
        policy: what holds its floor.
        autoscaling: Knative's settings; `min_scale` is the floor's.
        capacity: where its replicas find GPUs.
        seed: draws its cold starts.
        charged_until: a floor that does not follow demand is charged until then at least, s.
        fed: requests come by `feed`, in place of the load's arrivals; how many at most. None: they do not.
    """

    def __init__(
        self,
        load: Load,
        replica: Replica,
        policy: FloorPolicy,
        *,
        autoscaling: AutoscalingSpec | None = None,
        capacity: Capacity | None = None,
        seed: int = 0,
        charged_until: float = 0.0,
        fed: int | None = None,
    ) -> None:
        count = len(load.arrivals) if fed is None else fed
        self.now = 0.0
        self._load = load
        self._replica = replica
        self._policy = policy
        self._capacity = capacity or SharedGpus()
        self._rng = np.random.default_rng(seed)
        # The initial scale would start a replica that nobody asked for: the Revision is there since long.
        self._scaling = RevisionScaling(
            replace(autoscaling or AutoscalingSpec(), min_scale=0), replica.concurrency
        )
        # As long as its grace period at least: an activator that is new in the path keeps the last replica.
        self._autoscaler = RevisionAutoscaler(self._scaling, -_LONG_AGO_S, 0)
        self._fed = fed is not None
        self._upstream_ended = fed is None
        self._horizon = 0.0 if self._fed else _NEVER
        self._arrivals = np.zeros(count) if self._fed else load.arrivals
        self._service_s = np.zeros(count) if self._fed else load.service_s
        self._origins: Ints = np.zeros(count if self._fed else 0, np.int64)
        self._pods = np.zeros((data_path.POD_ROWS, 16))
        self._queue = np.zeros(max(1, count), np.int64)
        self._heap = np.zeros((3, max(1, count)))
        self._left = np.zeros(max(1, count), np.int64)
        self._counters = np.zeros(data_path.COUNTERS, np.int64)
        self._counters[data_path.KNOWN_ARRIVALS] = 0 if self._fed else count
        self._spent = np.zeros(data_path.SPENT)
        self._spent[data_path.NEXT_READY] = _NEVER
        self._waited = np.zeros(count)
        self._served = np.zeros(count)
        self._cold = np.zeros(count, np.bool_)
        self._woke = np.zeros(count, np.bool_)
        warmths = replica.warmths
        self._wake_s = np.array([warmths.wake_s.get(warmth, 0.0) for warmth in WARMTHS])
        self._idle_after_s = warmths.idle_after_s
        self._resting = WARMTHS.index(warmths.resting)
        self._orders_warmth = policy.orders_warmth
        self._known = 0 if self._fed else count
        self._arrived = self._inside = self._ready = self._starting = 0
        self._starts: Floats = np.empty(0)
        self._started = 0
        self._floor = NOTHING
        self._floor_changes = 0
        self._floor_until = 0.0
        self.planned = 0.0
        self._first_report = 0.0
        self._history: list[tuple[float, int, int]] = [(0.0, 0, 0)]
        self._floors: list[tuple[float, int]] = []
        self._charged_until = charged_until
        self._last_arrival = float(load.arrivals[-1]) if len(load.arrivals) else 0.0
        self._end = max(self._last_arrival, charged_until) + DRAIN_LIMIT_S
        self._closed = False
        self._set_floor()

    @property
    def finished(self) -> bool:
        """Every request was answered; and a floor that follows demand is back at zero, within two hours."""
        if self._closed or self.now >= self._end:
            return True
        if not self._upstream_ended or self._inside or self._arrived < self._known:
            return False
        if self._floor.replicas and not self._policy.drains:
            return self.now >= self._charged_until
        return not (self._ready or self._starting or self._floor.replicas)

    def feed(self, requests: list[tuple[float, int]], horizon: float, *, ended: bool) -> None:
        """Give it the requests that arrive before an instant.

        Args:
            requests: arrival (s) and index in the load, ascending; -1: it only wakes the stage.
            horizon: there are no others before this instant.
            ended: whether there will be no others at all.
        """
        for arrival, origin in requests:
            index = self._known
            self._arrivals[index] = arrival
            self._service_s[index] = 0.0 if origin == POKE else self._load.service_s[origin]
            self._origins[index] = origin
            self._known += 1
        self._counters[data_path.KNOWN_ARRIVALS] = self._known
        self._horizon = _NEVER if ended else horizon
        self._upstream_ended = ended
        if requests:
            self._end = max(self._end, requests[-1][0] + DRAIN_LIMIT_S)

    def leavers(self, seen: int) -> tuple[Ints, Floats]:
        """The requests that left since so many had: their indexes in the load, and when (s)."""
        slots = self._left[seen : int(self._counters[data_path.LEFT])]
        if not len(slots):
            return slots, _NONE
        at = self._arrivals[slots] + self._waited[slots] + self._served[slots]
        return (self._origins[slots] if self._fed else slots), at

    def plan(self) -> float:
        """The instant until which nothing can happen; `step` continues from there."""
        self.planned = self.now
        autoscaler, ready = self._autoscaler, self._ready
        if not self._inside and not self._starting and ready == autoscaler.replicas == autoscaler.total:
            self.planned = self._quiet_until()
        return self.planned

    def _quiet_until(self) -> float:
        """Until when nothing can happen without a request, on a whole second."""
        arrival = float(self._arrivals[self._arrived]) if self._arrived < self._known else _NEVER
        until = min(arrival, self._floor_until, self._horizon, self._end)
        if self._upstream_ended and arrival == _NEVER and self._floor.replicas and not self._policy.drains:
            until = min(until, math.ceil(self._charged_until))
        if math.floor(until) <= self.now:
            return self.now
        settled = self._autoscaler.settled_until(self.now, reporting=self._ready > 0, until=until + 1.0)
        if settled <= self.now:
            return self.now
        target = min(math.floor(until), math.ceil(settled) - 1)
        if target <= self.now:
            return self.now
        return self.now + self._policy.idle(int(target - self.now))

    def step(self) -> None:
        """Simulate one second, after the time that was planned to pass without anything."""
        if self.planned > self.now:
            self._pass_to(self.planned)
            if self.finished or self.now >= self._horizon:
                return
        self._second()

    def look_at_floor(self, now: float) -> None:
        """Decide about the floor out of turn, because another function has changed it."""
        target = math.floor(min(now, self.planned))
        if target > self.now:
            self._pass_to(target)
        self.planned = self.now
        self._set_floor()

    def _pass_to(self, target: float) -> None:
        if self._ready:
            self._autoscaler.record_zeros(int(self.now) + 1, int(target))
        self.now = target
        self._set_floor()

    def _second(self) -> None:
        begin = self.now
        end = math.floor(begin) + 1.0
        autoscaler = self._autoscaler
        if not (self._ready or self._starting or self._inside or autoscaler.desired_scale):
            self._report_first_request(begin, end)
        mean, arrived, most, inside, ready, starting, cold, drained = data_path.advance(
            self._arrivals, self._service_s, self._replica.slowdown, self._replica.concurrency,
            self._wake_s, self._idle_after_s, self._pods, self._queue, self._heap, self._counters,
            self._spent, self._waited, self._served, self._cold, self._woke, self._left, begin, end,
        )  # fmt: skip
        self.now = end
        self._arrived += arrived
        self._inside = inside
        self._policy.observe(Second(mean, inside, most, arrived, cold, ready + starting), end)
        if drained:
            self._leave_drained()
        if ready != self._ready and self._orders_warmth:
            self._order_warmth()
        self._ready, self._starting = ready, starting
        present = ready + starting
        if mean or arrived or ready:
            autoscaler.record(end, concurrency=mean - self._first_report, requests=float(arrived))
            self._first_report = 0.0
        due = False
        if autoscaler.ready != ready or autoscaler.total != present:
            autoscaler.ready, autoscaler.total = ready, present
            due = True
        if (mean and not autoscaler.desired_scale) or end % kpa.TICK_S == 0:
            due = autoscaler.decide(end) or due
        if due or (autoscaler.recheck_at is not None and autoscaler.recheck_at <= end):
            autoscaler.reconcile(end)
        self._set_floor()
        self._scale(end)

    def _report_first_request(self, begin: float, end: float) -> None:
        """The activator reports the first request of a function at zero at once.

        The report of its second leaves that one out (pkg/activator/handler/concurrency_reporter.go).
        """
        index = self._arrived
        if self._floor.replicas or index >= self._known or self._arrivals[index] >= end:
            return
        arrival = max(begin, float(self._arrivals[index]))
        self._first_report = 1.0
        self._autoscaler.record(arrival, concurrency=1.0, requests=0.0)
        self._autoscaler.decide(arrival)
        self._autoscaler.reconcile(arrival)
        self._scale(arrival)

    def _set_floor(self) -> None:
        floor, self._floor_until = self._policy.decide(self.now)
        if floor is self._floor or floor == self._floor:
            return
        changed = floor.replicas != self._floor.replicas
        self._floor = floor
        if changed:
            self._floor_changes += 1
            self._floors.append((self.now, floor.replicas))
            self._scaling = replace(
                self._scaling, autoscaling=replace(self._scaling.autoscaling, min_scale=floor.replicas)
            )
            self._autoscaler.adopt(self._scaling, self.now)
            self._autoscaler.reconcile(self.now)
            self._scale(self.now)
        if self._orders_warmth:
            self._order_warmth()

    def _order_warmth(self) -> None:
        """Order ready replicas to the warmth of the floor, as the controller does."""
        count = int(self._counters[data_path.POD_COUNT])
        there = np.flatnonzero(self._pods[data_path.POD_STATE, :count] == data_path.READY)
        resting = self._pods[data_path.POD_RESTING, there]
        replicas = [
            ReplicaWarmth(f"{pod:06d}", "", WARMTHS[int(warmth)])
            for pod, warmth in zip(there, resting, strict=True)
        ]
        for order in orders_for(replicas, self._floor):
            warmth = WARMTHS.index(order.warmth)
            if warmth != WARMTHS.index(order.replica.warmth):
                data_path.rest(
                    self._pods, int(order.replica.name), warmth, self._wake_s, self._idle_after_s,
                    self._spent, self.now,
                )  # fmt: skip

    def _scale(self, now: float) -> None:
        """Create or remove replicas, as many as the autoscaler wants."""
        wanted = self._autoscaler.replicas
        while self._ready + self._starting < wanted:
            placed = self._capacity.place(self._replica.gpus, now)
            if placed is None:
                break  # waits for a GPU; asked for again each second
            self._create(now, *placed)
        while self._ready + self._starting > wanted:
            self._remove(now)
        if self._history[-1][1] != self._ready or self._history[-1][2] != self._starting:
            self._history.append((now, self._ready, self._starting))

    def _create(self, now: float, node: int, can_start_at: float) -> None:
        count = int(self._counters[data_path.POD_COUNT])
        if count == self._pods.shape[1]:
            data_path.compact(self._pods, self._heap, self._counters)
            count = int(self._counters[data_path.POD_COUNT])
            if 2 * count > self._pods.shape[1]:
                self._pods = np.concatenate([self._pods, np.zeros_like(self._pods)], axis=1)
        if self._started == len(self._starts):
            drawn = self._replica.cold_starts.draw(256, self._rng)
            self._starts = np.concatenate([self._starts, drawn])
        takes_s = max(0.0, float(self._starts[self._started]) - float(self._wake_s[self._resting]))
        data_path.create(
            self._pods, self._counters, self._spent, now, can_start_at + takes_s, self._resting, node
        )
        self._started += 1
        self._starting += 1

    def _remove(self, now: float) -> None:
        pod = data_path.remove(self._pods, self._counters, self._spent, self._idle_after_s, now)
        if pod >= 0:
            self._capacity.leave(int(self._pods[data_path.POD_NODE, pod]), self._replica.gpus, now)
        self._ready = int(self._counters[data_path.READY_PODS])
        self._starting = int(self._counters[data_path.STARTING_PODS])

    def _leave_drained(self) -> None:
        """Give back the GPUs of replicas that have drained."""
        pods = self._pods
        for pod in np.flatnonzero(pods[data_path.POD_STATE] == data_path.DRAINED):
            pods[data_path.POD_STATE, pod] = data_path.ABSENT
            self._capacity.leave(int(pods[data_path.POD_NODE, pod]), self._replica.gpus, self.now)

    def tenant(self, policy: GreedyDualFloor) -> Tenant:
        """What greedy-dual needs to know of it."""
        return Tenant(policy, self._replica.gpus, self._spare, self._leaving, self.look_at_floor)

    def _spare(self) -> int:
        per_replica = max(1, self._replica.concurrency)
        needed = max(-(-self._inside // per_replica), self._autoscaler.desired_scale or 0)
        return min(self._floor.replicas, self._ready) - needed

    def _leaving(self) -> int:
        needed = max(self._floor.replicas, self._autoscaler.desired_scale or 0)
        return max(0, self._ready + self._starting - needed)

    def end(self) -> None:
        """End the simulation: what is still there is accounted for, and its GPUs are free for others."""
        if self._closed:
            return
        self._closed = True
        states = self._pods[data_path.POD_STATE, : int(self._counters[data_path.POD_COUNT])]
        for pod in np.flatnonzero(states != data_path.ABSENT):
            self._capacity.leave(int(self._pods[data_path.POD_NODE, pod]), self._replica.gpus, self.now)
        data_path.close(self._pods, self._counters, self._spent, self._idle_after_s, self.now)
        if self._ready or self._starting:
            self._ready = self._starting = 0
            self._history.append((self.now, 0, 0))

    def result(self) -> Result:
        """What was seen, up to the instant reached; it ends the simulation."""
        self.end()
        spent = self._spent[: data_path.NEXT_READY] * self._replica.gpus
        starting, busy, waking = (
            float(spent[entry]) for entry in (data_path.STARTING_S, data_path.BUSY_S, data_path.WAKING_S)
        )
        idle: dict[Warmth, float] = {
            warmth: float(spent[data_path.IDLE_S + index]) for index, warmth in enumerate(WARMTHS)
        }
        stopped = self._started - self._ready - self._starting
        idle["hot"] += stopped * self._replica.stop_s * self._replica.gpus
        shares = self._replica.warmths.shares
        charged = starting + busy + waking
        charged += sum(seconds * shares.get(warmth, 1.0) for warmth, seconds in idle.items())
        began = int(self._counters[data_path.QUEUE_HEAD])
        arrays = self._by_origin(began) if self._fed else self._as_loaded()
        arrived, waited, served, cold, woke = arrays
        first_token = np.minimum(self._load.first_token_s, served)
        lost = len(self._load.arrivals) - (int((self._origins[:began] != POKE).sum()) if self._fed else began)
        return Result(
            name=self._load.name,
            waited_s=waited,
            served_s=served,
            first_token_s=waited + first_token,
            cold=cold,
            busy_gpu_s=busy,
            idle_gpu_s=sum(idle.values()),
            starting_gpu_s=starting,
            starts=self._started,
            floor_changes=self._floor_changes,
            cost=charged / 3600 * self._replica.hourly,
            replicas=np.array(self._history, dtype=np.float64),
            floor=np.array(self._floors or [(0.0, 0)], dtype=np.float64),
            lost=lost,
            woke=woke,
            waking_gpu_s=waking,
            idle_by_warmth=idle,
            arrived_s=arrived,
        )

    def _as_loaded(self) -> tuple[Floats, Floats, Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        return self._load.arrivals, self._waited, self._served, self._cold, self._woke

    def _by_origin(
        self, began: int
    ) -> tuple[Floats, Floats, Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Per request of the load, in the load's order; those that only woke the stage are left out."""
        slots = np.flatnonzero(self._origins[:began] != POKE)
        origins = self._origins[slots]
        count = len(self._load.arrivals)
        arrived, waited, served = self._load.arrivals.copy(), np.zeros(count), np.zeros(count)
        cold, woke = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        arrived[origins], waited[origins] = self._arrivals[slots], self._waited[slots]
        served[origins] = self._served[slots]
        cold[origins], woke[origins] = self._cold[slots], self._woke[slots]
        return arrived, waited, served, cold, woke


def simulate(
    load: Load,
    replica: Replica,
    policy: FloorPolicy | None = None,
    *,
    autoscaling: AutoscalingSpec | None = None,
    seed: int = 0,
) -> Result:
    """Run one function to its end; without a policy the pool is off."""
    data_path.seed(seed)
    simulation = FunctionSimulation(load, replica, policy or FixedFloor(), autoscaling=autoscaling, seed=seed)
    while not simulation.finished:
        simulation.plan()
        simulation.step()
    return simulation.result()
