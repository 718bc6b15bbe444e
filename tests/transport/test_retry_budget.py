"""Retries to one target are at most a share of its requests, beyond a reserve."""

import pytest

from transport.retry_budget import RetryBudget


def retries(budget: RetryBudget, now: float, wanted: int) -> int:
    return sum(budget.take_retry(now) for _ in range(wanted))


@pytest.mark.parametrize(
    ("requests", "allowed"),
    [(0, 10), (1, 10), (20, 10), (1000, 10)],
)
def test_a_burst_of_retries_is_bounded_by_the_reserve(requests: int, allowed: int):
    budget = RetryBudget()
    for _ in range(requests):
        budget.add_request(0.0)
    assert retries(budget, 0.0, 1000) == allowed


def test_beyond_the_reserve_retries_are_a_fifth_of_the_requests():
    budget = RetryBudget()
    made = 0
    for _ in range(1000):
        budget.add_request(0.0)
        made += retries(budget, 0.0, 9)
    assert made == 10 + 200 - 1  # the first request finds a full reserve and earns nothing


def test_time_alone_brings_the_reserve_back():
    budget = RetryBudget()
    assert retries(budget, 100.0, 20) == 10
    assert [retries(budget, now, 5) for now in (109.0, 110.0, 130.0)] == [0, 1, 2]
    assert retries(budget, 1e6, 1000) == 10


def test_a_clock_that_goes_back_earns_nothing():
    budget = RetryBudget(reserve=1.0)
    assert budget.take_retry(50.0)
    assert not budget.take_retry(40.0)
