"""Experiments in virtual time: requests, activator, Knative's autoscaler, replicas that start, floors.

The autoscaler is the project's own (`knative.autoscaling`), the floors are the controller's (`floors`), the
data path follows Knative's activator: requests wait in one queue for a free slot of a ready replica.
Between two seconds everything runs compiled; at each second the autoscaler gets its reports, and every two
it decides. The same seed gives the same bytes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from knative.autoscaling import kpa
from knative.autoscaling.annotations import AutoscalingSpec
from knative.autoscaling.revision_autoscaler import RevisionAutoscaler, RevisionScaling
from warmpool.experiments import data_path
from warmpool.experiments.cold_start import ColdStarts, Constant
from warmpool.experiments.floors import FixedFloor, FloorPolicy, Second

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DRAIN_LIMIT_S: Final = 7200.0
"""How long after the last request an arm is still charged, at most."""
_NEVER: Final = math.inf


@dataclass(frozen=True, slots=True)
class Replica:
    """What one replica is.

    Attributes:
        cold_starts: how long it takes to start.
        gpus: GPUs that it holds from its first second to its last.
        concurrency: requests at once (`containerConcurrency`); 0: no limit.
        slowdown: share by which each further request in a replica lengthens one that begins there.
        hourly: the price of one GPU for an hour.
    """

    cold_starts: ColdStarts = field(default_factory=lambda: Constant(30.0))
    gpus: int = 1
    concurrency: int = 1
    slowdown: float = 0.0
    hourly: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """The requests of one function.

    Attributes:
        name: the function.
        arrivals: (n,) seconds, ascending.
        service_s: (n,) seconds with the replica to itself.
        first_token_s: (n,) seconds from the slot to the first token.
    """

    name: str
    arrivals: Floats
    service_s: Floats
    first_token_s: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What one function saw in one arm.

    Attributes:
        name: the function.
        waited_s: (n,) from arrival to a slot, s.
        served_s: (n,) from the slot to the end, s.
        first_token_s: (n,) from arrival to the first token, s.
        cold: (n,) whether the request waited for a replica to start.
        busy_gpu_s: GPU-seconds with at least one request in the replica.
        idle_gpu_s: GPU-seconds of ready replicas without a request.
        starting_gpu_s: GPU-seconds of replicas that started.
        starts: replicas that were started.
        floor_changes: how often the floor moved.
        cost: at the replica's hourly price.
        replicas: (k, 3) steps: instant (s), ready, starting.
        floor: (k, 2) steps: instant (s), floor.
        lost: requests that never got a slot.
    """

    name: str
    waited_s: Floats
    served_s: Floats
    first_token_s: Floats
    cold: npt.NDArray[np.bool_]
    busy_gpu_s: float
    idle_gpu_s: float
    starting_gpu_s: float
    starts: int
    floor_changes: int
    cost: float
    replicas: Floats
    floor: Floats
    lost: int

    @property
    def gpu_s(self) -> float:
        """All GPU-seconds."""
        return self.busy_gpu_s + self.idle_gpu_s + self.starting_gpu_s

    @property
    def cold_rate(self) -> float:
        """The share of requests that waited for a start."""
        return float(self.cold.mean()) if len(self.cold) else 0.0

    def percentile(self, values: Floats, q: float) -> float | None:
        """A percentile (0 to 100) of one of the arrays; None without requests."""
        return float(np.percentile(values, q)) if len(values) else None


@dataclass(slots=True)
class Gpus:
    """GPUs that functions share; None: as many as they like."""

    total: int | None = None
    taken: int = 0

    def take(self, count: int) -> bool:
        """Take GPUs if they are free."""
        if self.total is not None and self.taken + count > self.total:
            return False
        self.taken += count
        return True

    def give_back(self, count: int) -> None:
        """Return GPUs."""
        self.taken -= count


class FunctionSimulation:
    """One function in virtual time; `step` by `step` until it is `finished`."""

    def __init__(
        self,
        load: Load,
        replica: Replica,
        policy: FloorPolicy,
        *,
        autoscaling: AutoscalingSpec | None = None,
        gpus: Gpus | None = None,
        seed: int = 0,
    ) -> None:
        count = len(load.arrivals)
        self._load = load
        self._replica = replica
        self._policy = policy
        self._gpus = gpus or Gpus()
        self._rng = np.random.default_rng(seed)
        # The initial scale would start a replica that nobody asked for: the Revision is there since long.
        self._scaling = RevisionScaling(
            replace(autoscaling or AutoscalingSpec(), min_scale=0), replica.concurrency
        )
        self._autoscaler = RevisionAutoscaler(self._scaling, 0.0, 0)
        self._pods = np.zeros((data_path.POD_ROWS, 64))
        self._queue = np.zeros(max(1, count), np.int64)
        self._heap = np.zeros((3, max(1, count)))
        self._counters = np.zeros(data_path.COUNTERS, np.int64)
        self._waited = np.zeros(count)
        self._served = np.zeros(count)
        self._cold = np.zeros(count, np.bool_)
        self._starts: Floats = np.empty(0)
        self._started = 0
        self._floor = 0
        self._floor_changes = 0
        self._floor_until = 0.0
        self._now = 0.0
        self._first_report = 0.0
        self._history: list[tuple[float, int, int]] = [(0.0, 0, 0)]
        self._floors: list[tuple[float, int]] = []
        self._end = (float(load.arrivals[-1]) if count else 0.0) + DRAIN_LIMIT_S

    @property
    def finished(self) -> bool:
        """Every request was answered; and a floor that follows demand is back at zero, within two hours."""
        answered = self._counters[data_path.NEXT_ARRIVAL] >= len(self._load.arrivals) and not self._inside
        if self._now >= self._end or (answered and not self._policy.drains and self._floor):
            return True
        return bool(answered and not self._present() and not self._floor)

    @property
    def _inside(self) -> int:
        counters = self._counters
        return int(
            counters[data_path.IN_FLIGHT] + counters[data_path.QUEUE_TAIL] - counters[data_path.QUEUE_HEAD]
        )

    def step(self) -> float:
        """Simulate up to the next second, or over a time in which nothing can happen; the instant reached."""
        if self._is_quiet():
            self._skip()
        else:
            self._second()
        return self._now

    def _is_quiet(self) -> bool:
        """Nothing but a request or the floor can change anything."""
        if self._inside:
            return False
        autoscaler, present = self._autoscaler, self._present()
        if not present:
            return not self._floor and not autoscaler.is_awake(self._now)
        return (
            present == self._floor == autoscaler.replicas == self._ready()
            and not autoscaler.kpa.panicking
            and autoscaler.recheck_at is None
            and autoscaler.stable.average(self._now) == 0.0
        )

    def _skip(self) -> None:
        """Jump to the next request, or to where the floor may move."""
        arrivals = self._load.arrivals
        index = int(self._counters[data_path.NEXT_ARRIVAL])
        arrival = float(arrivals[index]) if index < len(arrivals) else _NEVER
        floor = self._floor
        self._set_floor()
        if self._floor != floor:
            return
        # A floor that moves by demand alone is asked by `idle`; one with an instant of its own at that.
        until = _NEVER if self._policy.drains else self._floor_until
        target = math.floor(min(arrival, until, self._end))
        if target > self._now:
            # Only the clock moves: what happens then waits for its turn among the other functions of a fleet.
            self._now += self._policy.idle(target - int(self._now))
            if self._ready():
                self._refill()
            self._set_floor()
            return
        if not self._floor and arrival < self._now + 1.0:
            # The activator reports the first request of a function at zero at once; the report of its second
            # leaves that one out (pkg/activator/handler/concurrency_reporter.go).
            self._first_report = 1.0
            self._autoscaler.record(arrival, concurrency=1.0, requests=0.0)
            self._autoscaler.decide(arrival)
            self._autoscaler.reconcile(arrival)
            self._scale(arrival)
        self._second()

    def _refill(self) -> None:
        """The windows after a time of which every second reported nothing."""
        window = int(self._autoscaler.stable.window_s)
        for second in range(max(0, int(self._now) - window), int(self._now)):
            self._autoscaler.record(float(second), concurrency=0.0, requests=0.0)

    def _second(self) -> None:
        begin = self._now
        end = math.floor(begin) + 1.0
        load, counters = self._load, self._counters
        cold = int(counters[data_path.COLD])
        mean, arrived, most = data_path.advance(
            load.arrivals, load.service_s, self._replica.slowdown, self._replica.concurrency,
            self._pods, self._queue, self._heap, counters,
            self._waited, self._served, self._cold, begin, end,
        )  # fmt: skip
        self._now = end
        cold = int(counters[data_path.COLD]) - cold
        self._policy.observe(Second(mean, self._inside, int(most), int(arrived), cold), end)
        ready, present = self._ready(), self._present()
        if (
            counters[data_path.DRAINED_PODS]
            or counters[data_path.POD_COUNT] - counters[data_path.OLDEST_POD] > present
        ):
            self._collect()
        autoscaler = self._autoscaler
        if mean or arrived or ready:
            autoscaler.record(end - 1.0, concurrency=mean - self._first_report, requests=float(arrived))
            self._first_report = 0.0
        due = False
        if (autoscaler.ready, autoscaler.total) != (ready, present):
            autoscaler.ready, autoscaler.total = ready, present
            due = True
        if (not autoscaler.desired_scale and mean) or end % kpa.TICK_S == 0:
            due = autoscaler.decide(end) or due
        if due or (autoscaler.recheck_at is not None and autoscaler.recheck_at <= end):
            autoscaler.reconcile(end)
        self._set_floor()
        self._scale(end)

    def _set_floor(self) -> None:
        floor, self._floor_until = self._policy.decide(self._now)
        if floor == self._floor:
            return
        self._floor = floor
        self._floor_changes += 1
        self._floors.append((self._now, floor))
        self._scaling = replace(
            self._scaling, autoscaling=replace(self._scaling.autoscaling, min_scale=floor)
        )
        self._autoscaler.adopt(self._scaling, self._now)
        self._autoscaler.reconcile(self._now)
        self._scale(self._now)

    def _ready(self) -> int:
        return int(self._counters[data_path.READY_PODS])

    def _present(self) -> int:
        """Replicas that start or are ready; those that drain are gone for the autoscaler."""
        return int(self._counters[data_path.STARTING_PODS] + self._counters[data_path.READY_PODS])

    def _scale(self, now: float) -> None:
        """Create or remove replicas, as many as the autoscaler wants."""
        wanted, present = self._autoscaler.replicas, self._present()
        for _ in range(present, wanted):
            if not self._gpus.take(self._replica.gpus):
                break  # waits for a GPU; asked for again each second
            self._create(now)
        if wanted < present:
            self._remove(present - wanted, now)
        ready, starting = self._ready(), int(self._counters[data_path.STARTING_PODS])
        if self._history[-1][1] != ready or self._history[-1][2] != starting:
            self._history.append((now, ready, starting))

    def _create(self, now: float) -> None:
        pod = int(self._counters[data_path.POD_COUNT])
        if pod == self._pods.shape[1]:
            self._pods = np.concatenate([self._pods, np.zeros_like(self._pods)], axis=1)
        if self._started == len(self._starts):
            drawn = self._replica.cold_starts.draw(256, self._rng)
            self._starts = np.concatenate([self._starts, drawn])
        self._pods[data_path.POD_STATE, pod] = data_path.STARTING
        self._pods[data_path.POD_CREATED, pod] = now
        self._pods[data_path.POD_READY_AT, pod] = now + self._starts[self._started]
        self._pods[data_path.POD_GONE, pod] = _NEVER
        self._started += 1
        self._counters[data_path.POD_COUNT] += 1
        self._counters[data_path.STARTING_PODS] += 1

    def _remove(self, count: int, now: float) -> None:
        """The youngest first, those that still start before those that are ready; busy ones drain."""
        first, end = int(self._counters[data_path.OLDEST_POD]), int(self._counters[data_path.POD_COUNT])
        pods = self._pods
        for state in (data_path.STARTING, data_path.READY):
            for pod in range(end - 1, first - 1, -1):
                if not count:
                    return
                if pods[data_path.POD_STATE, pod] != state:
                    continue
                count -= 1
                starting = state == data_path.STARTING
                self._counters[data_path.STARTING_PODS if starting else data_path.READY_PODS] -= 1
                if pods[data_path.POD_IN_FLIGHT, pod]:
                    pods[data_path.POD_STATE, pod] = data_path.TERMINATING
                else:
                    pods[data_path.POD_STATE, pod] = data_path.ABSENT
                    pods[data_path.POD_GONE, pod] = now
                    self._gpus.give_back(self._replica.gpus)

    def _collect(self) -> None:
        """Give back the GPUs of replicas that have drained, and forget the oldest that are gone."""
        pods, counters = self._pods, self._counters
        counters[data_path.DRAINED_PODS] = 0
        first, end = int(counters[data_path.OLDEST_POD]), int(counters[data_path.POD_COUNT])
        for pod in range(first, end):
            if pods[data_path.POD_STATE, pod] == data_path.DRAINED:
                pods[data_path.POD_STATE, pod] = data_path.ABSENT
                self._gpus.give_back(self._replica.gpus)
        while first < end and pods[data_path.POD_STATE, first] == data_path.ABSENT:
            first += 1
        counters[data_path.OLDEST_POD] = first

    def result(self) -> Result:
        """What was seen, up to the instant reached."""
        end = int(self._counters[data_path.POD_COUNT])
        pods = self._pods[:, :end]
        gone = np.minimum(pods[data_path.POD_GONE], self._now)
        ready_at = np.minimum(pods[data_path.POD_READY_AT], gone)
        starting = float((ready_at - pods[data_path.POD_CREATED]).sum())
        still = pods[data_path.POD_IN_FLIGHT] > 0
        busy_s = pods[data_path.POD_BUSY_S] + np.where(still, self._now - pods[data_path.POD_BUSY_SINCE], 0.0)
        busy = float(busy_s.sum())
        idle = float((gone - ready_at).sum()) - busy
        gpus = self._replica.gpus
        total = (starting + busy + idle) * gpus
        answered = self._served > 0
        first_token = np.minimum(self._load.first_token_s, self._served)
        return Result(
            name=self._load.name,
            waited_s=self._waited,
            served_s=self._served,
            first_token_s=self._waited + first_token,
            cold=self._cold,
            busy_gpu_s=busy * gpus,
            idle_gpu_s=idle * gpus,
            starting_gpu_s=starting * gpus,
            starts=self._started,
            floor_changes=self._floor_changes,
            cost=total / 3600 * self._replica.hourly,
            replicas=np.array(self._history, dtype=np.float64),
            floor=np.array(self._floors or [(0.0, 0)], dtype=np.float64),
            lost=int((~answered).sum()),
        )


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
        simulation.step()
    return simulation.result()


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """One function of a fleet, as `simulate` takes it."""

    load: Load
    replica: Replica
    policy: FloorPolicy
    autoscaling: AutoscalingSpec | None = None


def simulate_fleet(functions: Sequence[Function], *, gpus: int | None = None, seed: int = 0) -> list[Result]:
    """Run functions side by side on a shared number of GPUs, each second in the order of the list."""
    data_path.seed(seed)
    shared = Gpus(gpus)
    simulations = [
        FunctionSimulation(
            function.load,
            function.replica,
            function.policy,
            autoscaling=function.autoscaling,
            gpus=shared,
            seed=seed + index,
        )
        for index, function in enumerate(functions)
    ]
    due = [(0.0, index) for index in range(len(simulations))]
    while due:
        _, index = heapq.heappop(due)
        simulation = simulations[index]
        now = simulation.step()
        if not simulation.finished:
            heapq.heappush(due, (now, index))
    return [simulation.result() for simulation in simulations]
