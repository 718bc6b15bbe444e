"""Time in which nothing happens is passed over, and the result is the same as second by second."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knative.autoscaling.annotations import Algorithm, AutoscalingSpec
from knative.autoscaling.revision_autoscaler import RevisionAutoscaler, RevisionScaling
from knative.autoscaling.windows import LinearWindow, WeightedWindow
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.experiments import data_path
from warmpool.experiments.cold_start import LogNormal
from warmpool.experiments.floors import FixedFloor, ForecastFloor, PoolFloor
from warmpool.experiments.result import Result
from warmpool.experiments.simulator import FunctionSimulation, Load, Replica

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
POOL = {
    "keepAlive": "5m",
    "windows": [{"name": "night", "from": "00:20", "to": "01:00", "replicas": 2}],
}


def run(load, policy, spec, concurrency, seed, *, skip: bool) -> tuple[Result, int]:
    data_path.seed(seed)
    replica = Replica(LogNormal(15.0, 0.3), concurrency=concurrency)
    simulation = FunctionSimulation(load, replica, policy, autoscaling=spec, seed=seed)
    steps = 0
    while not simulation.finished:
        if skip:
            simulation.plan()
        simulation.step()
        steps += 1
    return simulation.result(), steps


def policies(name: str):
    match name:
        case "off":
            return FixedFloor(0)
        case "fixed":
            return FixedFloor(2)
        case "pool":
            return PoolFloor(WarmPoolTemplate.model_validate(POOL), MONDAY, timedelta(seconds=15))
        case "target":
            return ForecastFloor(15.0, target=0.05)
    return ForecastFloor(15.0, price=60.0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rate=st.sampled_from([0.003, 0.02, 0.3]),
    policy=st.sampled_from(["off", "fixed", "pool", "target", "price"]),
    concurrency=st.sampled_from([0, 1, 6]),
    utilisation=st.sampled_from([70.0, 100.0]),
    window=st.sampled_from([10.0, 60.0]),
    algorithm=st.sampled_from(list(Algorithm)),
    delay=st.sampled_from([0.0, 45.0]),
    retention=st.sampled_from([0.0, 90.0]),
)
def test_a_run_that_passes_over_quiet_time_is_the_same_to_the_bit(  # noqa: PLR0917 - one for each setting
    seed, rate, policy, concurrency, utilisation, window, algorithm, delay, retention
):
    rng = np.random.default_rng(seed)
    count = 40
    arrivals = np.cumsum(rng.exponential(1 / rate, count))
    load = Load("f", arrivals, rng.exponential(4.0, count), np.full(count, 0.1))
    spec = AutoscalingSpec(
        target_utilization_percentage=utilisation,
        window_s=window,
        algorithm=algorithm,
        scale_down_delay_s=delay,
        pod_retention_s=retention,
    )

    each, slow = run(load, policies(policy), spec, concurrency, seed, skip=False)
    skipped, fast = run(load, policies(policy), spec, concurrency, seed, skip=True)

    assert skipped.waited_s.tobytes() == each.waited_s.tobytes()
    assert skipped.replicas.tolist() == each.replicas.tolist()
    assert skipped.floor.tolist() == each.floor.tolist()
    assert skipped.gpu_s == pytest.approx(each.gpu_s, rel=1e-12)
    assert fast <= slow


def test_quiet_time_costs_no_steps():
    load = Load("f", np.array([10.0, 500_000.0]), np.array([2.0, 2.0]), np.array([0.1, 0.1]))

    _, steps = run(load, FixedFloor(0), AutoscalingSpec(), 1, 0, skip=True)

    assert steps < 250


VALUES = st.lists(st.floats(0, 50), min_size=1, max_size=90)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.integers(6, 70), st.integers(1, 150))
def test_zeros_that_are_recorded_at_once_are_as_those_one_by_one(values, window, zeros):
    at_once, each = LinearWindow(window), LinearWindow(window)
    for second, value in enumerate(values):
        at_once.record(float(second), value)
        each.record(float(second), value)
    end = len(values) + zeros

    at_once.record_zeros(len(values), end - 1)
    for second in range(len(values), end):
        each.record(float(second), 0.0)

    assert [at_once.average(end + later) for later in range(4)] == [
        each.average(end + later) for later in range(4)
    ]
    for window_ in (at_once, each):
        window_.record(float(end), 7.0)
    assert at_once.average(end + 1.0) == each.average(end + 1.0)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.integers(6, 70), st.floats(0.5, 10), st.sampled_from([LinearWindow, WeightedWindow]))
def test_a_level_stays_for_as_long_as_it_is_foretold(values, window, target, kind):
    foretold = kind(window)
    for second, value in enumerate(values):
        foretold.record(float(second), value)
    now = len(values) - 1

    def level(average: float) -> int:
        return -int(-average // target)

    until = foretold.stays(float(now), level)

    found = level(foretold.average(now))
    for second in range(now + 1, int(min(until, now + 2 * window))):
        foretold.record(float(second), 0.0)
        assert level(foretold.average(second)) == found
    if now < until < now + 2 * window:
        foretold.record(until, 0.0)
        assert level(foretold.average(until)) != found


@settings(max_examples=150, deadline=None)
@given(VALUES, st.integers(0, 5), st.sampled_from([50.0, 70.0, 100.0]))
def test_a_settled_autoscaler_decides_nothing_else_until_it_says(values, ready, utilisation):
    spec = RevisionScaling(AutoscalingSpec(target_utilization_percentage=utilisation), 1)
    autoscaler = RevisionAutoscaler(spec, 0.0, 0)
    now = 0.0
    for value in [*values, *([0.0] * 8)]:
        autoscaler.ready = autoscaler.total = ready
        now += 1.0
        autoscaler.record(now, concurrency=value, requests=value)
        if now % 2 == 0:
            autoscaler.decide(now)
            autoscaler.reconcile(now)

    until = autoscaler.settled_until(now, reporting=True)

    before = (autoscaler.desired_scale, autoscaler.replicas, autoscaler.kpa)
    while now + 1 < min(until, 400):
        now += 1.0
        autoscaler.record(now, concurrency=0.0, requests=0.0)
        if now % 2 == 0:
            assert not autoscaler.decide(now)
        assert (autoscaler.desired_scale, autoscaler.replicas, autoscaler.kpa) == before
