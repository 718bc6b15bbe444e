"""The Knative Pod Autoscaler's decision: how many replicas two averages ask for.

Pure: a step takes the state before, the settings, an observation and an instant, and returns the state after
and the wish. Bounds (min-scale, max-scale) and scale to zero come after it, in `knative.autoscaling.scaler`.
Sources:
pkg/autoscaler/scaling/autoscaler.go, pkg/reconciler/autoscaling/resources/{target,decider,metric}.go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from knative.autoscaling.annotations import AutoscalingSpec, Metric
from knative.autoscaling.config import DEFAULT_CONFIG, TARGET_MIN, Config
from knative.autoscaling.windows import MaxWindow

TICK_S = 2.0
"""How often the autoscaler decides."""
MIN_ACTIVATORS = 2
SAMPLING_Z = 1.96
SAMPLING_VARIANCE = 100.0
SAMPLING_ERROR = 25.0
SMALL_POPULATION = 3


@dataclass(frozen=True, slots=True)
class Target:
    """What one replica should carry (`target`), and could at 100 % utilisation (`total`)."""

    target: float
    total: float


def resolve_target(
    spec: AutoscalingSpec, container_concurrency: int, config: Config = DEFAULT_CONFIG
) -> Target:
    """The target of a Revision. `container_concurrency`: 0 means no limit."""
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
    return Target(max(TARGET_MIN, total * fraction), total)


def panic_window_s(stable_window_s: float, percentage: float) -> int:
    """The panic window's length in whole seconds, at least one (halves round up)."""
    return max(1, math.floor(stable_window_s * percentage / 100.0 + 0.5))


def sample_size(population: int) -> int:
    """How many of `population` pods are asked for their metrics (95 % confidence)."""
    if population <= SMALL_POPULATION:
        return population
    x = SAMPLING_Z**2 * SAMPLING_VARIANCE / SAMPLING_ERROR
    return math.ceil(population * x / (population + x - 1))


def activators_in_path(
    ready: int, total: float, target_burst_capacity: float, activator_capacity: float
) -> int:
    """How many activators a Revision's requests pass on a cluster."""
    if target_burst_capacity == 0:
        return MIN_ACTIVATORS
    capacity = ready * total + max(target_burst_capacity, 0.0)
    return max(MIN_ACTIVATORS, math.ceil(capacity / activator_capacity))


@dataclass(frozen=True, slots=True)
class DeciderSpec:
    """The numbers that a decision rests on."""

    target: float
    total: float
    target_burst_capacity: float
    stable_window_s: float
    panic_threshold: float
    """Wanted over ready replicas from which on the autoscaler panics; 200 % is 2."""
    max_scale_up_rate: float
    max_scale_down_rate: float
    activation_scale: int
    scale_down_delay_s: float
    reachable: bool


def decider_spec(
    spec: AutoscalingSpec, container_concurrency: int, *, reachable: bool, config: Config = DEFAULT_CONFIG
) -> DeciderSpec:
    """The decision's numbers for a Revision."""
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
    """What one decision leaves to the next."""

    panic_since: float | None = None
    """When the panic threshold was last exceeded; None: stable mode."""
    max_panic_pods: int = 0
    delayed: MaxWindow | None = None

    @property
    def panicking(self) -> bool:
        """The panic window rules."""
        return self.panic_since is not None


@dataclass(frozen=True, slots=True)
class Observation:
    """What was measured: replicas that are ready, and both windows' averages of the scaling metric."""

    ready: int
    stable: float
    panic: float


@dataclass(frozen=True, slots=True)
class Wish:
    """What the averages ask for, before bounds."""

    replicas: int
    excess_burst_capacity: int


def initial_state(ready: int, now: float) -> KpaState:
    """A new autoscaler's state: with several replicas it starts in panic, not to shrink for want of data."""
    return KpaState(panic_since=now if ready > 1 else None, max_panic_pods=ready)


def initial_excess_burst_capacity(spec: AutoscalingSpec, total: float) -> int:
    """Excess burst capacity before the first decision."""
    if spec.target_burst_capacity in (-1, 0):
        return int(spec.target_burst_capacity)
    return int(spec.initial_scale * total - spec.target_burst_capacity)


def excess_burst_capacity(spec: DeciderSpec, seen: Observation) -> int:
    """Requests that could come at once beyond the target burst; negative: keep the activator in the path."""
    if spec.target_burst_capacity == 0:
        return 0
    if spec.target_burst_capacity < 0:
        return -1
    return math.floor(seen.ready * spec.total - spec.target_burst_capacity - seen.panic)


def step(state: KpaState, spec: DeciderSpec, seen: Observation, now: float) -> tuple[KpaState, Wish]:
    """Decide at the instant `now` (seconds)."""
    ready = max(1, seen.ready)
    most = math.ceil(spec.max_scale_up_rate * ready)
    least = math.floor(ready / spec.max_scale_down_rate) if spec.reachable else 0
    stable_wish = math.ceil(seen.stable / spec.target)
    panic_wish = math.ceil(seen.panic / spec.target)
    stable = min(max(stable_wish, least), most)
    panic = min(max(panic_wish, least), most)
    if spec.activation_scale > 1:
        stable = max(stable, spec.activation_scale) if stable_wish > 0 else stable
        panic = max(panic, spec.activation_scale) if panic_wish > 0 else panic

    since, max_panic_pods = state.panic_since, state.max_panic_pods
    if panic_wish / ready >= spec.panic_threshold:
        since = now
    elif since is not None and since + spec.stable_window_s < now:
        since, max_panic_pods = None, 0

    wanted = stable
    if since is not None:
        wanted = max_panic_pods = max(max_panic_pods, stable, panic)

    delayed = None
    if spec.scale_down_delay_s > 0:
        size = math.ceil(spec.scale_down_delay_s / TICK_S)
        before = state.delayed.maxima if state.delayed else ()
        delayed = MaxWindow(size, before)
        if spec.reachable:
            delayed = delayed.record(math.floor(math.floor(now) / TICK_S), wanted)
            wanted = delayed.current if delayed.current is not None else wanted

    return KpaState(since, max_panic_pods, delayed), Wish(wanted, excess_burst_capacity(spec, seen))
