"""The HorizontalPodAutoscaler that scales a Revision of class hpa, and its decision over time.

Pure, as `knative.autoscaling.kpa` is: a step takes the state before, the settings, what was measured and an
instant, and
returns the state after and the outcome. Sources: pkg/controller/podautoscaler/horizontal.go and
pkg/apis/autoscaling/v2/defaults.go of Kubernetes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from knative.hpa_spec import HpaSpec
from knative.utilization import CPU, MEMORY, NoProposal, Observation, Proposal, Target, propose

SYNC_S = 15.0
"""How often the controller decides, and how often use is measured."""
DOWNSCALE_STABILIZATION_S = 300.0
SCALE_UP_FACTOR, SCALE_UP_MINIMUM = 2.0, 4.0
POLICY_PERIOD_S = 15.0
"""Where a window is named, growth is counted over this long."""
POLICY_PODS, POLICY_PERCENT = 4, 100


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition of the HorizontalPodAutoscaler."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class HpaState:
    """What one step leaves to the next. Logs are (instant, number) in the order of time."""

    recommended: tuple[tuple[float, int], ...] | None = None
    """What the measurements asked for; None before the first step."""
    grown: tuple[tuple[float, int], ...] = ()
    shrunk: tuple[tuple[float, int], ...] = ()
    findings: Mapping[str, Finding] = field(default_factory=dict)
    """By type."""
    proposal: Proposal | None = None
    """The last one; None while there is none to be had."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to do now."""

    replicas: int
    reason: str = ""
    """Why they are others than before; empty while they aren't."""
    failures: tuple[tuple[str, str], ...] = ()
    """Reasons and texts, where nothing could be proposed."""


def step(state: HpaState, settings: HpaSpec, current: int, seen: Observation) -> tuple[HpaState, Outcome]:
    """Decide at the instant of `seen` in the place of `current` replicas."""
    now = seen.now
    state = _found(
        state, "AbleToScale", "True", "SucceededGetScale",
        "the HPA controller was able to get the target's current scale",
    )  # fmt: skip
    if state.recommended is None:
        state = replace(state, recommended=((now, current),))
    if current == 0:
        state = _found(
            state, "ScalingActive", "False", "ScalingDisabled",
            "scaling is disabled since the replica count of the target is zero",
        )  # fmt: skip
        return state, Outcome(0)
    if current > settings.most:
        return _rescaled(state, settings, (current, settings.most), now, _ABOVE)
    if current < settings.least:
        return _rescaled(state, settings, (current, settings.least), now, _BELOW)
    try:
        proposal = _propose(settings.target, current, seen)
    except _Failure as failure:
        text = f"the HPA was unable to compute the replica count: {failure}"
        state = _found(state, "ScalingActive", "False", failure.reason, text)
        return replace(state, proposal=None), Outcome(current, failures=_told(settings.target, failure))
    metric = _name(settings.target)
    state = _found(
        replace(state, proposal=proposal), "ScalingActive", "True", "ValidMetricFound",
        f"the HPA was able to successfully calculate a replica count from {metric}",
    )  # fmt: skip
    reason = f"{metric} above target" if proposal.replicas > current else "All metrics below target"
    if settings.window_s is None:
        state, desired = _normalized(state, settings, current, proposal.replicas, now)
    else:
        state, desired = _normalized_with_window(state, settings, current, proposal.replicas, now)
    if desired == current:
        return state, Outcome(current)
    return _rescaled(state, settings, (current, desired), now, reason)


_ABOVE = "Current number of replicas above Spec.MaxReplicas"
_BELOW = "Current number of replicas below Spec.MinReplicas"


class _Failure(Exception):  # noqa: N818  # as NoProposal
    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def _told(target: Target, failure: _Failure) -> tuple[tuple[str, str], ...]:
    """The two Events that Kubernetes makes of one failure."""
    what = f"{target.resource} resource" if target.resource in (CPU, MEMORY) else "pods"
    whole = (
        f"invalid metrics (1 invalid out of 1), first error is: failed to get {what} metric value: {failure}"
    )
    return (failure.reason, str(failure)), ("FailedComputeMetricsReplicas", whole)


def _propose(target: Target, current: int, seen: Observation) -> Proposal:
    if target.resource not in (CPU, MEMORY):
        raise _Failure(
            "FailedGetPodsMetric",
            f"unable to get metric {target.resource}: unable to fetch metrics from custom metrics API: "
            "no custom metrics API (custom.metrics.k8s.io) registered",
        )
    try:
        return propose(target, current, seen)
    except NoProposal as problem:
        what = "usage" if target.utilization is None else "utilization"
        text = f"failed to get {target.resource} {what}: {problem}"
        raise _Failure("FailedGetResourceMetric", text) from problem


def _name(target: Target) -> str:
    if target.utilization is None:
        return f"{target.resource} resource"
    return f"{target.resource} resource utilization (percentage of request)"


def _found(state: HpaState, kind: str, status: str, reason: str, message: str) -> HpaState:
    return replace(state, findings={**state.findings, kind: Finding(kind, status, reason, message)})


def _rescaled(
    state: HpaState, settings: HpaSpec, scales: tuple[int, int], now: float, reason: str
) -> tuple[HpaState, Outcome]:
    current, desired = scales
    state = _found(
        state, "AbleToScale", "True", "SucceededRescale",
        f"the HPA controller was able to update the target scale to {desired}",
    )  # fmt: skip
    if settings.window_s is not None:  # else nobody asks
        change = (now, abs(desired - current))
        if desired > current:
            state = replace(state, grown=(*_recent(state.grown, now, POLICY_PERIOD_S), change))
        else:
            state = replace(state, shrunk=(*_recent(state.shrunk, now, POLICY_PERIOD_S), change))
    return state, Outcome(desired, reason)


def _recent(log: Sequence[tuple[float, int]], now: float, window_s: float) -> tuple[tuple[float, int], ...]:
    return tuple((at, number) for at, number in log if at > now - window_s)


_STABILIZED = {
    True: (
        "ScaleUpStabilized",
        "recent recommendations were lower than current one, applying the lowest recent recommendation",
    ),
    False: (
        "ScaleDownStabilized",
        "recent recommendations were higher than current one, applying the highest recent recommendation",
    ),
}
_STEADY = ("ReadyForNewScale", "recommended size matches current size")
_WITHIN = ("DesiredWithinRange", "the desired count is within the acceptable range")
_TOO_FEW = ("TooFewReplicas", "the desired replica count is less than the minimum replica count")
_TOO_MANY = ("TooManyReplicas", "the desired replica count is more than the maximum replica count")
_TOO_FAST_UP = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
_TOO_FAST_DOWN = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
)


def _normalized(
    state: HpaState, settings: HpaSpec, current: int, wanted: int, now: float
) -> tuple[HpaState, int]:
    """Without a window: the highest wish of five minutes, at most double or four, and the bounds."""
    kept = tuple(entry for entry in state.recommended or () if entry[0] >= now - DOWNSCALE_STABILIZATION_S)
    stable = max([wanted, *(number for _, number in kept)])
    state = replace(state, recommended=(*kept, (now, wanted)))
    reason, text = _STABILIZED[False] if stable != wanted else _STEADY
    state = _found(state, "AbleToScale", "True", reason, text)
    fastest = int(max(SCALE_UP_FACTOR * current, SCALE_UP_MINIMUM))
    most, limit = (fastest, _TOO_FAST_UP) if settings.most > fastest else (settings.most, _TOO_MANY)
    if stable < settings.least:
        return _limited(state, _TOO_FEW), settings.least
    if stable > most:
        return _limited(state, limit), most
    return _limited(state, _WITHIN), stable


def _normalized_with_window(
    state: HpaState, settings: HpaSpec, current: int, wanted: int, now: float
) -> tuple[HpaState, int]:
    """With a window: no wish is followed that wasn't there all the while; growth per period has a limit."""
    assert settings.window_s is not None
    kept = _recent(state.recommended or (), now, settings.window_s)
    numbers = [wanted, *(number for _, number in kept)]
    stable = min(max(current, min(numbers)), max(numbers))
    state = replace(state, recommended=(*kept, (now, wanted)))
    reason, text = _STABILIZED[wanted >= current] if stable != wanted else _STEADY
    state = _found(state, "AbleToScale", "True", reason, text)
    grown = sum(number for _, number in _recent(state.grown, now, POLICY_PERIOD_S))
    shrunk = sum(number for _, number in _recent(state.shrunk, now, POLICY_PERIOD_S))
    begun = current - grown + shrunk
    if stable > current:
        doubled = math.ceil(begun * (1 + POLICY_PERCENT / 100))
        fastest = max(current, begun + POLICY_PODS, doubled)
        most, limit = (fastest, _TOO_FAST_UP) if settings.most > fastest else (settings.most, _TOO_MANY)
        if stable > most:
            return _limited(state, limit), most
    elif stable < current:
        slowest = min(current, int(begun * (1 - POLICY_PERCENT / 100)))
        least, limit = (slowest, _TOO_FAST_DOWN) if settings.least < slowest else (settings.least, _TOO_FEW)
        if stable < least:
            return _limited(state, limit), least
    return _limited(state, _WITHIN), stable


def _limited(state: HpaState, why: tuple[str, str]) -> HpaState:
    return _found(state, "ScalingLimited", "False" if why is _WITHIN else "True", *why)
