"""Running an experiment: every arm on the same requests, one after another, and what each cost.

Arms that were finished when the run is interrupted are kept.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from knative.autoscaling.annotations import AutoscalingSpec
from warmpool.domain.cost import PriceList
from warmpool.experiments import bound, policies
from warmpool.experiments.capacity import GreedyDualFloor, Nodes
from warmpool.experiments.errors import ExperimentError, TraceError
from warmpool.experiments.experiment import (
    ArmSpec,
    Experiment,
    ExperimentSpec,
    ReplicaSpec,
    StageSpec,
    floor_of,
    shape_of,
)
from warmpool.experiments.fleet import Function, simulate_fleet
from warmpool.experiments.floors import FloorPolicy, SeriesFloor
from warmpool.experiments.formats import read_trace
from warmpool.experiments.generate import TooLargeError, generate
from warmpool.experiments.parts import capacity_of, cold_starts, floor_policy, replica_of, service_model
from warmpool.experiments.result import Result, in_a_row, side_by_side
from warmpool.experiments.simulator import Load, Replica
from warmpool.experiments.trace import Trace, varied

Floats = npt.NDArray[np.float64]
Progress = Callable[[str, float], bool]
"""Told the arm's name and the share of it that is done, several times a second; returns whether to go on."""


class _StoppedError(Exception):
    """The run was asked to stop in the middle of an arm."""


_TELL_EVERY_S: Final = 0.1
_HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True, eq=False)
class ArmResult:
    """One arm: what its users saw and what it cost.

    Attributes:
        name: the arm's.
        result: all of it.
        replica: what one of its replicas is; of an agent, one of the first stage.
        gpu: the name of its GPU.
        kind: what holds its floor: `off`, `fixed` or `other`.
        functions: the functions of the trace, where each has replicas of its own.
        stages: the stages, where there are any.
    """

    name: str
    result: Result
    replica: Replica
    gpu: str
    kind: str = "other"
    functions: tuple[Result, ...] = ()
    stages: tuple[Result, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ExperimentReport:
    """An experiment's results.

    Attributes:
        name: the experiment's.
        start: the instant of the first request.
        duration_s: from the first arrival to the last.
        requests: how many.
        skipped_rows: rows of the trace file that could not be read.
        objective: the acceptable rate of cold starts.
        bound_gpu_s: the clairvoyant bound in GPU-seconds, for the experiment's own replica; None unless that
            takes one request at a time, which the bound supposes.
        hourly: the price of one of the experiment's GPUs for an hour.
        currency: of every cost.
        arms: those that were finished.
        demand: (k, 2) steps: instant (s), requests at once without any waiting.
        complete: whether every arm was finished.
        settings: the experiment's spec, as in its file.
    """

    name: str
    start: datetime
    duration_s: float
    requests: int
    skipped_rows: int
    objective: float
    bound_gpu_s: float | None
    hourly: float
    currency: str
    arms: tuple[ArmResult, ...]
    demand: Floats
    complete: bool
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An experiment with its trace read, its prices found and everything checked."""

    experiment: Experiment
    trace: Trace
    start: datetime
    service_s: Floats
    prices: PriceList


def prepare(experiment: Experiment, prices: PriceList) -> Prepared:
    """Read the trace and check what the file alone cannot tell.

    Raises:
        ExperimentError: the trace cannot be used, or a GPU has no price.
    """
    spec = experiment.spec
    try:
        if spec.trace.generate is not None:
            trace = generate(spec.trace.generate, spec.start, spec.seed)
        else:
            trace = read_trace(
                Path(str(spec.trace.file)), seed=spec.seed, skip_bad_rows=spec.trace.skip_bad_rows
            )
    except (TraceError, TooLargeError) as error:
        raise ExperimentError(f"spec.trace: {error}") from error
    if not len(trace):
        raise ExperimentError("spec.trace: has no requests; raise the rate or the duration")
    for where, replica in _replicas(spec):
        if replica.hourly is not None or prices.of(replica.gpu) is not None:
            continue
        raise ExperimentError(
            f"{where}.gpu = {replica.gpu!r} has no price; must be one of {', '.join(prices.gpus)}, "
            "or give hourly"
        )
    service_s = varied(service_model(spec.service).times(trace), spec.service.sigma, spec.seed)
    return Prepared(experiment, trace, trace.start or spec.start, service_s, prices)


def _replicas(spec: ExperimentSpec) -> Iterator[tuple[str, ReplicaSpec]]:
    """Every replica that the file describes, and where."""
    yield "spec.replica", spec.replica
    for index, stage in enumerate(spec.stages):
        if stage.replica is not None:
            yield f"spec.stages[{index}].replica", stage.replica
    for index, arm in enumerate(spec.arms):
        if arm.replica is not None:
            yield f"spec.arms[{index}].replica", arm.replica
        for name, own in arm.stages.items():
            if own.replica is not None:
                yield f"spec.arms[{index}].stages.{name}.replica", own.replica


def run(prepared: Prepared, *, progress: Progress | None = None) -> ExperimentReport:
    """Run every arm, or until `progress` says to stop: the finished arms are in the report."""
    spec = prepared.experiment.spec
    done: list[ArmResult] = []
    complete = True
    try:
        for arm in spec.arms:
            done.append(run_arm(prepared, arm, progress))  # noqa: PERF401 - the finished ones are kept
    except _StoppedError:
        complete = False
    trace = prepared.trace
    replica = replica_of(spec.replica, prepared.prices)
    return ExperimentReport(
        name=prepared.experiment.metadata.name,
        start=prepared.start,
        duration_s=trace.duration_s,
        requests=len(trace),
        skipped_rows=len(trace.bad_rows),
        objective=spec.objective,
        bound_gpu_s=_bound(prepared),
        hourly=replica.hourly,
        currency=prepared.prices.currency,
        arms=tuple(done),
        demand=_demand(trace.arrivals, _times_in_a_row(prepared)),
        complete=complete,
        settings=spec.model_dump(mode="json", by_alias=True, exclude_defaults=True),
    )


def _stages(spec: ExperimentSpec) -> tuple[StageSpec | None, ...]:
    return spec.stages or (None,)


def _members(prepared: Prepared) -> list[tuple[str, Any]]:
    """The functions that have replicas of their own: name and indexes of their requests."""
    trace = prepared.trace
    if prepared.experiment.spec.functions == "together":
        return [("", slice(None))]
    found = ((name, np.flatnonzero(trace.functions == index)) for index, name in enumerate(trace.names))
    return [(name, mine) for name, mine in found if len(mine)]


def times_of(prepared: Prepared, stage: StageSpec | None, shape: ReplicaSpec) -> tuple[Floats, Floats]:
    """Service time and time to the first token of every request on a shape of replica, each (n,) s."""
    spec, trace = prepared.experiment.spec, prepared.trace
    said = shape.service or (stage.service if stage else None)
    model = service_model(said or spec.service)
    own = prepared.service_s if said is None else varied(model.times(trace), said.sigma, spec.seed)
    service_s = own / shape.speed
    until_token = model.base_s + model.input_token_s * np.nan_to_num(trace.input_tokens)
    return service_s, np.minimum(service_s, until_token / shape.speed)


def _bound(prepared: Prepared) -> float | None:
    """The clairvoyant bound for the experiment's own replicas; None where it does not hold or apply."""
    spec = prepared.experiment.spec
    if spec.gpus is not None or spec.nodes is not None:
        return None
    total = 0.0
    for _, mine in _members(prepared):
        arrivals = prepared.trace.arrivals[mine]
        for stage in _stages(spec):
            shape = (stage.replica if stage else None) or spec.replica
            if shape.concurrency != 1:
                return None
            service_s = times_of(prepared, stage, shape)[0][mine]
            order = np.argsort(arrivals, kind="stable")
            gaps = bound.gaps_of(arrivals[order], service_s[order])
            total += gaps.bound(cold_starts(shape.cold_start).p95_s) * shape.gpus
            arrivals = arrivals + service_s
    return total


def _times_in_a_row(prepared: Prepared) -> Floats:
    """Seconds that each request is served in all stages of the experiment's own replicas, (n,)."""
    spec = prepared.experiment.spec
    each = [
        times_of(prepared, stage, (stage.replica if stage else None) or spec.replica)[0]
        for stage in _stages(spec)
    ]
    return np.asarray(np.sum(each, axis=0))


def run_arm(
    prepared: Prepared,
    arm: ArmSpec,
    progress: Progress | None = None,
    *,
    autoscaling: AutoscalingSpec | None = None,
    policy: FloorPolicy | None = None,
) -> ArmResult:
    """Run one arm to its end.

    Args:
        prepared: the experiment.
        arm: of it, or another.
        progress: told how far it is.
        autoscaling: a Revision's settings; None: Knative's defaults with the arm's utilisation.
        policy: what holds the floor of every stage and function; None: what the arm says.
    """
    spec = prepared.experiment.spec
    autoscaling = autoscaling or AutoscalingSpec(
        target_utilization_percentage=float(arm.target_utilization_percentage)
    )
    functions: list[Function] = []
    for name, mine in _members(prepared):
        arrivals = prepared.trace.arrivals[mine]
        for position, stage in enumerate(_stages(spec)):
            shape = shape_of(spec, arm, stage)
            service_s, first_token_s = (times[mine] for times in times_of(prepared, stage, shape))
            label = " ".join(filter(None, (name, stage.name if stage else ""))) or arm.name
            load = Load(label, arrivals, service_s, first_token_s)
            replica = replica_of(shape, prepared.prices)
            holds = policy or _floor_of_stage(prepared, arm, stage, load)
            after = len(functions) - 1 if position else None
            ahead = arm.wake_ahead and position > 0
            functions.append(Function(load, replica, holds, autoscaling, after, ahead))
    capacity = capacity_of(spec)
    results = simulate_fleet(
        functions, capacity=capacity, seed=spec.seed, progress=_teller(prepared, arm, progress)
    )
    if progress is not None and not progress(arm.name, 1.0):
        raise _StoppedError
    own = shape_of(spec, arm, _stages(spec)[0])
    gpu = own.gpu or prepared.prices.default or "gpu"
    replica = functions[0].replica
    chains = _chains(results, len(_stages(spec)))
    whole = side_by_side(arm.name, [in_a_row(names[0].name, names) for names in chains])
    if isinstance(capacity, Nodes):
        whole = _with_nodes(whole, capacity, replica, max(one.arrived_s[-1] for one in results))
    return ArmResult(
        arm.name,
        whole,
        replica,
        gpu,
        kind="off" if arm.autoscaler_only else "fixed" if arm.fixed else "other",
        functions=_functions(prepared, chains) if len(chains) > 1 else (),
        stages=_by_stage(spec, chains) if spec.stages else (),
    )


def _teller(prepared: Prepared, arm: ArmSpec, progress: Progress | None) -> Callable[[float], None] | None:
    if progress is None:
        return None
    end = max(1.0, prepared.trace.duration_s)
    told = time.monotonic()

    def tell(now: float) -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_EVERY_S:
            told = time.monotonic()
            if not progress(arm.name, min(1.0, now / end)):
                raise _StoppedError

    return tell


def _with_nodes(whole: Result, nodes: Nodes, replica: Replica, end: float) -> Result:
    """Charged for nodes, whatever replicas do on them."""
    end = max(end, float(whole.replicas[-1, 0]))
    paid = nodes.gpu_s(end)
    unused = max(0.0, paid - whole.gpu_s)
    return dataclasses.replace(whole, unused_gpu_s=unused, cost=paid / _HOUR_S * replica.hourly)


def _chains(results: list[Result], stages: int) -> list[list[Result]]:
    """The stages of each function."""
    return [results[index : index + stages] for index in range(0, len(results), stages)]


def _functions(prepared: Prepared, chains: list[list[Result]]) -> tuple[Result, ...]:
    names = [name for name, _ in _members(prepared)]
    return tuple(in_a_row(name, chain) for name, chain in zip(names, chains, strict=True))


def _by_stage(spec: ExperimentSpec, chains: list[list[Result]]) -> tuple[Result, ...]:
    return tuple(
        side_by_side(stage.name, [chain[index] for chain in chains])
        for index, stage in enumerate(spec.stages)
    )


def _floor_of_stage(prepared: Prepared, arm: ArmSpec, stage: StageSpec | None, load: Load) -> FloorPolicy:
    """What holds an arm's floor in one stage of one function."""
    spec = prepared.experiment.spec
    floor, shape = floor_of(arm, stage), shape_of(spec, arm, stage)
    replica = replica_of(shape, prepared.prices)
    concurrency = max(1, replica.concurrency)
    if floor.greedy_dual:
        return GreedyDualFloor(replica.cold_starts.p95_s, gpus=replica.gpus, concurrency=concurrency)
    if floor.policy is not None:
        floors, ahead = policies.floors_in_hindsight(
            floor.policy,
            load.arrivals,
            load.service_s,
            replica.cold_starts.p95_s,
            spec.objective,
            concurrency,
        )
        return SeriesFloor(floors, ahead=ahead, concurrency=concurrency)
    return floor_policy(floor, prepared.start, replica, prepared.prices, shape)


def _demand(arrivals: Floats, service_s: Floats) -> Floats:
    """Requests at once, as steps, thinned to what a picture can show."""
    instants = np.concatenate([arrivals, arrivals + service_s])
    steps = np.concatenate([np.ones(len(arrivals)), -np.ones(len(arrivals))])
    order = np.argsort(instants, kind="stable")
    levels = np.cumsum(steps[order])
    width = max(1.0, float(instants.max()) / 1000)
    bins = (instants[order] // width).astype(np.int64)
    highest = np.zeros(int(bins[-1]) + 1)
    np.maximum.at(highest, bins, levels)
    return np.column_stack([np.arange(len(highest)) * width, highest])
