"""The `autoscaling.knative.dev` annotations: vocabulary, validation and the value they stand for.

The texts are those of Knative's admission webhook (pkg/apis/autoscaling/annotation_validation.go), so that a
manifest refused on one machine is refused with the same words on a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

GROUP = "autoscaling.knative.dev"
CLASS = f"{GROUP}/class"
METRIC = f"{GROUP}/metric"
TARGET = f"{GROUP}/target"
TARGET_UTILIZATION_PERCENTAGE = f"{GROUP}/target-utilization-percentage"
TARGET_BURST_CAPACITY = f"{GROUP}/target-burst-capacity"
MIN_SCALE = f"{GROUP}/min-scale"
MAX_SCALE = f"{GROUP}/max-scale"
INITIAL_SCALE = f"{GROUP}/initial-scale"
ACTIVATION_SCALE = f"{GROUP}/activation-scale"
SCALE_DOWN_DELAY = f"{GROUP}/scale-down-delay"
POD_RETENTION = f"{GROUP}/scale-to-zero-pod-retention-period"
WINDOW = f"{GROUP}/window"
PANIC_WINDOW_PERCENTAGE = f"{GROUP}/panic-window-percentage"
PANIC_THRESHOLD_PERCENTAGE = f"{GROUP}/panic-threshold-percentage"
METRIC_AGGREGATION_ALGORITHM = f"{GROUP}/metric-aggregation-algorithm"

KPA = "kpa.autoscaling.knative.dev"
HPA = "hpa.autoscaling.knative.dev"


class Metric(StrEnum):
    """What the autoscaler averages."""

    CONCURRENCY = "concurrency"
    RPS = "rps"


class Algorithm(StrEnum):
    """How a window is averaged."""

    LINEAR = "linear"
    WEIGHTED_EXPONENTIAL = "weighted-exponential"


@dataclass(frozen=True, slots=True)
class AutoscalingSpec:
    """One Revision's autoscaling settings, defaults filled in.

    Durations are seconds, percentages stay percentages (as users write them).
    """

    metric: Metric = Metric.CONCURRENCY
    target: float | None = None
    """Requests in flight (or per second) for each replica at 100 %; None: container concurrency, or the default."""
    target_utilization_percentage: float | None = None
    """None: 70, Knative's default."""
    target_burst_capacity: float = 211.0
    """-1: the activator stays in the path for good; 0: only at zero."""
    min_scale: int = 0
    max_scale: int | None = None
    initial_scale: int = 1
    activation_scale: int = 1
    scale_down_delay_s: float = 0.0
    pod_retention_s: float = 0.0
    window_s: float = 60.0
    panic_window_percentage: float = 10.0
    panic_threshold_percentage: float = 200.0
    algorithm: Algorithm = Algorithm.LINEAR


@dataclass(frozen=True, slots=True)
class FieldError:
    """A refused value: Knative's message and the annotation keys it is about (`str()` reads as Knative prints it)."""

    message: str
    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.message}: {', '.join(self.paths)}"


def validate(
    annotations: Mapping[str, str], *, allow_zero_initial_scale: bool = False
) -> tuple[FieldError, ...]:
    """What Knative's webhook refuses in these annotations; empty when it would accept them."""
    raise NotImplementedError


def warnings(annotations: Mapping[str, str], *, container_concurrency: int = 0) -> tuple[FieldError, ...]:
    """What Knative lets pass in silence and nobody means: unknown keys, initial-scale above max-scale, ..."""
    raise NotImplementedError


def parse(annotations: Mapping[str, str]) -> AutoscalingSpec:
    """The settings that these (validated) annotations stand for.

    Raises:
        ValueError: an annotation is not valid; the text is that of `validate`.
    """
    raise NotImplementedError
