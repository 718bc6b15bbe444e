"""Replicas that rest below hot: what a request waits for, and what their time costs."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from knative.autoscaling.annotations import AutoscalingSpec
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.experiments.cold_start import Constant
from warmpool.experiments.floors import FixedFloor, PoolFloor
from warmpool.experiments.simulator import Load, Replica, Warmths, simulate

FULL = AutoscalingSpec(target_utilization_percentage=100)
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def load(arrivals, service_s=2.0) -> Load:
    arrivals = np.asarray(arrivals, float)
    times = np.full(len(arrivals), service_s)
    return Load("f", arrivals, times, times / 2)


def standby(idle_after_s=60.0, **more) -> Replica:
    warmths = Warmths(
        "standby", idle_after_s, {"asleep": 2.0, "standby": 8.0}, {"asleep": 0.5, "standby": 0.25}
    )
    return Replica(Constant(30.0), hourly=3600.0, warmths=warmths, **more)


def test_a_replica_in_standby_wakes_for_a_request_and_rests_again():
    result = simulate(load([100.0, 130.0, 500.0]), standby(), FixedFloor(1), autoscaling=FULL)

    # At 130 it is still hot, from 192 on it rests.
    assert result.waited_s.tolist() == pytest.approx([8.0, 0.0, 8.0])
    assert result.woke.tolist() == [True, False, True]
    assert not result.cold.any()
    assert result.waking_gpu_s == pytest.approx(16.0)
    assert result.busy_gpu_s == pytest.approx(6.0)
    # It starts at 0, in 30 - 8 s; hot and idle from 110 to 130 and from 132 to 192.
    assert result.starting_gpu_s == pytest.approx(22.0)
    assert result.idle_by_warmth["hot"] == pytest.approx(20.0 + 60.0, abs=1.1)
    assert result.idle_by_warmth["standby"] == pytest.approx((100 - 22) + (500 - 192), abs=1.1)
    assert result.cost == pytest.approx(
        22 + 16 + 6 + result.idle_by_warmth["hot"] + 0.25 * result.idle_by_warmth["standby"]
    )


def test_without_a_time_to_rest_a_replica_stays_hot_once_it_was():
    result = simulate(load([100.0, 5000.0]), standby(float("inf")), FixedFloor(1), autoscaling=FULL)

    assert result.woke.tolist() == [True, False]


def test_a_request_to_zero_waits_for_the_whole_cold_start_in_two_parts():
    result = simulate(load([100.0]), standby(), FixedFloor(0), autoscaling=FULL)

    assert result.waited_s.tolist() == pytest.approx([30.0])
    assert result.cold.tolist() == result.woke.tolist() == [True]


def test_requests_that_come_while_a_replica_wakes_wait_for_the_rest():
    result = simulate(load([100.0, 103.0]), standby(concurrency=4), FixedFloor(1), autoscaling=FULL)

    assert result.waited_s.tolist() == pytest.approx([8.0, 5.0])
    assert result.woke.tolist() == [True, True]
    assert result.waking_gpu_s == pytest.approx(8.0)


def test_the_windows_of_a_pool_say_how_warm_its_replicas_rest():
    pool = WarmPoolTemplate.model_validate(
        {
            "windows": [
                {"name": "early", "from": "01:00", "to": "02:00", "replicas": 2, "warmth": "asleep"},
                {"name": "day", "from": "02:00", "to": "03:00", "replicas": 1},
            ]
        }
    )
    floor = PoolFloor(pool, MONDAY, lead=timedelta(seconds=60))
    at = 3600.0 + np.array([600.0, 3600 + 600.0, 3600 + 1200.0])

    result = simulate(load(at), standby(), floor, autoscaling=FULL)

    # Asleep in the first window; ordered to be hot when the second begins.
    assert result.waited_s.tolist() == pytest.approx([2.0, 0.0, 0.0])
    assert result.idle_by_warmth["asleep"] > 3000


def test_warmer_is_dearer_and_quicker():
    arrivals = np.arange(100.0, 40_000.0, 700.0)
    shapes = [
        Warmths("standby", 30.0, {"asleep": 2.0, "standby": 8.0}, {"asleep": 0.5, "standby": 0.25}),
        Warmths("asleep", 30.0, {"asleep": 2.0, "standby": 8.0}, {"asleep": 0.5, "standby": 0.25}),
        Warmths(),
    ]

    results = [
        simulate(load(arrivals), Replica(Constant(30.0), hourly=1.0, warmths=one), FixedFloor(1))
        for one in shapes
    ]

    assert [one.cost for one in results] == sorted(one.cost for one in results)
    waits = [one.waited_s.mean() for one in results]
    assert waits == sorted(waits, reverse=True)
    for one in results:
        assert sum(one.idle_by_warmth.values()) == pytest.approx(one.idle_gpu_s)
        held = one.busy_gpu_s + one.idle_gpu_s + one.starting_gpu_s + one.waking_gpu_s
        assert held == pytest.approx(one.gpu_s)
