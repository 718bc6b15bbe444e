"""From a wish to a number of replicas: bounds, initial scale and the way down to zero.

Pure: the state before, the settings, what was observed and an instant give the state after and the outcome,
with the instant at which to look again where time alone would change it. Sources: scaler.go (bounds, scale
to zero) and kpa.go (the `Active` condition, the way of the requests) in pkg/reconciler/autoscaling/kpa.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from knative.autoscaling.annotations import AutoscalingSpec
from knative.autoscaling.config import DEFAULT_CONFIG, Config

ACTIVATION_BUFFER_S = 30.0
"""A start that exceeds its progress deadline is given up this much later."""
DEACTIVATION_PAUSE_S = 3.0
"""Between becoming inactive and the first attempt to remove the last replica."""

QUEUED = ("Queued", "Requests to the target are being buffered as resources are provisioned.")
NO_TRAFFIC = ("NoTraffic", "The target is not receiving traffic.")
TIMED_OUT = ("TimedOut", "The target could not be activated.")


class ActiveStatus(StrEnum):
    """The PodAutoscaler's `Active` condition, in Kubernetes' words."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class ServingMode(StrEnum):
    """Whether requests pass the activator (`Proxy`) or go to replicas directly (`Serve`)."""

    SERVE = "Serve"
    PROXY = "Proxy"


@dataclass(frozen=True, slots=True)
class ScalerSpec:
    """The settings of one Revision that count here."""

    autoscaling: AutoscalingSpec
    reachable: bool = True
    progress_deadline_s: float = 600.0
    config: Config = DEFAULT_CONFIG

    @property
    def min_scale(self) -> int:
        """The floor; none for a Revision that no route leads to."""
        return self.autoscaling.min_scale if self.reachable else 0

    @property
    def retention_s(self) -> float:
        """How long the last replica stays after inactivity."""
        return self.autoscaling.pod_retention_s if self.reachable else 0.0


@dataclass(frozen=True, slots=True)
class ScalerState:
    """What one reconcile leaves to the next."""

    active: ActiveStatus
    active_since: float
    """When `active` last changed."""
    proxy_since: float | None
    """Since when the activator has been in the path; None: it is not."""
    initialized: bool = False
    """The Revision has once had as many ready replicas as its initial scale asks for."""
    reason: str = QUEUED[0]
    message: str = QUEUED[1]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to do now."""

    replicas: int | None
    """How many replicas there should be; None: leave what is there."""
    mode: ServingMode
    recheck_at: float | None
    """When time alone may change the outcome."""


def initial_state(now: float) -> ScalerState:
    """A new Revision's state: activating, behind the activator."""
    return ScalerState(ActiveStatus.UNKNOWN, now, now)


def restored_state(now: float, *, replicas: int) -> ScalerState:
    """The state of a Revision that was there before a restart and was meant to have `replicas`."""
    if replicas:
        return ScalerState(ActiveStatus.UNKNOWN, now, now, initialized=True)
    reason, message = NO_TRAFFIC
    return ScalerState(ActiveStatus.FALSE, now, now, initialized=True, reason=reason, message=message)


@dataclass(frozen=True, slots=True)
class _Scaled:
    """`status` is what the condition is computed from: None when the wish is still unknown."""

    status: int | None
    replicas: int | None
    recheck_at: float | None = None


def _bounded(wish: int, least: int, most: int | None) -> int:
    if wish < least:
        return least
    return wish if most is None else min(wish, most)


def _towards_zero(spec: ScalerSpec, state: ScalerState, now: float) -> _Scaled:  # noqa: PLR0911 one for each rule
    """The rules for a Revision that nothing wants any more."""
    if not spec.config.enable_scale_to_zero:
        return _Scaled(1, 1)
    lasted = now - state.active_since
    if state.active is ActiveStatus.UNKNOWN:
        deadline = spec.progress_deadline_s + ACTIVATION_BUFFER_S
        if lasted > deadline:
            return _Scaled(0, 0)
        return _Scaled(None, None, state.active_since + deadline)
    if state.active is ActiveStatus.TRUE:
        window = spec.autoscaling.window_s
        if lasted >= window:
            return _Scaled(0, None, now + DEACTIVATION_PAUSE_S)
        return _Scaled(1, 1, state.active_since + window)
    grace, retention = spec.config.scale_to_zero_grace_period_s, spec.retention_s
    if lasted >= max(grace, retention):
        return _Scaled(0, 0)
    if lasted < retention:
        return _Scaled(0, None, state.active_since + retention)
    proxied = 0.0 if state.proxy_since is None else now - state.proxy_since
    if proxied >= grace:  # the fast path: requests already come through the activator
        return _Scaled(0, 0)
    return _Scaled(0, None, now + grace - proxied)


def _scale(spec: ScalerSpec, state: ScalerState, wish: int | None, now: float) -> _Scaled:
    if wish is None and state.active is not ActiveStatus.UNKNOWN:
        return _Scaled(None, None)
    least = spec.min_scale
    initial = spec.autoscaling.initial_scale
    if initial > 1 and not state.initialized and spec.reachable:
        least = max(initial, least)
    bounded = _bounded(-1 if wish is None else wish, least, spec.autoscaling.max_scale)
    return _Scaled(bounded, bounded) if bounded > 0 else _towards_zero(spec, state, now)


def _condition(
    spec: ScalerSpec, state: ScalerState, want: int | None, ready: int
) -> tuple[ActiveStatus, tuple[str, str], bool]:
    """The new `Active` condition, its reason and message, and whether the initial scale has been reached."""
    needed = max(spec.min_scale, 1 if state.initialized else spec.autoscaling.initial_scale)
    initialized = state.initialized or ready >= needed
    if want == 0 or needed == 0:
        failed = state.active is ActiveStatus.UNKNOWN and needed > 0
        return ActiveStatus.FALSE, TIMED_OUT if failed else NO_TRAFFIC, initialized
    if not want and state.active is ActiveStatus.FALSE:
        return ActiveStatus.FALSE, NO_TRAFFIC, initialized
    if ready < needed:
        return ActiveStatus.UNKNOWN, QUEUED, initialized
    return ActiveStatus.TRUE, ("", ""), initialized


def reconcile(
    spec: ScalerSpec,
    state: ScalerState,
    *,
    wish: int | None,
    excess_burst_capacity: int,
    ready: int,
    now: float,
) -> tuple[ScalerState, Outcome]:
    """Settle a Revision at the instant `now` (seconds).

    Args:
        spec: its settings.
        state: what the reconcile before left.
        wish: what the averages ask for; None: unknown.
        excess_burst_capacity: of the same decision.
        ready: replicas that are running and ready.
        now: the instant.
    """
    scaled = _scale(spec, state, wish, now)
    want = scaled.status
    serve = want is not None and want > 0 and excess_burst_capacity >= 0
    mode = ServingMode.SERVE if serve else ServingMode.PROXY
    active, (reason, message), initialized = _condition(spec, state, want, ready)
    proxy_since = None
    if mode is ServingMode.PROXY:
        proxy_since = now if state.proxy_since is None else state.proxy_since
    after = replace(
        state,
        active=active,
        active_since=state.active_since if active is state.active else now,
        proxy_since=proxy_since,
        initialized=initialized,
        reason=reason,
        message=message,
    )
    return after, Outcome(scaled.replicas, mode, scaled.recheck_at)
