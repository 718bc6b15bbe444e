"""Bounds and scale to zero: the cases of Knative's own scaler tests, and properties that always hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knative.autoscaling.annotations import AutoscalingSpec
from knative.autoscaling.config import AutoscalerConfig
from knative.autoscaling.scaler import (
    ActiveStatus,
    ScalerSpec,
    ScalerState,
    ServingMode,
    initial_state,
    reconcile,
    restored_state,
)

NOW, GRACE, WINDOW = 100_000.0, 60.0, 300.0
ACTIVE, INACTIVE, ACTIVATING = ActiveStatus.TRUE, ActiveStatus.FALSE, ActiveStatus.UNKNOWN
HOLD = None


def scale(
    desired, *, active=ACTIVE, lasted=0.0, proxied=None, initialized=True, reachable=True, ready=1, config=None,
    deadline=120.0, **autoscaling,
):  # fmt: skip
    spec = ScalerSpec(
        AutoscalingSpec(**({"window_s": WINDOW} | autoscaling)),
        reachable,
        deadline,
        config or AutoscalerConfig(scale_to_zero_grace_period_s=GRACE),
    )
    state = ScalerState(active, NOW - lasted, None if proxied is None else NOW - proxied, initialized)
    return reconcile(spec, state, desired_scale=desired, excess_burst_capacity=-1, ready=ready, now=NOW)


CASES = {
    "just before the window ends one stays": ({"desired": 0, "lasted": WINDOW - 1}, 1),
    "of many replicas one stays until the window ends": ({"desired": 0, "lasted": WINDOW - 1, "ready": 10}, 1),
    "a window of its own counts": ({"desired": 0, "lasted": 99, "window_s": 100}, 1),
    "after the window it is marked inactive first": ({"desired": 0, "lasted": WINDOW}, HOLD),
    "after its own window as well": ({"desired": 0, "lasted": 100, "window_s": 100}, HOLD),
    "inactive for the grace period": ({"desired": 0, "active": INACTIVE, "lasted": GRACE}, 0),
    "inactive for less": ({"desired": 0, "active": INACTIVE, "lasted": GRACE - 1}, HOLD),
    "inactive for less, in proxy mode for less": (
        {"desired": 0, "active": INACTIVE, "lasted": GRACE - 1, "proxied": GRACE - 1}, HOLD,
    ),
    "inactive for less, in proxy mode long enough": (
        {"desired": 0, "active": INACTIVE, "lasted": GRACE - 1, "proxied": GRACE}, 0,
    ),
    "a retention that is over does not stand in the way": (
        {"desired": 0, "active": INACTIVE, "lasted": GRACE - 1, "proxied": GRACE, "pod_retention_s": 42}, 0,
    ),
    "a retention that is not over does": (
        {"desired": 0, "active": INACTIVE, "lasted": GRACE, "proxied": GRACE, "pod_retention_s": 2 * GRACE}, HOLD,
    ),
    "a retention as long as the grace": ({"desired": 0, "active": INACTIVE, "lasted": GRACE, "pod_retention_s": GRACE}, 0),
    "unreachable: no retention": (
        {"desired": 0, "active": INACTIVE, "lasted": GRACE, "reachable": False, "pod_retention_s": 600}, 0,
    ),
    "unreachable: the grace holds": (
        {"desired": 0, "active": INACTIVE, "lasted": GRACE - 1, "reachable": False, "pod_retention_s": 600}, HOLD,
    ),
    "with the activator for good": (
        {"desired": 0, "active": INACTIVE, "lasted": GRACE, "target_burst_capacity": -1}, 0,
    ),
    "activating: it is waited for": ({"desired": 0, "active": ACTIVATING, "lasted": 75, "ready": 0}, HOLD),
    "activating past the deadline": ({"desired": 0, "active": ACTIVATING, "lasted": 151, "ready": 0}, 0),
    "a deadline of its own": ({"desired": 0, "active": ACTIVATING, "lasted": 36, "ready": 0, "deadline": 5.0}, 0),
    "down to the floor": ({"desired": 0, "active": INACTIVE, "lasted": GRACE - 1, "min_scale": 2, "ready": 10}, 2),
    "down to the floor later": ({"desired": 0, "active": INACTIVE, "lasted": GRACE, "min_scale": 2, "ready": 10}, 2),
    "unreachable: no floor": (
        {"desired": 0, "active": INACTIVE, "lasted": GRACE, "min_scale": 2, "reachable": False, "ready": 10}, 0,
    ),
    "up": ({"desired": 10}, 10),
    "up to the maximum": ({"desired": 10, "max_scale": 8}, 8),
    "up from inactive": ({"desired": 10, "active": INACTIVE, "lasted": GRACE / 2}, 10),
    "inactive and unknown": ({"desired": None, "active": INACTIVE, "ready": 0}, HOLD),
    "active and unknown": ({"desired": None, "ready": 12}, HOLD),
    "activating and unknown, with a floor": ({"desired": None, "active": ACTIVATING, "min_scale": 3, "ready": 0}, 3),
    "initial scale attained": ({"desired": 0, "lasted": 120, "initial_scale": 2, "ready": 2}, 1),
    "initial scale not attained": (
        {"desired": 1, "active": ACTIVATING, "initial_scale": 2, "initialized": False, "ready": 0}, 2,
    ),
    "unreachable: no initial scale": (
        {"desired": 0, "lasted": 120, "initial_scale": 2, "initialized": False, "reachable": False, "ready": 2}, 1,
    ),
    "no scale to zero": ({"desired": 0, "lasted": 1_000, "config": AutoscalerConfig(enable_scale_to_zero=False)}, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_knatives_cases(name):
    given_, want = CASES[name]
    given_ = dict(given_)
    _, result = scale(given_.pop("desired"), **given_)
    assert result.replicas == want


CONDITIONS = [
    # desired, ready, floor, before -> after
    (0, 5, 0, {"active": ACTIVE, "lasted": WINDOW}, INACTIVE),
    (5, 1, 2, {"active": ACTIVE}, ACTIVATING),
    (5, 2, 2, {"active": ACTIVATING}, ACTIVE),
    (None, 0, 0, {"active": INACTIVE}, INACTIVE),
    (None, 0, 0, {"active": ACTIVATING}, ACTIVATING),
    (None, 0, 0, {"active": ACTIVE}, ACTIVATING),
    (None, 1, 0, {"active": INACTIVE}, INACTIVE),
    (None, 1, 0, {"active": ACTIVATING}, ACTIVE),
    (None, 2, 2, {"active": ACTIVE}, ACTIVE),
    (None, 0, 0, {"active": ACTIVATING, "initial_scale": 0, "initialized": False}, INACTIVE),
]


@pytest.mark.parametrize(("desired", "ready", "floor", "before", "after"), CONDITIONS)
def test_the_active_condition(desired, ready, floor, before, after):
    state, _ = scale(desired, ready=ready, min_scale=floor, **before)
    assert state.active is after
    assert state.active_since == (NOW if after is not before["active"] else NOW - before.get("lasted", 0))


def test_a_start_that_failed_says_so():
    state, _ = scale(0, active=ACTIVATING, lasted=151, ready=0)
    assert (state.active, state.reason) == (INACTIVE, "TimedOut")


def test_requests_bypass_the_activator_only_with_capacity_to_spare():
    spec, state = ScalerSpec(AutoscalingSpec()), initial_state(NOW)
    for capacity, mode in [(-1, ServingMode.PROXY), (0, ServingMode.SERVE)]:
        _, result = reconcile(spec, state, desired_scale=2, excess_burst_capacity=capacity, ready=2, now=NOW)
        assert result.mode is mode
    state, result = reconcile(
        spec, restored_state(NOW, replicas=0), desired_scale=0, excess_burst_capacity=5, ready=0, now=NOW
    )
    assert result.mode is ServingMode.PROXY


specs = st.builds(
    ScalerSpec,
    st.builds(
        AutoscalingSpec,
        min_scale=st.integers(0, 5),
        max_scale=st.none() | st.integers(5, 9),
        initial_scale=st.integers(1, 5),
        pod_retention_s=st.sampled_from([0.0, 20.0, 90.0]),
        window_s=st.sampled_from([6.0, 60.0]),
    ),
    st.booleans(),
    st.just(100.0),
)
steps = st.lists(
    st.tuples(st.floats(0, 120), st.none() | st.integers(0, 12), st.integers(0, 12), st.integers(-9, 9)),
    max_size=40,
)


@given(spec=specs, steps=steps, restored=st.booleans())
def test_the_result_stays_within_bounds_and_reaches_zero_by_the_rules(spec, steps, restored):
    now = 0.0
    state = restored_state(now, replicas=1) if restored else initial_state(now)
    for passed, desired, ready, capacity in steps:
        now += passed
        before = state
        state, result = reconcile(
            spec, before, desired_scale=desired, excess_burst_capacity=capacity, ready=ready, now=now
        )
        assert state.active_since <= now
        if result.replicas is not None:
            assert spec.min_scale <= result.replicas
            assert spec.autoscaling.max_scale is None or result.replicas <= spec.autoscaling.max_scale
        if result.replicas == 0:
            assert not desired
            assert before.active is not ACTIVE
            if before.active is INACTIVE:
                assert now - before.active_since >= spec.retention_s
        if result.recheck_at is not None:
            assert result.recheck_at >= now or before.active is ACTIVATING
        if desired:
            assert result.replicas
        again, same = reconcile(
            spec, state, desired_scale=desired, excess_burst_capacity=capacity, ready=ready, now=now
        )
        assert again.initialized >= state.initialized
        if (
            desired and state.initialized == before.initialized
        ):  # the initial scale counts until it is reached
            assert (again, same) == (state, result)  # settled
