"""Running an experiment: every arm on the same requests, one after another, and what each cost.

Arms that were finished when the run is interrupted are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from knative.autoscaling.annotations import AutoscalingSpec
from warmpool.domain.cost import PriceList, ReplicaPrice
from warmpool.domain.pool import ForecastObjective
from warmpool.experiments import bound
from warmpool.experiments.cold_start import ColdStarts, Constant, Empirical, LogNormal
from warmpool.experiments.errors import ExperimentError, TraceError
from warmpool.experiments.experiment import ArmSpec, ColdStartSpec, Experiment, ReplicaSpec, ServiceTime
from warmpool.experiments.floors import FixedFloor, FloorPolicy, ForecastFloor, PoolFloor
from warmpool.experiments.formats import read_trace
from warmpool.experiments.generate import TooLargeError, generate
from warmpool.experiments.result import Result
from warmpool.experiments.simulator import FunctionSimulation, Load, Replica
from warmpool.experiments.trace import ServiceModel, Trace
from warmpool.policy import forecast

Floats = npt.NDArray[np.float64]
Progress = Callable[[str, float], bool]
"""Told the arm's name and the share of it that is done, several times a second; returns whether to go on."""


class _StoppedError(Exception):
    """The run was asked to stop in the middle of an arm."""


_TELL_EVERY_S: Final = 0.1
_DRAWN: Final = 2_000
"""Starts that stand for a distribution of them."""
_HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True, eq=False)
class ArmResult:
    """One arm: what its users saw and what it cost."""

    name: str
    result: Result
    replica: Replica
    gpu: str


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
    for index, replica in enumerate([spec.replica, *(arm.replica for arm in spec.arms)]):
        if replica is None or replica.hourly is not None or prices.of(replica.gpu) is not None:
            continue
        where = "spec.replica" if index == 0 else f"spec.arms[{index - 1}].replica"
        raise ExperimentError(
            f"{where}.gpu = {replica.gpu!r} has no price; must be one of {', '.join(prices.gpus)}, "
            "or give hourly"
        )
    return Prepared(
        experiment, trace, trace.start or spec.start, service_model(spec.service).times(trace), prices
    )


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
    service_s = prepared.service_s / spec.replica.speed
    least = bound.gaps_of(trace.arrivals, service_s).bound(replica.cold_starts.p95_s) * replica.gpus
    return ExperimentReport(
        name=prepared.experiment.metadata.name,
        start=prepared.start,
        duration_s=trace.duration_s,
        requests=len(trace),
        skipped_rows=len(trace.bad_rows),
        objective=spec.objective,
        bound_gpu_s=least if spec.replica.concurrency == 1 else None,
        hourly=replica.hourly,
        currency=prepared.prices.currency,
        arms=tuple(done),
        demand=_demand(trace.arrivals, service_s),
        complete=complete,
    )


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
        policy: what holds the floor; None: what the arm says.
    """
    spec = prepared.experiment.spec
    shape = arm.replica or spec.replica
    replica = replica_of(shape, prepared.prices)
    service_s = prepared.service_s / shape.speed
    model = service_model(spec.service)
    first_token = np.minimum(
        service_s,
        (model.base_s + model.input_token_s * np.nan_to_num(prepared.trace.input_tokens)) / shape.speed,
    )
    load = Load(arm.name, prepared.trace.arrivals, service_s, first_token)
    policy = policy or floor_policy(arm, prepared.start, replica, prepared.prices, shape)
    autoscaling = autoscaling or AutoscalingSpec(
        target_utilization_percentage=float(arm.target_utilization_percentage)
    )
    from_seed = FunctionSimulation(load, replica, policy, autoscaling=autoscaling, seed=spec.seed)
    told = time.monotonic()
    end = max(1.0, prepared.trace.duration_s)
    while not from_seed.finished:
        from_seed.plan()
        from_seed.step()
        if progress is not None and time.monotonic() - told > _TELL_EVERY_S:
            told = time.monotonic()
            if not progress(arm.name, min(1.0, from_seed.now / end)):
                raise _StoppedError
    if progress is not None and not progress(arm.name, 1.0):
        raise _StoppedError
    gpu = shape.gpu or prepared.prices.default or "gpu"
    return ArmResult(arm.name, from_seed.result(), replica, gpu)


def floor_policy(
    arm: ArmSpec, start: datetime, replica: Replica, prices: PriceList, shape: ReplicaSpec
) -> FloorPolicy:
    """What holds an arm's floor."""
    if arm.fixed is not None:
        return FixedFloor(arm.fixed)
    if arm.forecast is not None:
        return ForecastFloor(
            replica.cold_starts.p95_s,
            target=_target(arm.forecast.objective, replica),
            price=arm.forecast.objective.cold_start_price,
            concurrency=max(1, replica.concurrency),
        )
    if arm.pool is not None:
        lead = arm.pool.lead_time
        return PoolFloor(
            arm.pool,
            start,
            lead=timedelta(seconds=replica.cold_starts.p95_s) if lead in {"auto", None} else lead,  # type: ignore[arg-type]
            price=_price(shape, replica, prices),
            requests_per_replica=float(replica.concurrency or 100),
        )
    return FixedFloor(0)


def _target(objective: ForecastObjective, replica: Replica) -> float | None:
    """The admissible rate of cold starts; None where the objective is a price."""
    if objective.ttft_p95 is None:
        return objective.cold_start_rate
    starts = np.sort(replica.cold_starts.draw(_DRAWN, np.random.default_rng(0)))
    median, p95 = (timedelta(seconds=float(np.quantile(starts, at))) for at in (0.5, 0.95))
    return forecast.admissible_rate(objective.ttft_p95, median, p95)


def _price(shape: ReplicaSpec, replica: Replica, prices: PriceList) -> ReplicaPrice | None:
    if shape.hourly is None:
        return prices.replica(shape.gpu, shape.gpus)
    per_second = Decimal(str(replica.hourly)) * replica.gpus / Decimal(3600)
    return ReplicaPrice(per_second, prices.currency, prices.cold_start_penalty)


def replica_of(shape: ReplicaSpec, prices: PriceList) -> Replica:
    """A replica of the simulator from its description; GPUs without a price are free."""
    found = prices.of(shape.gpu)
    hourly = shape.hourly if shape.hourly is not None else float(found.hourly) if found else 0.0
    return Replica(
        cold_starts=cold_starts(shape.cold_start),
        gpus=shape.gpus,
        concurrency=shape.concurrency,
        slowdown=shape.slowdown,
        hourly=hourly,
    )


def cold_starts(spec: ColdStartSpec) -> ColdStarts:
    """The distribution that a description names."""
    if spec.seconds is not None:
        return Constant(spec.seconds)
    if spec.median is not None:
        return LogNormal(spec.median, spec.sigma)
    return Empirical(spec.measured)


def service_model(spec: ServiceTime) -> ServiceModel:
    """The service times that a description names."""
    return ServiceModel(
        spec.base_seconds, spec.input_token_seconds, spec.output_token_seconds, spec.fixed_seconds
    )


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
