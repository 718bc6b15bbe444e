"""Functions side by side on shared GPUs, and stages of an agent one after another, in virtual time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from knative.autoscaling.annotations import AutoscalingSpec
from warmpool.experiments import data_path
from warmpool.experiments.capacity import Capacity, GreedyDual, GreedyDualFloor, SharedGpus
from warmpool.experiments.floors import FloorPolicy
from warmpool.experiments.result import Result
from warmpool.experiments.simulator import POKE, FunctionSimulation, Load, Replica

Floats = npt.NDArray[np.float64]
Progress = Callable[[float], None]
"""Told the instant that every function has reached, s."""


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """One function, as `simulate` takes it.

    Attributes:
        after: the index of the function whose requests come to this one when they leave it; its load has
            the same requests. None: its requests come from outside.
        wake_ahead: whether it is woken when a request comes to the agent, before it comes to this stage.
    """

    load: Load
    replica: Replica
    policy: FloorPolicy
    autoscaling: AutoscalingSpec | None = None
    after: int | None = None
    wake_ahead: bool = False


class _Inlet:
    """The requests that come to a later stage: from the stage before, and those that only wake it."""

    def __init__(self, stage: Function, target: FunctionSimulation, upstream: FunctionSimulation) -> None:
        self._target, self._upstream = target, upstream
        self._wakes: Floats = stage.load.arrivals if stage.wake_ahead else np.empty(0)
        self._woken = self._seen = 0
        self._waiting: list[tuple[float, int]] = []

    def open(self) -> None:
        """Let in what comes before the stage before may send more."""
        upstream = self._upstream
        origins, at = upstream.leavers(self._seen)
        self._seen += len(at)
        self._waiting += [
            entry for entry in zip(at.tolist(), origins.tolist(), strict=True) if entry[1] != POKE
        ]
        ended = upstream.finished
        horizon = math.inf if ended else max(upstream.now, upstream.planned)
        if len(self._wakes):
            last = int(np.searchsorted(self._wakes, horizon, side="left"))
            self._waiting += [(float(at), POKE) for at in self._wakes[self._woken : last]]
            self._woken = last
        # A request that leaves in the last second may do so after the horizon.
        self._waiting.sort()
        ready = [entry for entry in self._waiting if entry[0] < horizon]
        self._waiting = self._waiting[len(ready) :]
        self._target.feed(ready, horizon, ended=ended)


def simulate_fleet(
    functions: Sequence[Function],
    *,
    gpus: int | None = None,
    capacity: Capacity | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Result]:
    """Run functions side by side, each second in the order of the list.

    Args:
        functions: a later stage comes after the one that it follows.
        gpus: that they share; None: as many as they like.
        capacity: in place of `gpus`.
        seed: draws cold starts and ties.
        progress: may raise, to stop.
    """
    data_path.seed(seed)
    shared = capacity or SharedGpus(gpus)
    end = max((float(one.load.arrivals[-1]) for one in functions if len(one.load.arrivals)), default=0.0)
    simulations: list[FunctionSimulation] = []
    inlets: dict[int, _Inlet] = {}
    for index, function in enumerate(functions):
        count = len(function.load.arrivals)
        simulation = FunctionSimulation(
            function.load,
            function.replica,
            function.policy,
            autoscaling=function.autoscaling,
            capacity=shared,
            seed=seed + index,
            charged_until=end if len(functions) > 1 else 0.0,
            fed=None if function.after is None else count * (2 if function.wake_ahead else 1),
        )
        if function.after is not None:
            inlets[index] = _Inlet(function, simulation, simulations[function.after])
        simulations.append(simulation)
    due = [(0.0, index) for index in range(len(simulations))]
    if isinstance(shared, GreedyDual):
        _let_in(shared, functions, simulations, due)
    steps = 0
    while due:
        now, index = heapq.heappop(due)
        simulation = simulations[index]
        if simulation.finished or now < simulation.now:
            continue  # it was looked at out of turn meanwhile
        if index in inlets:
            inlets[index].open()
        if simulation.planned <= simulation.now and simulation.plan() > now:
            heapq.heappush(due, (simulation.planned, index))
            continue
        simulation.step()
        if simulation.finished:
            simulation.end()
        else:
            heapq.heappush(due, (simulation.now, index))
        steps += 1
        if progress is not None and steps % 4096 == 0:
            progress(now)
    return [simulation.result() for simulation in simulations]


def _let_in(
    shared: GreedyDual,
    functions: Sequence[Function],
    simulations: Sequence[FunctionSimulation],
    due: list[tuple[float, int]],
) -> None:
    for index, (function, simulation) in enumerate(zip(functions, simulations, strict=True)):
        if not isinstance(function.policy, GreedyDualFloor):
            continue
        tenant = simulation.tenant(function.policy)
        look = tenant.tell

        def tell(now: float, look: Callable[[float], None] = look, index: int = index) -> None:
            look(now)
            heapq.heappush(due, (simulations[index].now, index))

        tenant.tell = tell
        shared.enter(tenant)
