"""The `autoscaling.knative.dev` annotations: their keys, their validation, and the settings they stand for.

The messages are those of Knative's admission webhook (pkg/apis/autoscaling/annotation_validation.go), so a
manifest is refused with the same words on one machine and on a cluster.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from knative.autoscaling import config
from knative.autoscaling.config import (
    DEFAULT_CONFIG,
    TARGET_MIN,
    WINDOW_MAX_S,
    WINDOW_MIN_S,
    AutoscalerConfig,
)
from knative.literals import parse_duration, parse_float, parse_integer

_T = TypeVar("_T")
_D = TypeVar("_D")

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

ALIASES: Mapping[str, str] = {
    MIN_SCALE: f"{GROUP}/minScale",
    MAX_SCALE: f"{GROUP}/maxScale",
    INITIAL_SCALE: f"{GROUP}/initialScale",
    METRIC_AGGREGATION_ALGORITHM: f"{GROUP}/metricAggregationAlgorithm",
    PANIC_WINDOW_PERCENTAGE: f"{GROUP}/panicWindowPercentage",
    PANIC_THRESHOLD_PERCENTAGE: f"{GROUP}/panicThresholdPercentage",
    SCALE_DOWN_DELAY: f"{GROUP}/scaleDownDelay",
    POD_RETENTION: f"{GROUP}/scaleToZeroPodRetentionPeriod",
    TARGET_BURST_CAPACITY: f"{GROUP}/targetBurstCapacity",
    TARGET_UTILIZATION_PERCENTAGE: f"{GROUP}/targetUtilizationPercentage",
}
"""Older spellings that Knative still reads; the newer one takes precedence where both are given."""
KEYS = frozenset(
    {
        CLASS, METRIC, TARGET, TARGET_UTILIZATION_PERCENTAGE, TARGET_BURST_CAPACITY, MIN_SCALE, MAX_SCALE,
        INITIAL_SCALE, ACTIVATION_SCALE, SCALE_DOWN_DELAY, POD_RETENTION, WINDOW, PANIC_WINDOW_PERCENTAGE,
        PANIC_THRESHOLD_PERCENTAGE, METRIC_AGGREGATION_ALGORITHM, *ALIASES.values(),
    }
)  # fmt: skip

MAX_INT32 = 2**31 - 1
KPA, HPA = config.KPA, config.HPA


class Metric(StrEnum):
    """What class `KPA` scales by."""

    CONCURRENCY = "concurrency"
    RPS = "rps"


class Algorithm(StrEnum):
    """How a window is averaged."""

    LINEAR = "linear"
    WEIGHTED_EXPONENTIAL = "weighted-exponential"


@dataclass(frozen=True, slots=True)
class AutoscalingSpec:
    """One Revision's autoscaling settings, `config-autoscaler` filled in; the defaults are Knative's.

    Durations are seconds, percentages stay percentages (as users write them).
    """

    autoscaler_class: str = KPA
    """Which autoscaler scales it; `HPA` is Kubernetes', every unknown name a third party's."""
    metric: Metric = Metric.CONCURRENCY
    """For class `KPA` only; the metric of another class is not represented."""
    target: float | None = None
    """Requests in flight (or per second) per replica; None: container concurrency, or the default."""
    target_utilization_percentage: float | None = None
    """None: that of `config-autoscaler`, 70 by default."""
    target_burst_capacity: float = 211.0
    """-1: the activator is always in the request path; 0: only while scaled to zero."""
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
    """A refused value: Knative's message and the annotation keys at fault; `str()` is Knative's text."""

    message: str
    paths: tuple[str, ...]
    details: str = ""

    def __str__(self) -> str:
        text = f"{self.message}: {', '.join(self.paths)}" if any(self.paths) else self.message
        return f"{text}\n{self.details}" if self.details else text


def _invalid(value: str, path: str) -> FieldError:
    return FieldError(f"invalid value: {value}", (path,))


def _out_of_bounds(value: str, low: str, high: str, path: str) -> FieldError:
    return FieldError(f"expected {low} <= {value} <= {high}", (path,))


def lookup(annotations: Mapping[str, str], key: str) -> tuple[str, str] | None:
    """The spelling that is present and its value; None if neither the newer nor the older one is."""
    for spelling in (key, ALIASES.get(key, key)):
        if spelling in annotations:
            return spelling, annotations[spelling]
    return None


def _scale(annotations: Mapping[str, str], key: str) -> tuple[int, list[FieldError]]:
    found = lookup(annotations, key)
    if found is None:
        return 0, []
    path, text = found
    value = parse_integer(text)
    if value is None:
        return 0, [_invalid(text, path)]
    if not 0 <= value <= MAX_INT32:
        return 0, [_out_of_bounds(text, "0", str(MAX_INT32), path)]
    return value, []


def _class(annotations: Mapping[str, str]) -> Iterator[FieldError]:
    name = annotations.get(CLASS, KPA)
    if name.endswith(".knative.dev") and name not in (KPA, HPA):
        yield _invalid(name, CLASS)


def _scales(annotations: Mapping[str, str], limit: int | None) -> Iterator[FieldError]:
    least, errors = _scale(annotations, MIN_SCALE)
    yield from errors
    most, errors = _scale(annotations, MAX_SCALE)
    yield from errors
    if most and most < least:
        yield FieldError(f"max-scale={most} is less than min-scale={least}", (MAX_SCALE, MIN_SCALE))
    found = lookup(annotations, MAX_SCALE)
    if found is not None and limit is not None:
        if most > limit:
            yield _out_of_bounds(str(most), "1", str(limit), found[0])
        if most == 0:
            yield FieldError(f"max-scale=0 (unlimited), must be less than {limit}", (found[0],))
    text = annotations.get(ACTIVATION_SCALE)
    if text is None:
        return
    value = parse_integer(text)
    if value is None or not -MAX_INT32 - 1 <= value <= MAX_INT32:
        yield _invalid(text, ACTIVATION_SCALE)
    elif least > value:
        yield FieldError(f"min-scale={least} is greater than activation-scale={value}", (ACTIVATION_SCALE,))
    elif most and most < value:
        yield FieldError(f"max-scale={most} is less than activation-scale={value}", (ACTIVATION_SCALE,))
    elif value < 2:
        yield FieldError(f"activation-scale={value} must be greater than 1", (ACTIVATION_SCALE,))


def _floats(annotations: Mapping[str, str]) -> Iterator[FieldError]:
    for key, low, high in (
        (PANIC_WINDOW_PERCENTAGE, 1, 100),
        (PANIC_THRESHOLD_PERCENTAGE, 110, 1000),
        (TARGET_UTILIZATION_PERCENTAGE, 1, 100),
    ):
        if found := lookup(annotations, key):
            path, text = found
            value = parse_float(text)
            if value is None:
                yield _invalid(text, path)
            elif not low <= value <= high:
                yield _out_of_bounds(text, str(low), str(high), path)
    if (target := annotations.get(TARGET)) is not None:
        value = parse_float(target)
        if value is None:
            yield _invalid(target, TARGET)
        elif value < TARGET_MIN:
            yield FieldError(f"target {target} should be at least {TARGET_MIN:g}", (TARGET,))
    if found := lookup(annotations, TARGET_BURST_CAPACITY):
        value = parse_float(found[1])
        if value is None or (value < 0 and value != -1):
            yield _invalid(found[1], found[0])


def _durations(annotations: Mapping[str, str]) -> Iterator[FieldError]:
    for key, low, whole in (
        (WINDOW, WINDOW_MIN_S, True),
        (POD_RETENTION, 0, False),
        (SCALE_DOWN_DELAY, 0, True),
    ):
        found = lookup(annotations, key)
        if found is None:
            continue
        path, text = found
        value = parse_duration(text)
        if value is None:
            yield _invalid(text, path)
        elif not low <= value <= WINDOW_MAX_S:
            yield _out_of_bounds(text, f"{low}s", "1h0m0s", path)
        elif whole and value.denominator != 1:
            yield FieldError("must be specified with at most second precision", (path,))


def _words(annotations: Mapping[str, str], default_class: str) -> Iterator[FieldError]:
    name = annotations.get(CLASS, default_class)
    if (metric := annotations.get(METRIC)) is not None and (
        (name == KPA and metric not in tuple(Metric)) or (name == HPA and metric == "")
    ):
        yield _invalid(metric, METRIC)
    found = lookup(annotations, METRIC_AGGREGATION_ALGORITHM)
    # Without a class annotation, Knative's webhook accepts any algorithm: the class may be a third party's.
    if annotations.get(CLASS) == KPA and found and found[1] not in ("", *Algorithm, "weightedExponential"):
        yield _invalid(found[1], found[0])


def _initial_scale(annotations: Mapping[str, str], *, allow_zero: bool) -> Iterator[FieldError]:
    found = lookup(annotations, INITIAL_SCALE)
    if found is None:
        return
    path, text = found
    value = parse_integer(text)
    if value is None or value > MAX_INT32:
        yield _invalid(text, path)
    elif value < 0:
        yield _invalid(text, f"{path} must be greater than 0")
    elif value == 0 and not allow_zero:
        yield _invalid(text, f"{path}=0 not allowed by cluster")


def validate(
    annotations: Mapping[str, str], config: AutoscalerConfig = DEFAULT_CONFIG
) -> tuple[FieldError, ...]:
    """What Knative's webhook refuses in these annotations; empty if it accepts them."""
    return (
        *_class(annotations),
        *_scales(annotations, config.max_scale_limit),
        *_floats(annotations),
        *_durations(annotations),
        *_words(annotations, config.pod_autoscaler_class),
        *_initial_scale(annotations, allow_zero=config.allow_zero_initial_scale),
    )


def misplaced(annotations: Mapping[str, str]) -> tuple[FieldError, ...]:
    """What the webhook refuses in a Service's own metadata: annotations that belong to the template."""
    return tuple(
        FieldError(
            f'invalid key name "{key}"',
            ("",),
            'autoscaling annotations must be put under "spec.template.metadata.annotations" to work',
        )
        for key in sorted(annotations)
        if key.startswith(GROUP)
    )


_MAX_SUGGESTIONS = 10


def warnings(
    annotations: Mapping[str, str],
    config: AutoscalerConfig = DEFAULT_CONFIG,
    *,
    container_concurrency: int = 0,
) -> tuple[FieldError, ...]:
    """Probable mistakes that Knative accepts silently, such as unknown keys.

    Args:
        annotations: annotations that `validate` accepts.
        config: the settings of `config-autoscaler`.
        container_concurrency: the Revision's; 0 is no limit.
    """
    found: list[FieldError] = []
    known = sorted(KEYS)
    for key in sorted(annotations):
        if key.partition("/")[0].endswith(GROUP) or key.startswith("autoscaling."):
            if key in KEYS or key.startswith(f"{GROUP}."):  # the latter is a key in a subdomain
                continue
            # Each suggestion takes a millisecond or two.
            near = difflib.get_close_matches(key, known, n=1) if len(found) < _MAX_SUGGESTIONS else []
            hint = f", did you mean {near[0]}?" if near else ""
            found.append(FieldError(f"unknown autoscaling annotation{hint}", (key,)))
    spec = parse(annotations, config, admitted=True)
    if spec.max_scale is not None and spec.initial_scale > spec.max_scale:
        found.append(
            FieldError(
                f"initial-scale={spec.initial_scale} is greater than max-scale={spec.max_scale}",
                (INITIAL_SCALE,),
            )
        )
    if (
        spec.autoscaler_class == KPA
        and spec.metric is Metric.CONCURRENCY
        and spec.target is not None
        and 0 < container_concurrency < spec.target
    ):
        found.append(
            FieldError(
                f"target={spec.target:g} is greater than containerConcurrency={container_concurrency},"
                " which is what counts",
                (TARGET,),
            )
        )
    algorithm = lookup(annotations, METRIC_AGGREGATION_ALGORITHM)
    if algorithm and algorithm[1] not in ("", *Algorithm, "weightedExponential"):
        found.append(
            FieldError(
                f'unknown algorithm "{algorithm[1]}", linear is used; on a cluster the PodAutoscaler is '
                "refused and the Revision does not become ready",
                (algorithm[0],),
            )
        )
    if spec.autoscaler_class == HPA:
        found.append(
            FieldError(
                f"class {HPA} is not supported here: {KPA} scales this Revision on its requests in flight, "
                "to zero too; metric and target, which count CPU or memory, are not used",
                (CLASS,),
            )
        )
    elif spec.autoscaler_class != KPA:
        found.append(
            FieldError(
                f"no autoscaler of class {spec.autoscaler_class} runs here: the number of replicas "
                "stays at initial-scale and the Revision does not become ready",
                (CLASS,),
            )
        )
    return tuple(found)


def parse(
    annotations: Mapping[str, str], config: AutoscalerConfig = DEFAULT_CONFIG, *, admitted: bool = False
) -> AutoscalingSpec:
    """The settings that these annotations stand for, with those of `config` for what they do not set.

    Args:
        annotations: a Revision's or PodAutoscaler's.
        config: the settings of `config-autoscaler`.
        admitted: do not validate: they were accepted when they were stored, and `config` may be stricter now.

    Raises:
        ValueError: an annotation is not valid; the text is that of `validate`.
    """
    if not admitted and (errors := validate(annotations, config)):
        raise ValueError("\n".join(map(str, errors)))

    def read(key: str, convert: Callable[[str], _T], default: _D) -> _T | _D:
        found = lookup(annotations, key)
        return default if found is None else convert(found[1])

    def seconds(text: str) -> float:
        return float(parse_duration(text) or 0)

    name = annotations.get(CLASS, config.pod_autoscaler_class)
    algorithm = read(METRIC_AGGREGATION_ALGORITHM, str, "")
    return AutoscalingSpec(
        autoscaler_class=name,
        metric=Metric.RPS if name == KPA and annotations.get(METRIC) == Metric.RPS else Metric.CONCURRENCY,
        target=read(TARGET, float, None),
        target_utilization_percentage=read(TARGET_UTILIZATION_PERCENTAGE, float, None),
        target_burst_capacity=read(TARGET_BURST_CAPACITY, float, config.target_burst_capacity),
        min_scale=read(MIN_SCALE, int, config.min_scale),
        max_scale=read(MAX_SCALE, int, config.max_scale or 0) or None,
        initial_scale=initial_scale(annotations, config),
        activation_scale=read(ACTIVATION_SCALE, int, 1),
        scale_down_delay_s=read(SCALE_DOWN_DELAY, seconds, config.scale_down_delay_s),
        pod_retention_s=read(POD_RETENTION, seconds, config.pod_retention_s),
        window_s=read(WINDOW, seconds, config.stable_window_s),
        panic_window_percentage=read(PANIC_WINDOW_PERCENTAGE, float, config.panic_window_percentage),
        panic_threshold_percentage=read(PANIC_THRESHOLD_PERCENTAGE, float, config.panic_threshold_percentage),
        algorithm=(
            Algorithm.WEIGHTED_EXPONENTIAL
            if algorithm in (Algorithm.WEIGHTED_EXPONENTIAL, "weightedExponential")
            else Algorithm.LINEAR
        ),
    )


def by_kpa(annotations: Mapping[str, str]) -> dict[str, str]:
    """These annotations with class `HPA` replaced by `KPA`.

    Metric and target are dropped with it, as a percentage of CPU means nothing to `KPA`. Annotations of any
    other class are returned as they are.
    """
    if annotations.get(CLASS) != HPA:
        return dict(annotations)
    kept = {key: value for key, value in annotations.items() if key not in (METRIC, TARGET)}
    return {**kept, CLASS: KPA}


def initial_scale(annotations: Mapping[str, str], config: AutoscalerConfig = DEFAULT_CONFIG) -> int:
    """The replicas that a new Revision starts with; zero counts only while `config` allows it."""
    found = lookup(annotations, INITIAL_SCALE)
    if found is None or (int(found[1]) == 0 and not config.allow_zero_initial_scale):
        return config.initial_scale
    return int(found[1])
