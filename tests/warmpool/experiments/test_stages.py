"""Stages of an agent one after another: what waits for what, with and without waking ahead."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knative.autoscaling.annotations import AutoscalingSpec
from warmpool.experiments.cold_start import Constant
from warmpool.experiments.fleet import Function, simulate_fleet
from warmpool.experiments.floors import FixedFloor
from warmpool.experiments.result import Result, in_a_row
from warmpool.experiments.simulator import Load, Replica

FULL = AutoscalingSpec(target_utilization_percentage=100)


def agent(arrivals, services, start_s=10.0, *, ahead=False, floor=0, gpus=None, seed=0) -> list[Result]:
    arrivals = np.asarray(arrivals, float)
    stages = []
    for position, service_s in enumerate(services):
        times = np.broadcast_to(np.asarray(service_s, float), arrivals.shape).copy()
        load = Load(f"stage {position}", arrivals, times, times / 2)
        after = position - 1 if position else None
        stages.append(
            Function(load, Replica(Constant(start_s)), FixedFloor(floor), FULL, after, ahead and position > 0)
        )
    return simulate_fleet(stages, gpus=gpus, seed=seed)


def test_cold_starts_of_stages_add_up_one_after_another():
    first, second = agent([5.0], [2.0, 3.0])

    assert first.waited_s.tolist() == [10.0]
    assert second.arrived_s.tolist() == [17.0]
    assert second.waited_s.tolist() == pytest.approx([10.0])
    whole = in_a_row("agent", [first, second])
    assert whole.waited_s.tolist() == pytest.approx([20.0])
    assert whole.served_s.tolist() == pytest.approx([5.0])
    assert whole.first_token_s.tolist() == pytest.approx([12.0 + 10.0 + 1.5])
    assert whole.cold.tolist() == [True]


def test_waking_ahead_lets_later_stages_start_beside_the_first():
    first, second, third = agent([5.0], [2.0, 3.0, 1.0], ahead=True)

    assert first.waited_s.tolist() == [10.0]
    assert second.waited_s.tolist() == [0.0]  # ready at 15, asked at 17
    assert third.waited_s.tolist() == [0.0]
    assert not second.cold.any()
    assert second.starts == third.starts == 1
    assert in_a_row("agent", [first, second, third]).cold.tolist() == [True]


def test_a_stage_that_is_woken_too_late_makes_wait_for_the_rest():
    _, second = agent([5.0], [2.0, 3.0], start_s=10.0, ahead=True)
    _, slow = simulate_fleet(
        [
            Function(Load("a", np.array([5.0]), np.array([2.0]), np.array([1.0])),
                     Replica(Constant(1.0)), FixedFloor(0), FULL),
            Function(Load("b", np.array([5.0]), np.array([2.0]), np.array([1.0])),
                     Replica(Constant(30.0)), FixedFloor(0), FULL, after=0, wake_ahead=True),
        ]
    )  # fmt: skip

    assert second.waited_s.tolist() == [0.0]
    assert slow.waited_s.tolist() == pytest.approx([35.0 - 8.0])
    assert slow.cold.tolist() == [True]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rate=st.sampled_from([0.01, 0.2]),
    ahead=st.booleans(),
    gpus=st.sampled_from([None, 3, 6]),
    stages=st.integers(2, 4),
)
def test_every_request_goes_through_every_stage_in_order(seed, rate, ahead, gpus, stages):
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, 60))
    services = [rng.exponential(2.0, 60) for _ in range(stages)]

    results = agent(arrivals, services, start_s=8.0, ahead=ahead, gpus=gpus, seed=seed)

    left = arrivals
    for result, service_s in zip(results, services, strict=True):
        assert result.lost == 0
        assert result.arrived_s == pytest.approx(left)
        assert (result.waited_s >= -1e-9).all()
        assert result.served_s == pytest.approx(service_s)
        # One request per replica: a replica is busy exactly while it serves.
        assert result.busy_gpu_s == pytest.approx(service_s.sum())
        left = result.arrived_s + result.waited_s + result.served_s


def test_an_agent_is_awake_sooner_the_more_it_wakes_ahead():
    rng = np.random.default_rng(4)
    arrivals = np.cumsum(rng.exponential(400.0, 80))
    services = [1.0, 4.0, 0.5]

    plain = in_a_row("a", agent(arrivals, services, start_s=20.0))
    ahead = in_a_row("a", agent(arrivals, services, start_s=20.0, ahead=True))

    assert ahead.waited_s.mean() < 0.6 * plain.waited_s.mean()
    assert ahead.lost == plain.lost == 0
