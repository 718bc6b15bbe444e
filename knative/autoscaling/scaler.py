"""From the autoscaler's desired scale to a number of replicas: bounds, initial scale and scale to zero.

Pure: the previous state, the settings, the desired scale and an instant give the next state and the result,
with the instant at which time alone may change it. Sources: scaler.go (bounds, scale to zero) and kpa.go (the
`Active` condition, the serving mode) in pkg/reconciler/autoscaling/kpa of Knative Serving.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from knative.autoscaling.annotations import AutoscalingSpec
from knative.autoscaling.config import DEFAULT_CONFIG, AutoscalerConfig

ACTIVATION_BUFFER_S = 30.0
"""Seconds past its progress deadline after which a Revision that is not ready is scaled to zero."""
DEACTIVATION_PAUSE_S = 3.0
"""Seconds between becoming inactive and the first attempt to scale to zero."""

QUEUED = ("Queued", "Requests to the target are being buffered as resources are provisioned.")
NO_TRAFFIC = ("NoTraffic", "The target is not receiving traffic.")
TIMED_OUT = ("TimedOut", "The target could not be activated.")


class ActiveStatus(StrEnum):
    """The PodAutoscaler's `Active` condition, in Kubernetes' words."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class ServingMode(StrEnum):
    """Whether requests go through the activator (`Proxy`) or to the replicas directly (`Serve`)."""

    SERVE = "Serve"
    PROXY = "Proxy"


@dataclass(frozen=True, slots=True)
class ScalerSpec:
    """The settings of one Revision."""

    autoscaling: AutoscalingSpec
    reachable: bool = True
    progress_deadline_s: float = 600.0
    config: AutoscalerConfig = DEFAULT_CONFIG

    @property
    def min_scale(self) -> int:
        """The Revision's min-scale; 0 while no Route sends requests to it."""
        return self.autoscaling.min_scale if self.reachable else 0

    @property
    def retention_s(self) -> float:
        """Seconds for which the last replica is kept after the Revision became inactive."""
        return self.autoscaling.pod_retention_s if self.reachable else 0.0


@dataclass(frozen=True, slots=True)
class ScalerState:
    """The state between two reconciles."""

    active: ActiveStatus
    active_since: float
    """When `active` last changed."""
    proxy_since: float | None
    """Since when the activator has been in the request path; None: it is not."""
    initialized: bool = False
    """Whether the Revision has ever had as many ready replicas as its initial scale."""
    reason: str = QUEUED[0]
    message: str = QUEUED[1]


@dataclass(frozen=True, slots=True)
class ScalerResult:
    """The result of a reconcile."""

    replicas: int | None
    """The number of replicas to have; None: leave it as it is."""
    mode: ServingMode
    recheck_at: float | None
    """When time alone may change the result; None: never."""


def initial_state(now: float) -> ScalerState:
    """The state of a new Revision: activating, with the activator in the path."""
    return ScalerState(ActiveStatus.UNKNOWN, now, now)


def restored_state(now: float, *, replicas: int) -> ScalerState:
    """The state after a restart of a Revision that had a scale of `replicas` before it."""
    if replicas:
        return ScalerState(ActiveStatus.UNKNOWN, now, now, initialized=True)
    reason, message = NO_TRAFFIC
    return ScalerState(ActiveStatus.FALSE, now, now, initialized=True, reason=reason, message=message)


@dataclass(frozen=True, slots=True)
class _Scale:
    """`effective` decides about the condition; None while the desired scale is unknown."""

    effective: int | None
    replicas: int | None
    recheck_at: float | None = None


def _bounded(scale: int, least: int, most: int | None) -> int:
    if scale < least:
        return least
    return scale if most is None else min(scale, most)


def _towards_zero(spec: ScalerSpec, state: ScalerState, now: float) -> _Scale:  # noqa: PLR0911 one for each rule
    """The rules for a Revision whose desired scale is zero."""
    if not spec.config.enable_scale_to_zero:
        return _Scale(1, 1)
    lasted = now - state.active_since
    if state.active is ActiveStatus.UNKNOWN:
        deadline = spec.progress_deadline_s + ACTIVATION_BUFFER_S
        if lasted > deadline:
            return _Scale(0, 0)
        return _Scale(None, None, state.active_since + deadline)
    if state.active is ActiveStatus.TRUE:
        window = spec.autoscaling.window_s
        if lasted >= window:
            return _Scale(0, None, now + DEACTIVATION_PAUSE_S)
        return _Scale(1, 1, state.active_since + window)
    grace, retention = spec.config.scale_to_zero_grace_period_s, spec.retention_s
    if lasted >= max(grace, retention):
        return _Scale(0, 0)
    if lasted < retention:
        return _Scale(0, None, state.active_since + retention)
    proxied = 0.0 if state.proxy_since is None else now - state.proxy_since
    if proxied >= grace:  # the fast path: requests already go through the activator
        return _Scale(0, 0)
    return _Scale(0, None, now + grace - proxied)


def _scale(spec: ScalerSpec, state: ScalerState, desired_scale: int | None, now: float) -> _Scale:
    if desired_scale is None and state.active is not ActiveStatus.UNKNOWN:
        return _Scale(None, None)
    least = spec.min_scale
    initial = spec.autoscaling.initial_scale
    if initial > 1 and not state.initialized and spec.reachable:
        least = max(initial, least)
    bounded = _bounded(-1 if desired_scale is None else desired_scale, least, spec.autoscaling.max_scale)
    return _Scale(bounded, bounded) if bounded > 0 else _towards_zero(spec, state, now)


def _condition(
    spec: ScalerSpec, state: ScalerState, want: int | None, ready: int
) -> tuple[ActiveStatus, tuple[str, str], bool]:
    """The next `Active` condition, its reason and message, and whether the initial scale has been reached."""
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
    desired_scale: int | None,
    excess_burst_capacity: int,
    ready: int,
    now: float,
) -> tuple[ScalerState, ScalerResult]:
    """Scale a Revision at the instant `now` (seconds).

    Args:
        spec: its settings.
        state: the state that the previous reconcile returned.
        desired_scale: that of the latest decision, before bounds; None: there has been no data for one.
        excess_burst_capacity: that of the latest decision.
        ready: replicas that are running and ready.
        now: the instant.
    """
    scaled = _scale(spec, state, desired_scale, now)
    want = scaled.effective
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
    recheck_at = scaled.recheck_at
    if recheck_at is not None and state.active is ActiveStatus.UNKNOWN and active is ActiveStatus.TRUE:
        # Activated without any demand, a floor that was withdrawn while its replica started: it may go to
        # zero after a window. On a cluster the change of the status brings the next reconcile.
        recheck_at = now + spec.autoscaling.window_s
    return after, ScalerResult(scaled.replicas, mode, recheck_at)
