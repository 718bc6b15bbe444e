"""The simulator against closed forms of queueing theory, its laws, and worked examples."""

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knative.autoscaling.annotations import AutoscalingSpec
from warmpool.domain.cost import ReplicaPrice
from warmpool.domain.observation import DEFAULT_DRAIN
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.experiments.cold_start import Constant, Empirical, LogNormal
from warmpool.experiments.fleet import Function, simulate_fleet
from warmpool.experiments.floors import FixedFloor, ForecastFloor, PoolFloor
from warmpool.experiments.simulator import Load, Replica, simulate

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def load_of(arrivals, service, name="f") -> Load:
    arrivals, service = np.asarray(arrivals, float), np.asarray(service, float)
    return Load(name, arrivals, service, np.full(len(arrivals), 0.1))


def poisson(seed: int, rate: float, count: int, mean_s: float) -> Load:
    rng = np.random.default_rng(seed)
    return load_of(np.cumsum(rng.exponential(1 / rate, count)), rng.exponential(mean_s, count))


def erlang_c(servers: int, load: float) -> float:
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    return servers * blocked / (servers - load * (1 - blocked))


@pytest.mark.parametrize("servers", [3, 4, 5])
def test_with_a_fixed_number_of_replicas_requests_wait_as_in_mmc(servers):
    rate, mean_s = 0.9, 2.0
    shares, waits = [], []
    for seed in range(8):
        load = poisson(seed, rate, 12_000, mean_s)
        spec = AutoscalingSpec(max_scale=servers)
        result = simulate(load, Replica(Constant(0.001)), FixedFloor(servers), autoscaling=spec, seed=seed)
        settled = result.waited_s[200:]
        shares.append((settled > 1e-9).mean())
        waits.append(settled.mean())
    exact = erlang_c(servers, rate * mean_s)
    assert exact == pytest.approx({3: 0.3547, 4: 0.1285, 5: 0.0405}[servers], abs=1e-4)
    error = np.std(shares, ddof=1) / math.sqrt(len(shares))
    assert abs(np.mean(shares) - exact) < 3 * error
    expected = exact * mean_s / (servers - rate * mean_s)
    error = np.std(waits, ddof=1) / math.sqrt(len(waits))
    assert abs(np.mean(waits) - expected) < 3 * error


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    concurrency=st.sampled_from([0, 1, 3, 8]),
    floor=st.integers(0, 3),
    rate=st.sampled_from([0.01, 0.2, 2.0]),
)
def test_littles_law_holds_and_no_request_is_lost(seed, concurrency, floor, rate):
    load = poisson(seed, rate, 200, 3.0)

    result = simulate(load, Replica(Constant(20.0), concurrency=concurrency), FixedFloor(floor), seed=seed)

    assert result.lost == 0
    assert (result.waited_s >= -1e-9).all()
    # Time inside the system, summed over requests, is busy time as long as one replica takes one request.
    if concurrency == 1:
        assert result.busy_gpu_s == pytest.approx(load.service_s.sum(), rel=1e-9)
    assert result.idle_gpu_s >= -1e-6


class Watched(FixedFloor):
    """A fixed floor that adds up the requests inside, second by second, as the autoscaler sees them."""

    inside_s = 0.0

    def observe(self, second, now):  # noqa: ARG002 - as in every policy
        self.inside_s += second.concurrency


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    concurrency=st.sampled_from([0, 1, 4]),
    rate=st.sampled_from([0.005, 0.1, 1.5]),
    slowdown=st.sampled_from([0.0, 0.2]),
)
def test_requests_inside_are_their_rate_times_their_time_inside(seed, concurrency, rate, slowdown):
    load = poisson(seed, rate, 150, 4.0)
    watched = Watched(0)

    result = simulate(
        load, Replica(LogNormal(15.0, 0.3), concurrency=concurrency, slowdown=slowdown), watched, seed=seed
    )

    # Little's law: the mean number inside, times the time, is the sum of the times inside.
    assert watched.inside_s == pytest.approx((result.waited_s + result.served_s).sum(), rel=1e-9)


def test_the_same_seed_gives_the_same_bytes():
    load = poisson(1, 0.5, 500, 3.0)
    replica = Replica(LogNormal(20.0, 0.4), concurrency=0)

    first = simulate(load, replica, ForecastFloor(20.0, target=0.02), seed=7)
    again = simulate(load, replica, ForecastFloor(20.0, target=0.02), seed=7)
    other = simulate(load, replica, ForecastFloor(20.0, target=0.02), seed=8)

    assert first.waited_s.tobytes() == again.waited_s.tobytes()
    assert first.waited_s.tobytes() != other.waited_s.tobytes()


def test_a_request_to_a_function_at_zero_waits_for_one_start_and_the_next_ones_do_not():
    result = simulate(load_of([100.25, 200.0], [2.0, 2.0]), Replica(Constant(30.0)), FixedFloor(0))

    # Kept by the stable window and the grace period of scale to zero after the first, gone before 200 s.
    assert result.cold.tolist() == [True, True]
    assert result.waited_s[0] == pytest.approx(30.0)
    assert result.starting_gpu_s == pytest.approx(30.0 * result.starts)


def test_scale_to_zero_keeps_the_last_replica_for_the_stable_window():
    spec = AutoscalingSpec(target_utilization_percentage=100)
    gap = simulate(load_of([10.0, 60.0], [1.0, 1.0]), Replica(Constant(5.0)), FixedFloor(0), autoscaling=spec)
    far = simulate(
        load_of([10.0, 1000.0], [1.0, 1.0]), Replica(Constant(5.0)), FixedFloor(0), autoscaling=spec
    )

    assert gap.cold.tolist() == [True, False]
    assert far.cold.tolist() == [True, True]
    assert far.starts == 2
    # Each time: 5 s of start, 1 s of work, then the window of 60 s and what scale to zero adds.
    assert 2 * 55 < far.idle_gpu_s < 2 * 75


def test_a_window_of_a_pool_is_open_when_it_says_so_and_early_by_its_lead():
    spec = WarmPoolTemplate.model_validate(
        {"windows": [{"name": "morning", "from": "08:00", "to": "09:00", "replicas": 2}]}
    )
    opens = 8 * 3600.0
    load = load_of([opens + 1, opens + 1.5, opens + 600], [5.0, 5.0, 5.0])
    pool = PoolFloor(spec, MONDAY, lead=timedelta(seconds=120))

    result = simulate(load, Replica(Constant(60.0)), pool)

    assert not result.cold.any()
    assert result.floor[0].tolist() == [opens - 120, 2]
    assert result.lost == 0


def test_at_knatives_usual_utilisation_one_waiting_request_starts_two_replicas():
    result = simulate(load_of([10.0], [1.0]), Replica(Constant(5.0)), FixedFloor(0))

    assert result.starts == 2  # ceil(1 / 0.7)


def test_functions_on_few_gpus_wait_for_each_other():
    spec = AutoscalingSpec(target_utilization_percentage=100)
    functions = [
        Function(load_of([10.0], [50.0], "a"), Replica(Constant(5.0)), FixedFloor(0), spec),
        Function(load_of([11.0], [5.0], "b"), Replica(Constant(5.0)), FixedFloor(0), spec),
    ]

    apart = simulate_fleet(functions, gpus=2)
    shared = simulate_fleet(functions, gpus=1)

    assert apart[1].waited_s[0] == pytest.approx(5.0)
    # `a` runs for 50 s and is kept by its stable window; `b` starts when its GPU is free.
    assert shared[1].waited_s[0] > 100
    assert shared[0].lost == shared[1].lost == 0


def test_a_function_that_sleeps_takes_no_gpu_before_its_request_comes():
    spec = AutoscalingSpec(target_utilization_percentage=100)
    early = load_of(np.arange(0.0, 2000.0, 10.0), np.full(200, 2.0), "early")
    late = load_of([3000.0], [2.0], "late")

    first, second = simulate_fleet(
        [
            Function(late, Replica(Constant(5.0)), FixedFloor(0), spec),
            Function(early, Replica(Constant(5.0)), FixedFloor(0), spec),
        ],
        gpus=1,
    )

    assert first.waited_s[0] == pytest.approx(5.0)
    assert second.waited_s.max() == pytest.approx(5.0, abs=0.5)
    assert second.lost == 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_more_floor_costs_more_and_leaves_fewer_cold(seed):
    load = poisson(seed, 0.05, 60, 4.0)

    results = [simulate(load, Replica(Constant(30.0)), FixedFloor(floor)) for floor in (2, 4, 8)]

    assert [r.cold.sum() for r in results] == sorted((r.cold.sum() for r in results), reverse=True)
    assert [r.gpu_s for r in results] == sorted(r.gpu_s for r in results)


def test_a_forecast_leaves_fewer_cold_than_the_autoscaler_alone():
    rng = np.random.default_rng(3)
    arrivals = np.sort(np.concatenate([begin + rng.random(4) * 5 for begin in np.arange(0, 20_000, 150.0)]))
    load = load_of(arrivals, rng.exponential(3.0, len(arrivals)))
    spec = AutoscalingSpec(target_utilization_percentage=100)

    off = simulate(load, Replica(Constant(30.0)), FixedFloor(0), autoscaling=spec)
    forecast = simulate(load, Replica(Constant(30.0)), ForecastFloor(30.0, target=0.02), autoscaling=spec)

    assert forecast.cold_rate < off.cold_rate / 2


def test_distributions_of_cold_starts():
    rng = np.random.default_rng(0)

    assert LogNormal(20.0, 0.5).draw(100_000, rng).mean() == pytest.approx(20 * math.exp(0.125), rel=0.02)
    assert np.quantile(LogNormal(20.0, 0.5).draw(100_000, rng), 0.95) == pytest.approx(
        LogNormal(20.0, 0.5).p95_s, rel=0.02
    )
    assert set(Empirical((3.0, 4.0)).draw(50, rng)) == {3.0, 4.0}


def test_a_forecast_needs_one_objective():
    with pytest.raises(ValueError, match="either a target rate of cold starts or a price"):
        ForecastFloor(30.0)


@settings(max_examples=12, deadline=None)
@given(
    amount=st.sampled_from([0.5, 2.0, 7.3, 30.0]),
    replicas=st.integers(1, 4),
    offset=st.integers(0, 80_000),
)
def test_a_budget_is_never_exceeded_by_more_than_one_drain(amount, replicas, offset):
    per_second = Decimal(1) / 3600
    spec = WarmPoolTemplate.model_validate(
        {
            "windows": [{"name": "day", "from": "06:00", "to": "22:00", "replicas": replicas}],
            "limits": {"budget": {"amount": amount, "period": "day"}},
        }
    )
    pool = PoolFloor(spec, MONDAY, lead=timedelta(seconds=60), price=ReplicaPrice(per_second))
    load = load_of(offset + np.array([100.0, 90_000.0, 259_000.0]), [0.5, 0.5, 0.5])

    result = simulate(load, Replica(Constant(20.0), hourly=1.0), pool)

    off = simulate(load, Replica(Constant(20.0), hourly=1.0), FixedFloor(0))
    days = math.ceil(float(result.replicas[-1, 0]) / 86_400)
    drain = replicas * float(per_second) * (DEFAULT_DRAIN.total_seconds() + 30)
    assert result.cost <= days * (amount + drain) + off.cost
    assert result.cost > min(amount, 10.0 * replicas) * 0.9
