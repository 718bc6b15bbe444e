"""GPUs that functions share, nodes that have to be provisioned, and greedy-dual eviction."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knative.autoscaling.annotations import AutoscalingSpec
from warmpool.experiments.capacity import GreedyDual, GreedyDualFloor, Nodes
from warmpool.experiments.cold_start import Constant
from warmpool.experiments.fleet import Function, simulate_fleet
from warmpool.experiments.floors import FixedFloor, ForecastFloor
from warmpool.experiments.result import Result, side_by_side
from warmpool.experiments.simulator import Load, Replica

FULL = AutoscalingSpec(target_utilization_percentage=100)


def load(arrivals, service_s=2.0, name="f") -> Load:
    arrivals = np.asarray(arrivals, float)
    times = np.broadcast_to(np.asarray(service_s, float), arrivals.shape).copy()
    return Load(name, arrivals, times, times / 2)


def nodes(gpus=2, provisioning=100.0, keep=60.0, most=None) -> Nodes:
    return Nodes(gpus, Constant(provisioning), keep, most, np.random.default_rng(0))


def replicas_at_most(results: list[Result], gpus_each: list[int]) -> float:
    """The most GPUs that ready and starting replicas held at once."""
    weighted = [
        np.column_stack([one.replicas[:, 0], one.replicas[:, 1:].sum(axis=1) * gpus])
        for one, gpus in zip(results, gpus_each, strict=True)
    ]
    instants = np.unique(np.concatenate([steps[:, 0] for steps in weighted]))
    total = np.zeros(len(instants))
    for steps in weighted:
        total += steps[np.searchsorted(steps[:, 0], instants, side="right") - 1, 1]
    return float(total.max())


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    cap=st.integers(4, 6),
    policy=st.sampled_from(["off", "fixed", "forecast", "greedy-dual"]),
    sizes=st.lists(st.integers(1, 2), min_size=2, max_size=5),
)
def test_functions_never_hold_more_than_they_share(seed, cap, policy, sizes):
    rng = np.random.default_rng(seed)
    functions = []
    for index, gpus in enumerate(sizes):
        arrivals = np.cumsum(rng.exponential(60.0, 25))
        replica = Replica(Constant(10.0), gpus=gpus)
        floor = {
            "off": lambda: FixedFloor(0),
            "fixed": lambda: FixedFloor(0 if index else 1),  # noqa: B023 - called at once
            "forecast": lambda: ForecastFloor(10.0, target=0.05),
            "greedy-dual": lambda: GreedyDualFloor(10.0, gpus=gpus),  # noqa: B023 - called at once
        }[policy]()
        functions.append(
            Function(load(arrivals, rng.exponential(3.0, 25), f"f{index}"), replica, floor, FULL)
        )
    capacity = GreedyDual(cap) if policy == "greedy-dual" else None

    results = simulate_fleet(functions, gpus=None if capacity else cap, capacity=capacity, seed=seed)

    assert replicas_at_most(results, sizes) <= cap
    if policy in {"off", "greedy-dual"}:  # the others' floors may hold GPUs that another one waits for
        assert [one.lost for one in results] == [0] * len(sizes)
        whole = side_by_side("all", results)
        assert whole.busy_gpu_s == pytest.approx(
            sum(f.load.service_s.sum() * gpus for f, gpus in zip(functions, sizes, strict=True))
        )


def test_a_replica_waits_for_its_node_and_the_next_one_finds_it():
    capacity = nodes()
    functions = [
        Function(load([10.0], 5.0, "a"), Replica(Constant(10.0)), FixedFloor(0), FULL),
        Function(load([200.0], 5.0, "b"), Replica(Constant(10.0)), FixedFloor(0), FULL),
    ]

    first, second = simulate_fleet(functions, capacity=capacity)

    assert first.waited_s.tolist() == pytest.approx([110.0])
    assert second.waited_s.tolist() == pytest.approx([10.0])
    assert capacity.ordered == 1


def test_nodes_are_paid_for_until_they_have_been_empty_for_long_enough():
    capacity = nodes(gpus=4, provisioning=100.0, keep=60.0)

    assert capacity.place(3, 10.0) == (1, 110.0)
    assert capacity.place(1, 20.0) == (1, 110.0)
    assert capacity.place(1, 30.0) == (2, 130.0)
    capacity.leave(1, 3, 200.0)
    capacity.leave(1, 1, 300.0)
    capacity.leave(2, 1, 310.0)

    assert capacity.gpu_s(330.0) == pytest.approx(4 * (320 + 300))
    # The first is returned at 360 and the second at 370.
    assert capacity.gpu_s(1000.0) == pytest.approx(4 * (350 + 340))
    assert capacity.place(1, 1000.0) == (3, 1100.0)


def test_no_more_nodes_than_there_may_be():
    capacity = nodes(gpus=1, most=1)

    assert capacity.place(1, 0.0) is not None
    assert capacity.place(1, 1.0) is None
    assert capacity.place(0, 1.0) == (0, 1.0)


def test_greedy_dual_lets_the_function_leave_that_is_used_least_for_its_size():
    # Three GPUs: `often` and `seldom` are warm, `large` needs two of them.
    capacity = GreedyDual(3)
    functions = [
        Function(load([10.0, 40.0, 70.0, 900.0], 1.0, "often"), Replica(Constant(10.0)),
                 GreedyDualFloor(10.0), FULL),
        Function(load([15.0, 900.0], 1.0, "seldom"), Replica(Constant(10.0)), GreedyDualFloor(10.0), FULL),
        Function(load([500.0], 1.0, "large"), Replica(Constant(10.0), gpus=2),
                 GreedyDualFloor(10.0, gpus=2), FULL),
    ]  # fmt: skip

    often, seldom, large = simulate_fleet(functions, capacity=capacity)

    # Priorities at 500 s: 3 uses * 10 s = 30 and 1 use * 10 s = 10. One GPU is free, one is missing.
    assert often.cold.tolist() == [True, False, False, False]
    assert seldom.cold.tolist() == [True, True]
    assert capacity.clock >= 10.0
    # Knative takes some seconds to let the last replica go.
    assert 10.0 < large.waited_s[0] < 20.0


def test_under_greedy_dual_nothing_leaves_while_there_is_room():
    arrivals = np.arange(10.0, 20_000.0, 500.0)
    functions = [
        Function(load(arrivals, 1.0), Replica(Constant(10.0)), GreedyDualFloor(10.0), FULL),
        Function(load(arrivals + 100, 1.0), Replica(Constant(10.0)), GreedyDualFloor(10.0), FULL),
    ]

    results = simulate_fleet(functions, capacity=GreedyDual(2))

    assert [one.cold.sum() for one in results] == [1, 1]


def test_greedy_dual_leaves_fewer_cold_than_scale_to_zero_on_the_same_gpus():
    rng = np.random.default_rng(7)
    rates = np.geomspace(0.02, 0.001, 8)
    loads = [load(np.cumsum(rng.exponential(1 / rate, 60)), 2.0, f"f{i}") for i, rate in enumerate(rates)]
    replica = Replica(Constant(20.0))

    off = simulate_fleet([Function(one, replica, FixedFloor(0), FULL) for one in loads], gpus=4)
    kept = simulate_fleet(
        [Function(one, replica, GreedyDualFloor(20.0), FULL) for one in loads], capacity=GreedyDual(4)
    )

    assert side_by_side("", kept).cold_rate < 0.9 * side_by_side("", off).cold_rate
    assert sum(one.lost for one in kept) == 0
