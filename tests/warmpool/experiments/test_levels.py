"""Floors on a trace: the sweep agrees with closed forms, and its laws hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmpool.experiments import bound, kernels, levels, policies
from warmpool.policy import hazard


def poisson(seed: int, rate: float, seconds: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, int(rate * seconds * 1.2) + 10))
    return times[times < seconds]


def bursts(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Quiet traffic with bursts that recur."""
    rng = np.random.default_rng(seed)
    times = [poisson(seed, 0.05, 7200)]
    times += [begin + np.sort(rng.random(60)) * 20 for begin in rng.random(8) * 7000]
    arrivals = np.sort(np.concatenate(times))
    return arrivals, rng.lognormal(1.0, 0.7, len(arrivals))


def test_without_a_floor_every_request_that_finds_no_idle_replica_is_cold():
    arrivals, service = np.array([0.0, 1.0, 60.0]), np.array([3.0, 3.0, 3.0])
    demand = levels.demand_of(arrivals, service)

    outcome = levels.simulate(arrivals, service, np.zeros((1, demand.moves), np.int64), load_s=30.0)

    assert outcome.cold.tolist() == [3]
    # Three loads, and two replicas held from their request to the next move at 5 s, one from 60 to 65.
    assert outcome.gpu_s[0] == pytest.approx(3 * 30 + 5 + 4 + 5)


def test_an_endless_floor_leaves_only_first_starts_cold():
    arrivals, service = bursts(1)
    demand = levels.demand_of(arrivals, service)
    most = int(demand.peak.max())

    outcome = levels.simulate(arrivals, service, np.full((1, demand.moves), most), load_s=30.0)

    assert outcome.cold.tolist() == [most]


def test_a_floor_held_ahead_leaves_nothing_cold_once_it_is_loaded():
    arrivals, service = np.array([40.0, 41.0, 500.0]), np.array([3.0, 3.0, 3.0])
    demand = levels.demand_of(arrivals, service)
    floors = np.full((2, demand.moves), 2)
    floors[1] = 1

    outcome = levels.simulate(arrivals, service, floors, load_s=30.0, ahead=True)

    assert outcome.cold.tolist() == [0, 1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 4))
def test_a_higher_floor_never_costs_less_nor_leaves_more_cold(seed, floor):
    arrivals = poisson(seed, 0.2, 1200)
    if not len(arrivals):
        return
    service = np.random.default_rng(seed).exponential(5.0, len(arrivals))
    demand = levels.demand_of(arrivals, service)
    floors = np.stack([np.full(demand.moves, floor), np.full(demand.moves, floor + 1)])

    outcome = levels.simulate(arrivals, service, floors, load_s=0.0, ahead=False)

    assert outcome.cold[1] <= outcome.cold[0]
    assert outcome.gpu_s[1] >= outcome.gpu_s[0]


@pytest.mark.parametrize("name", ["keep-alive", *policies.POLICIES])
def test_no_policy_is_cheaper_than_the_clairvoyant_bound(name):
    arrivals, service = bursts(2)
    gaps = bound.gaps_of(arrivals, service)
    demand = levels.demand_of(arrivals, service)

    swept = policies.frontier(name, arrivals, service, demand, gaps, 30.0)

    # The bound leaves no request cold, so it holds for a cold request too: a start costs as much either way.
    assert swept.gpu_s.min() >= gaps.bound(30.0) * (1 - 1e-9)
    assert ((swept.cold_rate >= 0) & (swept.cold_rate <= 1)).all()


def test_the_hazard_floor_is_cheaper_than_every_keep_alive_on_bursts_that_recur():
    arrivals, service = bursts(3)
    gaps = bound.gaps_of(arrivals, service)
    demand = levels.demand_of(arrivals, service)

    default = policies.frontier("hazard", arrivals, service, demand, gaps, 30.0)
    fixed = policies.frontier("keep-alive", arrivals, service, demand, gaps, 30.0)

    rate = 0.15
    assert default.at(rate) <= fixed.at(rate) * 1.02


@pytest.mark.parametrize("target", [0.01, 0.02, 0.05])
def test_told_a_rate_of_cold_starts_the_hazard_floor_keeps_about_it(target):
    arrivals = poisson(5, 1.0, 6 * 3600)
    service = np.random.default_rng(5).exponential(4.0, len(arrivals))
    demand = levels.demand_of(arrivals, service)

    outcome = levels.simulate(
        arrivals, service, levels.target_floors(demand, 30.0, np.array([target])), load_s=30.0
    )

    assert outcome.cold_rate[0] <= 1.5 * target


def test_what_the_simulator_compiles_decides_as_what_the_controller_runs():
    arrivals, service = bursts(4)
    demand = levels.demand_of(arrivals, service)
    compiled = levels.hazard_floors(demand, 30.0, np.array([0.0, 120.0, 1000.0]))

    capacity = int(demand.peak.max()) + hazard.HEADROOM
    scalars, rows, spells = hazard.new_state(capacity)
    hazards = np.zeros(capacity + 1)
    for second in range(3000):
        hazard.tick(
            scalars,
            rows,
            spells,
            int(demand.running[second]),
            int(demand.peak[second]),
            int(demand.arrivals[second]),
        )
        if second % hazard.MOVE_TICKS == hazard.MOVE_TICKS - 1:
            top = hazard.scores(scalars, rows, spells, hazards)
            plain = [
                hazard.floor_at(hazards, top, int(demand.peak[second]), 30.0, price)
                for price in (0.0, 120.0, 1000.0)
            ]
            assert plain == compiled[:, second // hazard.MOVE_TICKS].tolist()


def test_erlang_staffing_has_the_blocking_of_erlang_b():
    # B(1..5) at a load of 1.8; a hair above, so that so many servers are enough.
    blocking = np.array([0.6429, 0.3665, 0.1803, 0.0750, 0.0263]) + 5e-5

    floors = kernels.erlang_floors(np.array([1.8]), np.array([1.0]), blocking)

    assert floors[:, 0].tolist() == [1, 2, 3, 4, 5]


def test_with_one_shot_replicas_beyond_a_floor_demand_exceeds_it_as_often_as_poisson_says():
    rate, mean_s, held = 0.9, 2.0, 3
    shares = []
    for seed in range(8):
        arrivals = poisson(seed, rate, 40_000)
        service = np.random.default_rng(seed + 100).exponential(mean_s, len(arrivals))
        demand = levels.demand_of(arrivals, service)
        shares.append((demand.running[100 : -levels.DRAIN_S] > held).mean())
    load = rate * mean_s
    exact = 1 - sum(load**k / math.factorial(k) for k in range(held + 1)) * math.exp(-load)
    error = np.std(shares, ddof=1) / math.sqrt(len(shares))
    assert abs(np.mean(shares) - exact) < 3 * error
