"""The ConfigMap `config-autoscaler`: the settings of every Revision whose annotations do not override them.

Keys, defaults, messages and the order of the checks are those of pkg/autoscaler/config/config.go of Knative
Serving.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from knative.config_maps import ConfigError, ConfigMapReader
from knative.literals import (
    format_duration,
    format_float,
    read_boolean,
    read_duration,
    read_float,
    read_integer,
)

KPA = "kpa.autoscaling.knative.dev"
HPA = "hpa.autoscaling.knative.dev"
TARGET_MIN = 0.01
"""The smallest target that a replica may have."""
WINDOW_MIN_S, WINDOW_MAX_S = 6, 3600


@dataclass(frozen=True, slots=True)
class AutoscalerConfig:
    """The settings, with Knative's defaults. Durations are in seconds; a fraction lies between 0 and 1."""

    container_concurrency_target_default: float = 100.0
    container_concurrency_target_fraction: float = 0.7
    rps_target_default: float = 200.0
    rps_target_fraction: float = 0.7
    """Not configurable in Knative."""
    target_burst_capacity: float = 211.0
    stable_window_s: float = 60.0
    panic_window_percentage: float = 10.0
    panic_threshold_percentage: float = 200.0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    enable_scale_to_zero: bool = True
    scale_to_zero_grace_period_s: float = 30.0
    pod_retention_s: float = 0.0
    scale_down_delay_s: float = 0.0
    min_scale: int = 0
    max_scale: int | None = None
    """None: no limit."""
    max_scale_limit: int | None = None
    """The largest max-scale that a Revision may set; None: any, and it may set none."""
    initial_scale: int = 1
    allow_zero_initial_scale: bool = False
    activator_capacity: float = 100.0
    pod_autoscaler_class: str = KPA


DEFAULT_CONFIG = AutoscalerConfig()


def parse(data: Mapping[str, str]) -> AutoscalerConfig:
    """The settings in a ConfigMap's data.

    Raises:
        ConfigError: a value cannot be parsed, or is not allowed alone or in combination.
    """
    config = _read(data)
    problem = next((text for refused, text in _checks(config) if refused), None)
    if problem is not None:
        raise ConfigError(problem)
    # 0 means no limit in the ConfigMap.
    return replace(config, max_scale=config.max_scale or None, max_scale_limit=config.max_scale_limit or None)


def _read(data: Mapping[str, str]) -> AutoscalerConfig:
    """All values, parsed in Knative's order; 0 is still no limit here."""
    default = DEFAULT_CONFIG
    read = ConfigMapReader(data, "failed to parse data: ")
    config = AutoscalerConfig(
        pod_autoscaler_class=read("pod-autoscaler-class", str.strip, default.pod_autoscaler_class),
        enable_scale_to_zero=read("enable-scale-to-zero", read_boolean, default.enable_scale_to_zero),
        allow_zero_initial_scale=read(
            "allow-zero-initial-scale", read_boolean, default.allow_zero_initial_scale
        ),
        max_scale_up_rate=read("max-scale-up-rate", read_float, default.max_scale_up_rate),
        max_scale_down_rate=read("max-scale-down-rate", read_float, default.max_scale_down_rate),
        container_concurrency_target_fraction=read(
            "container-concurrency-target-percentage",
            read_float,
            default.container_concurrency_target_fraction,
        ),
        container_concurrency_target_default=read(
            "container-concurrency-target-default", read_float, default.container_concurrency_target_default
        ),
        rps_target_default=read("requests-per-second-target-default", read_float, default.rps_target_default),
        target_burst_capacity=read("target-burst-capacity", read_float, default.target_burst_capacity),
        panic_window_percentage=read("panic-window-percentage", read_float, default.panic_window_percentage),
        activator_capacity=read("activator-capacity", read_float, default.activator_capacity),
        panic_threshold_percentage=read(
            "panic-threshold-percentage", read_float, default.panic_threshold_percentage
        ),
        initial_scale=read("initial-scale", _int32, default.initial_scale),
        min_scale=read("min-scale", _int32, default.min_scale),
        max_scale=read("max-scale", _int32, 0),
        max_scale_limit=read("max-scale-limit", _int32, 0),
        stable_window_s=read("stable-window", _seconds, default.stable_window_s),
        scale_down_delay_s=read("scale-down-delay", _seconds, default.scale_down_delay_s),
        scale_to_zero_grace_period_s=read(
            "scale-to-zero-grace-period", _seconds, default.scale_to_zero_grace_period_s
        ),
        pod_retention_s=read("scale-to-zero-pod-retention-period", _seconds, default.pod_retention_s),
    )
    # A percentage, or, as in older versions, a fraction.
    fraction = config.container_concurrency_target_fraction
    return replace(
        config, container_concurrency_target_fraction=fraction / 100.0 if fraction > 1.0 else fraction
    )


def _checks(config: AutoscalerConfig) -> Iterator[tuple[bool, str]]:
    """For each rule, whether it is broken and Knative's message."""
    grace, delay = config.scale_to_zero_grace_period_s, config.scale_down_delay_s
    retention, window = config.pod_retention_s, config.stable_window_s
    yield grace <= 0, f"scale-to-zero-grace-period must be positive, was: {_shown(grace)}"
    yield delay < 0, f"scale-down-delay cannot be negative, was: {_shown(delay)}"
    yield (
        not delay.is_integer(),
        f"scale-down-delay = {_shown(delay)}, must be specified with at most second precision",
    )
    yield retention < 0, f"scale-to-zero-pod-retention-period cannot be negative, was: {_shown(retention)}"
    burst = config.target_burst_capacity
    yield (
        burst < 0 and burst != -1,
        f"target-burst-capacity must be either non-negative or -1 (for unlimited), was: {burst:f}",
    )
    fraction = config.container_concurrency_target_fraction
    yield (
        not 0 < fraction <= 1,
        f"container-concurrency-target-percentage = {fraction:f} is outside of valid range of (0, 100]",
    )
    target = fraction * config.container_concurrency_target_default
    least = format_float(TARGET_MIN)
    yield (
        target < TARGET_MIN,
        (
            "container-concurrency-target-percentage and container-concurrency-target-default yield target "
            f"concurrency of {format_float(target)}, can't be less than {least}"
        ),
    )
    rps = config.rps_target_default
    yield (
        rps < TARGET_MIN,
        f"requests-per-second-target-default must be at least {least}, was: {format_float(rps)}",
    )
    capacity = config.activator_capacity
    yield capacity < 1, f"activator-capacity = {format_float(capacity)}, must be at least 1"
    up, down = config.max_scale_up_rate, config.max_scale_down_rate
    yield up <= 1.0, f"max-scale-up-rate = {format_float(up)}, must be greater than 1.0"
    yield down <= 1.0, f"max-scale-down-rate = {format_float(down)}, must be greater than 1.0"
    yield (
        not WINDOW_MIN_S <= window <= WINDOW_MAX_S,
        f"stable-window = {_shown(window)}, must be in [6s; 1h0m0s] range",
    )
    yield (
        not window.is_integer(),
        f"stable-window = {_shown(window)}, must be specified with at most second precision",
    )
    panic = config.panic_window_percentage
    yield (
        not 1 <= panic <= 100,
        f"panic-window-percentage = {format_float(panic)}, must be in [1, 100] interval",
    )
    yield from _scale_checks(config)


def _scale_checks(config: AutoscalerConfig) -> Iterator[tuple[bool, str]]:
    initial, least = config.initial_scale, config.min_scale
    most, limit = config.max_scale or 0, config.max_scale_limit or 0
    yield (
        initial < 0 or (initial == 0 and not config.allow_zero_initial_scale),
        (
            f"initial-scale = {initial}, must be at least 0 "
            "(or at least 1 when allow-zero-initial-scale is false)"
        ),
    )
    yield least < 0, f"min-scale = {least}, must be at least 0"
    # With a limit for max-scale there has to be a default max-scale as well.
    lowest = 1 if limit > 0 else 0
    yield (
        most < lowest or 0 < limit < most,
        f"max-scale = {most}, must be in [{lowest}, max-scale-limit({limit})] range",
    )
    yield limit < 0, f"max-scale-limit = {limit}, must be at least 0"
    yield least > most > 0, f"min-scale ({least}) must be less than max-scale ({most})"


def _int32(text: str) -> int:
    return read_integer(text, 32)


def _seconds(text: str) -> float:
    return float(read_duration(text))


def _shown(seconds: float) -> str:
    return format_duration(Fraction(round(seconds * 10**9), 10**9))
