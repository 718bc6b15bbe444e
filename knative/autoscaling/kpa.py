"""The Knative Pod Autoscaler's (KPA's) decision: how many replicas the averages of both windows require.

Pure: `step` takes the previous state, the settings, the averages and an instant, and returns the next state
and the desired scale. Bounds (min-scale, max-scale) and scale to zero are applied afterwards, by
`knative.autoscaling.scaler`. Sources: pkg/autoscaler/scaling/autoscaler.go and
pkg/reconciler/autoscaling/resources/{target,decider,metric}.go of Knative Serving.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from knative.autoscaling.annotations import AutoscalingSpec, Metric
from knative.autoscaling.config import DEFAULT_CONFIG, TARGET_MIN, AutoscalerConfig
from knative.autoscaling.windows import MaxWindow

TICK_S = 2.0
"""Seconds between two decisions."""


@dataclass(frozen=True, slots=True)
class ScalingTarget:
    """The metric's target value for one replica, and its value at 100 % utilisation (`total`)."""

    target: float
    total: float


def resolve_target(
    spec: AutoscalingSpec, container_concurrency: int, config: AutoscalerConfig = DEFAULT_CONFIG
) -> ScalingTarget:
    """The target of a Revision; a `container_concurrency` of 0 is no limit."""
    if spec.metric is Metric.RPS:
        total = config.rps_target_default if spec.target is None else spec.target
        fraction = config.rps_target_fraction
    else:
        limit = float(container_concurrency) or None
        if spec.target is None:
            total = config.container_concurrency_target_default if limit is None else limit
        else:
            total = spec.target if limit is None else min(spec.target, limit)
        fraction = config.container_concurrency_target_fraction
    if spec.target_utilization_percentage is not None:
        fraction = spec.target_utilization_percentage / 100.0
    return ScalingTarget(max(TARGET_MIN, total * fraction), total)


def panic_window_s(stable_window_s: float, percentage: float) -> int:
    """The panic window's length in whole seconds, at least one (halves round up)."""
    return max(1, math.floor(stable_window_s * percentage / 100.0 + 0.5))


@dataclass(frozen=True, slots=True)
class DeciderSpec:
    """The settings of a decision (`DeciderSpec` in pkg/autoscaler/scaling/multiscaler.go)."""

    target: float
    total: float
    target_burst_capacity: float
    stable_window_s: float
    panic_threshold: float
    """Ratio of desired to ready replicas from which on the autoscaler panics; 200 % is 2."""
    max_scale_up_rate: float
    max_scale_down_rate: float
    activation_scale: int
    scale_down_delay_s: float
    reachable: bool

    def pods_for(self, average: float) -> int:
        """Replicas that an average of the metric requires."""
        return math.ceil(average / self.target)


def decider_spec(
    spec: AutoscalingSpec,
    container_concurrency: int,
    *,
    reachable: bool,
    config: AutoscalerConfig = DEFAULT_CONFIG,
) -> DeciderSpec:
    """The settings of a Revision's decisions."""
    target = resolve_target(spec, container_concurrency, config)
    return DeciderSpec(
        target=target.target,
        total=target.total,
        target_burst_capacity=spec.target_burst_capacity,
        stable_window_s=spec.window_s,
        panic_threshold=spec.panic_threshold_percentage / 100.0,
        max_scale_up_rate=config.max_scale_up_rate,
        max_scale_down_rate=config.max_scale_down_rate,
        activation_scale=spec.activation_scale,
        scale_down_delay_s=spec.scale_down_delay_s,
        reachable=reachable,
    )


@dataclass(frozen=True, slots=True)
class KpaState:
    """The state between two decisions."""

    panic_since: float | None = None
    """When the panic threshold was last exceeded; None: stable mode."""
    max_panic_pods: int = 0
    delayed: MaxWindow | None = None

    @property
    def panicking(self) -> bool:
        """Whether the panic window counts and the scale may not fall."""
        return self.panic_since is not None


@dataclass(frozen=True, slots=True)
class WindowAverages:
    """The ready replicas, and the scaling metric's averages over the stable and the panic window."""

    ready: int
    stable: float
    panic: float


@dataclass(frozen=True, slots=True)
class ScaleResult:
    """The result of a decision, before bounds (`ScaleResult` in multiscaler.go)."""

    desired_scale: int
    excess_burst_capacity: int


def initial_state(ready: int, now: float) -> KpaState:
    """A new autoscaler's state: with several ready replicas it panics, so as not to shrink without data."""
    return KpaState(panic_since=now if ready > 1 else None, max_panic_pods=ready)


def initial_excess_burst_capacity(spec: AutoscalingSpec, total: float) -> int:
    """Requests beyond the target burst that the initial scale could take; before the first decision."""
    if spec.target_burst_capacity in (-1, 0):
        return int(spec.target_burst_capacity)
    return int(spec.initial_scale * total - spec.target_burst_capacity)


def excess_burst_capacity(spec: DeciderSpec, averages: WindowAverages) -> int:
    """Requests beyond the target burst that fit at once; negative keeps the activator in the request path."""
    if spec.target_burst_capacity == 0:
        return 0
    if spec.target_burst_capacity < 0:
        return -1
    return math.floor(averages.ready * spec.total - spec.target_burst_capacity - averages.panic)


def step(
    state: KpaState, spec: DeciderSpec, averages: WindowAverages, now: float
) -> tuple[KpaState, ScaleResult]:
    """Decide at the instant `now` (seconds)."""
    ready = max(1, averages.ready)
    most = math.ceil(spec.max_scale_up_rate * ready)
    least = math.floor(ready / spec.max_scale_down_rate) if spec.reachable else 0
    stable_desired, panic_desired = spec.pods_for(averages.stable), spec.pods_for(averages.panic)
    stable = min(max(stable_desired, least), most)
    panic = min(max(panic_desired, least), most)
    if spec.activation_scale > 1:
        stable = max(stable, spec.activation_scale) if stable_desired > 0 else stable
        panic = max(panic, spec.activation_scale) if panic_desired > 0 else panic

    since, max_panic_pods = state.panic_since, state.max_panic_pods
    if panic_desired / ready >= spec.panic_threshold:
        since = now
    elif since is not None and since + spec.stable_window_s < now:
        since, max_panic_pods = None, 0

    desired = stable
    if since is not None:
        desired = max_panic_pods = max(max_panic_pods, stable, panic)

    delayed = None
    if spec.scale_down_delay_s > 0:
        size = math.ceil(spec.scale_down_delay_s / TICK_S)
        before = state.delayed.maxima if state.delayed else ()
        delayed = MaxWindow(size, before)
        if spec.reachable:
            delayed = delayed.record(math.floor(math.floor(now) / TICK_S), desired)
            desired = delayed.current if delayed.current is not None else desired

    return KpaState(since, max_panic_pods, delayed), ScaleResult(
        desired, excess_burst_capacity(spec, averages)
    )
