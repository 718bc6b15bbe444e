"""Bounds that the autoscaler's decision keeps whatever is measured."""

import math

from hypothesis import given
from hypothesis import strategies as st

from knative.autoscaling import kpa
from knative.autoscaling.annotations import AutoscalingSpec

specs = st.builds(
    kpa.DeciderSpec,
    target=st.sampled_from([0.7, 1.0, 7.0, 70.0]),
    total=st.just(100.0),
    target_burst_capacity=st.sampled_from([-1.0, 0.0, 211.0]),
    stable_window_s=st.sampled_from([6.0, 60.0]),
    panic_threshold=st.sampled_from([1.1, 2.0, 10.0]),
    max_scale_up_rate=st.sampled_from([1.1, 10.0, 1000.0]),
    max_scale_down_rate=st.sampled_from([1.1, 2.0]),
    activation_scale=st.sampled_from([1, 4]),
    scale_down_delay_s=st.sampled_from([0.0, 30.0]),
    reachable=st.booleans(),
)
averages = st.integers(0, 500_000_000).map(lambda millionths: millionths / 1e6)  # as the windows round
observed = st.lists(
    st.tuples(st.sampled_from([0.5, 2.0, 30.0]), st.integers(0, 50), averages, averages), max_size=30
)


@given(spec=specs, observed=observed, at_first=st.integers(0, 5))
def test_limits_hold_and_panic_never_shrinks(spec, observed, at_first):
    now, state = 0.0, kpa.initial_state(at_first, 0.0)
    for passed, ready, stable, panic in observed:
        now += passed
        before = state
        state, result = kpa.step(before, spec, kpa.WindowAverages(ready, stable, panic), now)
        replicas = max(1, ready)
        most = max(math.ceil(spec.max_scale_up_rate * replicas), spec.activation_scale)
        if before.panicking and state.panicking:
            assert state.max_panic_pods >= before.max_panic_pods
        if state.panicking:
            assert result.desired_scale >= state.max_panic_pods
        elif spec.scale_down_delay_s == 0:
            assert result.desired_scale <= most
            if spec.reachable:
                assert result.desired_scale >= math.floor(replicas / spec.max_scale_down_rate)
            if stable > 0:
                assert result.desired_scale >= 1
        if panic / spec.target >= spec.panic_threshold * replicas:
            assert state.panic_since == now
        if spec.target_burst_capacity <= 0:
            assert result.excess_burst_capacity == spec.target_burst_capacity


@given(
    stable=averages,
    more=averages,
    ready=st.integers(0, 50),
    target=st.floats(0.5, 100, allow_nan=False),
)
def test_more_load_never_desires_fewer_replicas(stable, more, ready, target):
    spec = kpa.decider_spec(AutoscalingSpec(target=target), 0, reachable=True)
    _, one = kpa.step(kpa.KpaState(), spec, kpa.WindowAverages(ready, stable, stable), 0.0)
    _, two = kpa.step(kpa.KpaState(), spec, kpa.WindowAverages(ready, stable + more, stable + more), 0.0)
    assert two.desired_scale >= one.desired_scale
