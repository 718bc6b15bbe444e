"""The simulator's parts from what an experiment file says: replicas, floors, service times, GPUs."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import numpy as np

from warmpool.domain.cost import PriceList, ReplicaPrice
from warmpool.domain.field_types import Warmth
from warmpool.domain.pool import ForecastObjective
from warmpool.experiments.capacity import Capacity, GreedyDual, Nodes, SharedGpus
from warmpool.experiments.cold_start import ColdStarts, Constant, Empirical, LogNormal
from warmpool.experiments.experiment import ExperimentSpec, FloorSpec, ReplicaSpec, ServiceTime
from warmpool.experiments.floors import FixedFloor, FloorPolicy, ForecastFloor, PoolFloor
from warmpool.experiments.shapes import ColdStartSpec, WarmthLevel, WarmthSpec
from warmpool.experiments.simulator import Replica, Warmths
from warmpool.experiments.trace import ServiceModel
from warmpool.policy import forecast

_DRAWN: Final = 2_000
"""Starts that stand for a distribution of them."""


def floor_policy(
    arm: FloorSpec, start: datetime, replica: Replica, prices: PriceList, shape: ReplicaSpec
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
        stop_s=shape.stop_seconds,
        warmths=_warmths(shape.warmth, prices),
    )


def _warmths(spec: WarmthSpec, prices: PriceList) -> Warmths:
    levels: dict[Warmth, WarmthLevel | None] = {"asleep": spec.asleep, "standby": spec.standby}
    known = {warmth: level for warmth, level in levels.items() if level is not None}
    return Warmths(
        resting=spec.resting,
        idle_after_s=math.inf if spec.idle_seconds is None else spec.idle_seconds,
        wake_s={warmth: level.wake_seconds for warmth, level in known.items()},
        shares={
            warmth: float(prices.warmth.get(warmth, Decimal(1)))
            if level.price_share is None
            else level.price_share
            for warmth, level in known.items()
        },
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


def capacity_of(spec: ExperimentSpec) -> Capacity:
    """Where the replicas of an arm find their GPUs."""
    if spec.nodes is not None:
        nodes = spec.nodes
        return Nodes(
            nodes.gpus,
            cold_starts(nodes.provisioning),
            nodes.keep.total_seconds(),
            nodes.most,
            np.random.default_rng(spec.seed),
        )
    greedy = any(floor.greedy_dual for arm in spec.arms for floor in (arm, *arm.stages.values()))
    if spec.gpus is not None and greedy:
        return GreedyDual(spec.gpus)
    return SharedGpus(spec.gpus)
