"""The HorizontalPodAutoscaler's settings that a Revision of class hpa stands for (pure).

After pkg/reconciler/autoscaling/hpa/resources/hpa.go of Knative Serving, with the defaults and the refusals
of Kubernetes (pkg/apis/autoscaling).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from knative.autoscaling import annotations as vocabulary
from knative.autoscaling.annotations import MAX_INT32, FieldError, lookup
from knative.autoscaling.config import DEFAULT_CONFIG, HPA, Config
from knative.literals import parse_duration
from knative.utilization import CPU, MEMORY, Target

DEFAULT_UTILIZATION = 80
"""Percent of the CPU request, where no target is named."""
_DEFAULT_TARGET = Target(CPU, utilization=DEFAULT_UTILIZATION)


class Unusable(ValueError):  # noqa: N818  # says what it is
    """Kubernetes refuses this HorizontalPodAutoscaler; the text says why, in its words."""


@dataclass(frozen=True, slots=True)
class HpaSpec:
    """A HorizontalPodAutoscaler's settings, Kubernetes' defaults filled in."""

    target: Target = _DEFAULT_TARGET
    least: int = 1
    most: int = MAX_INT32
    window_s: float | None = None
    """Stabilisation in both directions. None: five minutes on the way down, none on the way up."""


def spec(
    annotations: Mapping[str, str], config: Config = DEFAULT_CONFIG, *, reachable: bool = True
) -> HpaSpec:
    """The settings for a PodAutoscaler's annotations (which name its class and metric).

    Raises:
        Unusable: Kubernetes would refuse them.
    """
    least = _integer(annotations, vocabulary.MIN_SCALE, config.min_scale) if reachable else 0
    most = _integer(annotations, vocabulary.MAX_SCALE, config.max_scale or 0) or MAX_INT32
    least = max(1, least)
    if most < least:
        raise Unusable(
            f"spec.maxReplicas: Invalid value: {most}: must be greater than or equal to `minReplicas`"
        )
    window = annotations.get(vocabulary.WINDOW)
    return HpaSpec(
        _target(annotations), least, most, None if window is None else float(parse_duration(window) or 0)
    )


def _integer(annotations: Mapping[str, str], key: str, default: int) -> int:
    found = lookup(annotations, key)
    return default if found is None else int(found[1])


def _target(annotations: Mapping[str, str]) -> Target:
    """Without a target the metric doesn't matter: the API server's default is CPU at 80 %."""
    text = annotations.get(vocabulary.TARGET)
    if text is None:
        return _DEFAULT_TARGET
    metric = annotations.get(vocabulary.METRIC, CPU)
    if metric == CPU:
        return Target(CPU, utilization=math.ceil(float(text)))
    average = int(float(text)) * 1000 * (1024**2 if metric == MEMORY else 1)
    if average <= 0:
        kind = "resource" if metric == MEMORY else "pods"
        raise Unusable(f"spec.metrics[0].{kind}.target.averageValue: Invalid value: 0: must be positive")
    return Target(metric, average=average)


def warnings(annotations: Mapping[str, str], config: Config = DEFAULT_CONFIG) -> tuple[FieldError, ...]:
    """What is accepted for class hpa and nobody means, in annotations that `vocabulary.validate` accepts."""
    if annotations.get(vocabulary.CLASS, config.pod_autoscaler_class) != HPA:
        return ()
    found = []
    metric, target = annotations.get(vocabulary.METRIC, CPU), annotations.get(vocabulary.TARGET)
    if target is None and metric != CPU:
        found.append(
            FieldError(
                f"metric={metric} without a target is not used: "
                f"Kubernetes takes cpu at {DEFAULT_UTILIZATION} %",
                (vocabulary.METRIC,),
            )
        )
    elif metric not in (CPU, MEMORY):
        found.append(
            FieldError(
                f"metric={metric} can't be had here: there is no custom metrics API, nothing will be scaled",
                (vocabulary.METRIC,),
            )
        )
    least = lookup(annotations, vocabulary.MIN_SCALE)
    if least is not None and int(least[1]) == 0:
        found.append(FieldError(f"class {HPA} never scales to zero, min-scale=0 counts as 1", (least[0],)))
    if vocabulary.initial_scale(annotations, config) == 0:
        found.append(
            FieldError(
                f"class {HPA} never scales what is at zero: with initial-scale=0 there will be no replica",
                (vocabulary.INITIAL_SCALE,),
            )
        )
    try:
        spec(annotations, config)
    except Unusable as problem:
        found.append(
            FieldError(f"Kubernetes will refuse the HorizontalPodAutoscaler: {problem}", (vocabulary.TARGET,))
        )
    return tuple(found)


def needs_cpu_request(annotations: Mapping[str, str], config: Config = DEFAULT_CONFIG) -> bool:
    """Whether these annotations make a HorizontalPodAutoscaler that compares use with the CPU request."""
    if annotations.get(vocabulary.CLASS, config.pod_autoscaler_class) != HPA:
        return False
    no_target = vocabulary.TARGET not in annotations
    return no_target or annotations.get(vocabulary.METRIC, CPU) == CPU
