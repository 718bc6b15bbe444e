"""The clairvoyant bound and fixed keep-alive: against exhaustive search and closed forms."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmpool.experiments.bound import gaps_of


def cheapest_by_search(arrivals: list[int], service: list[int], load: int) -> float:
    """The cheapest integer schedule of replicas per second, by dynamic programming over all replica counts."""
    end = max(a + s for a, s in zip(arrivals, service, strict=True))
    needed = [sum(a <= t < a + s for a, s in zip(arrivals, service, strict=True)) for t in range(end)]
    most = max(needed)
    costs = {0: 0.0}
    for need in needed:
        costs = {
            count: min(cost + load * max(0, count - before) for before, cost in costs.items()) + count
            for count in range(need, most + 1)
        }
    return min(costs.values())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 25), st.integers(1, 6)), min_size=1, max_size=9),
    st.integers(1, 9),
)
def test_no_schedule_is_cheaper_than_the_bound_and_one_is_as_cheap(requests, load):
    requests = sorted(requests)
    arrivals = [a for a, _ in requests]
    service = [s for _, s in requests]

    bound = gaps_of(np.array(arrivals, float), np.array(service, float)).bound(load)

    assert bound == pytest.approx(cheapest_by_search(arrivals, service, load))


def test_a_worked_example():
    gaps = gaps_of(np.array([0.0, 1.0, 20.0, 100.0]), np.array([5.0, 5.0, 1.0, 1.0]))

    assert gaps.highest == 2
    assert sorted(gaps.lengths) == [14.0, 79.0]  # 20 - 6 and 100 - 21
    assert gaps.bound(30.0) == 12 + 2 * 30 + 14 + 30
    cost, rate = gaps.keep_alive(15.0, 30.0, drain=False)
    assert (cost, rate) == (12 + 14 + 15 + 3 * 30, 3 / 4)


def exponential(matrix: np.ndarray) -> np.ndarray:
    """The matrix exponential, by scaling and squaring."""
    squarings = max(0, math.ceil(math.log2(max(1e-9, np.abs(matrix).sum(axis=1).max())))) + 4
    scaled = matrix / 2**squarings
    result = term = np.eye(len(matrix))
    for order in range(1, 16):
        term = term @ scaled / order
        result = result + term
    return np.linalg.matrix_power(result, 2**squarings)


def cold_start_probability(rate: float, service: float, timeout: float, levels: int = 60) -> float:
    """Exact for Poisson arrivals and exponential service, last idle first served (birth-death first passage)."""
    load = rate * service
    result = 0.0
    for level, stationary in itertools.takewhile(
        lambda pair: pair[0] < levels,
        ((n, math.exp(-load) * load**n / math.factorial(n)) for n in itertools.count()),
    ):
        generator = np.zeros((level + 1, level + 1))
        for state in range(level + 1):
            down = state / service
            generator[state, state] = -(rate + down)
            if state:
                generator[state, state - 1] = down
            if state < level:
                generator[state, state + 1] = rate
        result += stationary * float(exponential(generator * timeout)[level].sum())
        if stationary < 1e-12 and level > load:
            break
    return result


@pytest.mark.parametrize(
    ("rate", "service", "timeout", "published"),
    [(0.9, 2.0, 60.0, 0.016360), (0.02, 20.0, 300.0, 0.095161), (1 / 600, 0.01, 600.0, 0.367890)],
)
def test_cold_starts_of_a_keep_alive_are_those_of_the_exact_model(rate, service, timeout, published):
    exact = cold_start_probability(rate, service, timeout)
    assert exact == pytest.approx(published, rel=1e-4)

    shares = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        count = 60_000
        arrivals = np.cumsum(rng.exponential(1 / rate, count))
        gaps = gaps_of(arrivals, rng.exponential(service, count))
        shares.append(gaps.keep_alive(timeout, 0.0)[1])
    error = np.std(shares, ddof=1) / math.sqrt(len(shares))
    assert abs(np.mean(shares) - exact) < 3 * error + 1e-4
