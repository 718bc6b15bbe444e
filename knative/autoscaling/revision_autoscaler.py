"""One Revision's autoscaler: windows, the KPA's decision, bounds and scale to zero, as one state machine.

Pure but for its own state: instants are arguments, and the caller reads `replicas` and `mode`. The local
platform runs it by the clock, the simulator in virtual time. Instants are seconds on any clock that only
moves forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from knative.autoscaling import kpa, scaler
from knative.autoscaling.annotations import Algorithm, AutoscalingSpec, Metric
from knative.autoscaling.config import DEFAULT_CONFIG, AutoscalerConfig
from knative.autoscaling.scaler import ActiveStatus, ServingMode
from knative.autoscaling.windows import LinearWindow, WeightedWindow

_NEVER = math.inf
WINDOWS: dict[Algorithm, type[LinearWindow]] = {
    Algorithm.LINEAR: LinearWindow,
    Algorithm.WEIGHTED_EXPONENTIAL: WeightedWindow,
}


@dataclass(frozen=True, slots=True)
class RevisionScaling:
    """The settings of one Revision that the autoscaler needs."""

    autoscaling: AutoscalingSpec
    container_concurrency: int = 0
    """Requests that one replica handles at a time; 0: no limit."""
    reachable: bool = True
    """Whether a Route leads to it; else its min-scale is ignored and it shrinks without a rate limit."""
    progress_deadline_s: float = 600.0
    config: AutoscalerConfig = DEFAULT_CONFIG


@dataclass(frozen=True, slots=True)
class ScaleDecision:
    """The scale of a Revision after bounds and the scale-to-zero rules."""

    replicas: int
    """Desired replicas."""
    active: ActiveStatus
    reason: str
    """The condition's reason: `NoTraffic`, `Queued`, `TimedOut`, or empty when active."""
    message: str
    initialized: bool
    """Whether the initial scale has ever been reached (the `ScaleTargetInitialized` condition)."""


def _windows(spec: AutoscalingSpec) -> tuple[LinearWindow, LinearWindow]:
    kind = WINDOWS[spec.algorithm]
    return kind(spec.window_s), kind(kpa.panic_window_s(spec.window_s, spec.panic_window_percentage))


class RevisionAutoscaler:
    """One Revision's settings, windows and state.

    Args:
        spec: the settings.
        now: the instant.
        remembered: the scale that it had before a restart; None: it is new.
    """

    def __init__(self, spec: RevisionScaling, now: float, remembered: int | None) -> None:
        autoscaling = spec.autoscaling
        self.ready = 0
        self.total = 0
        self.recheck_at: float | None = None
        self.mode = ServingMode.PROXY
        if remembered is None:
            self.replicas = autoscaling.initial_scale
            self.desired_scale: int | None = None
            self.scaler = scaler.initial_state(now)
            self.kpa = kpa.KpaState()
        else:
            self.replicas = remembered
            self.desired_scale = None if remembered else 0
            self.scaler = scaler.restored_state(now, replicas=remembered)
            self.kpa = kpa.initial_state(remembered, now)
        self.spec = spec
        self.stable, self.panic = _windows(autoscaling)
        self.adopt(spec, now)
        self.excess_burst_capacity = kpa.initial_excess_burst_capacity(autoscaling, self.decider.total)
        self.decision: ScaleDecision | None = None

    def adopt(self, spec: RevisionScaling, now: float) -> None:
        """Take new settings; the windows keep their content unless metric or algorithm has changed."""
        before, new = self.spec.autoscaling, spec.autoscaling
        if (before.metric, before.algorithm) != (new.metric, new.algorithm):
            self.stable, self.panic = _windows(new)
        else:
            self.stable.resize(new.window_s, now)
            self.panic.resize(kpa.panic_window_s(new.window_s, new.panic_window_percentage), now)
        self.spec = spec
        self.decider = kpa.decider_spec(
            new, spec.container_concurrency, reachable=spec.reachable, config=spec.config
        )
        self.scaler_spec = scaler.ScalerSpec(new, spec.reachable, spec.progress_deadline_s, spec.config)

    def record(self, now: float, *, concurrency: float, requests: float) -> None:
        """Add what was measured in the second that ends at `now`."""
        value = requests if self.spec.autoscaling.metric is Metric.RPS else concurrency
        self.stable.record(now, value)
        self.panic.record(now, value)

    def record_zeros(self, first: int, last: int) -> None:
        """Add that nothing was measured in each of the seconds from `first` to `last`, whole numbers."""
        self.stable.record_zeros(first, last)
        self.panic.record_zeros(first, last)

    def settled_until(self, now: float, *, reporting: bool, until: float = _NEVER) -> float:
        """Until when neither deciding nor reconciling would change anything, if there is no demand.

        Args:
            now: a whole second.
            reporting: whether each second will report 0, as ready replicas do; else none will report.
            until: later instants do not matter.

        Returns:
            The first instant that may bring another decision; `now` itself where that cannot be told.
        """
        state, decider = self.kpa, self.decider
        stable, panic = self.stable.average(now), self.panic.average(now)
        if decider.scale_down_delay_s > 0 or panic or (stable and not reporting):
            return now
        again, result = kpa.step(state, decider, kpa.WindowAverages(self.ready, stable, panic), now)
        in_path = (result.excess_burst_capacity < 0) == (self.excess_burst_capacity < 0)
        if not in_path or (again, result.desired_scale) != (state, self.desired_scale):
            return now
        if state.panic_since is not None:
            until = min(until, state.panic_since + decider.stable_window_s)
        if self.recheck_at is not None:
            until = min(until, self.recheck_at)
        return min(until, self.stable.stays(now, decider.pods_for, until)) if reporting else until

    def decide(self, now: float) -> bool:
        """Decide the desired scale; True if it changed so that a reconcile is due."""
        if self.stable.is_empty(now) and not self.desired_scale:
            return False
        averages = kpa.WindowAverages(self.ready, self.stable.average(now), self.panic.average(now))
        self.kpa, result = kpa.step(self.kpa, self.decider, averages, now)
        mode_changed = (result.excess_burst_capacity < 0) != (self.excess_burst_capacity < 0)
        changed = result.desired_scale != self.desired_scale or mode_changed
        self.desired_scale, self.excess_burst_capacity = result.desired_scale, result.excess_burst_capacity
        return changed

    def reconcile(self, now: float) -> None:
        """Apply bounds and the scale-to-zero rules to the desired scale."""
        self.scaler, result = scaler.reconcile(
            self.scaler_spec,
            self.scaler,
            desired_scale=self.desired_scale,
            excess_burst_capacity=self.excess_burst_capacity,
            ready=self.ready,
            now=now,
        )
        self.mode, self.recheck_at = result.mode, result.recheck_at
        if result.replicas is not None:
            self.replicas = result.replicas

    def is_awake(self, now: float) -> bool:
        """Whether time alone can change its scale; otherwise only a report or new settings can."""
        return bool(
            self.ready
            or self.total
            or self.replicas
            or self.desired_scale
            or self.recheck_at is not None
            or not self.stable.is_empty(now)
        )

    def current(self) -> ScaleDecision:
        """The latest decision."""
        state = self.scaler
        return ScaleDecision(self.replicas, state.active, state.reason, state.message, state.initialized)
