"""One Revision's autoscaler: windows, the KPA's wish, bounds and scale to zero, as one state machine.

Pure but for its own state: instants are handed over, effects are read from `replicas` and `mode`. The
platform on one machine runs it by the clock, the simulator in virtual time. Instants are seconds on any
clock that only moves forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from knative.autoscaling import kpa, scaler
from knative.autoscaling.annotations import Algorithm, AutoscalingSpec, Metric
from knative.autoscaling.config import DEFAULT_CONFIG, Config
from knative.autoscaling.scaler import ActiveStatus, ServingMode
from knative.autoscaling.windows import LinearWindow, WeightedWindow

WINDOWS: dict[Algorithm, type[LinearWindow]] = {
    Algorithm.LINEAR: LinearWindow,
    Algorithm.WEIGHTED_EXPONENTIAL: WeightedWindow,
}


@dataclass(frozen=True, slots=True)
class RevisionScaling:
    """What the autoscaler needs to know of one Revision."""

    autoscaling: AutoscalingSpec
    container_concurrency: int = 0
    """Requests that one replica handles at a time; 0: no limit."""
    reachable: bool = True
    """Some route leads to it; else its floor is ignored and it shrinks without a rate limit."""
    progress_deadline_s: float = 600.0
    config: Config = DEFAULT_CONFIG


@dataclass(frozen=True, slots=True)
class ScaleDecision:
    """What a Revision should have now, after bounds and the scale-to-zero rules."""

    replicas: int
    """Desired replicas."""
    active: ActiveStatus
    reason: str
    """The condition's reason: `NoTraffic`, `Queued`, `TimedOut`, or empty when active."""
    message: str
    initialized: bool
    """The initial scale has been reached once (the `ScaleTargetInitialized` condition)."""


def _windows(spec: AutoscalingSpec) -> tuple[LinearWindow, LinearWindow]:
    kind = WINDOWS[spec.algorithm]
    return kind(spec.window_s), kind(kpa.panic_window_s(spec.window_s, spec.panic_window_percentage))


class RevisionAutoscaler:
    """One Revision: its settings, its windows and what the last decision left.

    Args:
        spec: the settings.
        now: the instant.
        remembered: the replicas that it was meant to have before a restart; None: it is new.
    """

    def __init__(self, spec: RevisionScaling, now: float, remembered: int | None) -> None:
        autoscaling = spec.autoscaling
        self.ready = 0
        self.total = 0
        self.recheck_at: float | None = None
        self.mode = ServingMode.PROXY
        if remembered is None:
            self.replicas = autoscaling.initial_scale
            self.wish: int | None = None
            self.scaler = scaler.initial_state(now)
            self.kpa = kpa.KpaState()
        else:
            self.replicas = remembered
            self.wish = None if remembered else 0
            self.scaler = scaler.restored_state(now, replicas=remembered)
            self.kpa = kpa.initial_state(remembered, now)
        self.spec = spec
        self.stable, self.panic = _windows(autoscaling)
        self.adopt(spec, now)
        self.excess_burst_capacity = kpa.initial_excess_burst_capacity(autoscaling, self.decider.total)
        self.decision: ScaleDecision | None = None

    def adopt(self, spec: RevisionScaling, now: float) -> None:
        """Take (changed) settings; windows keep what they hold unless what they measure has changed."""
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
        """Take what was measured in the second that ends at `now`."""
        value = requests if self.spec.autoscaling.metric is Metric.RPS else concurrency
        self.stable.record(now, value)
        self.panic.record(now, value)

    def decide(self, now: float) -> bool:
        """Renew the wish; True when a reconcile is due because of it."""
        if self.stable.is_empty(now) and not self.wish:
            return False
        seen = kpa.Observation(self.ready, self.stable.average(now), self.panic.average(now))
        self.kpa, wish = kpa.step(self.kpa, self.decider, seen, now)
        changed = wish.replicas != self.wish or (wish.excess_burst_capacity < 0) != (
            self.excess_burst_capacity < 0
        )
        self.wish, self.excess_burst_capacity = wish.replicas, wish.excess_burst_capacity
        return changed

    def reconcile(self, now: float) -> None:
        """Apply bounds and the scale-to-zero rules to the wish."""
        self.scaler, outcome = scaler.reconcile(
            self.scaler_spec,
            self.scaler,
            wish=self.wish,
            excess_burst_capacity=self.excess_burst_capacity,
            ready=self.ready,
            now=now,
        )
        self.mode, self.recheck_at = outcome.mode, outcome.recheck_at
        if outcome.replicas is not None:
            self.replicas = outcome.replicas

    def is_awake(self, now: float) -> bool:
        """Time alone can change something; else only a report or a change of settings does."""
        return bool(
            self.ready
            or self.total
            or self.replicas
            or self.wish
            or self.recheck_at is not None
            or not self.stable.is_empty(now)
        )

    def current(self) -> ScaleDecision:
        """The latest decision."""
        state = self.scaler
        return ScaleDecision(self.replicas, state.active, state.reason, state.message, state.initialized)
