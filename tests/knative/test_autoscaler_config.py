"""`config-autoscaler`: what is accepted, and what is refused with which message (cases of config_test.go)."""

import pytest

from knative.autoscaling import annotations
from knative.autoscaling import config as autoscaler_config
from knative.autoscaling.annotations import AutoscalingSpec
from knative.autoscaling.config import AutoscalerConfig
from knative.config_maps import ConfigError

A = "autoscaling.knative.dev/"


def test_nothing_set_means_knatives_defaults():
    assert autoscaler_config.parse({"_example": "max-scale: 5", "tick-interval": "2s"}) == AutoscalerConfig()


def test_every_key_is_read():
    assert autoscaler_config.parse(
        {
            "pod-autoscaler-class": " some.class ",
            "enable-scale-to-zero": "F",
            "allow-zero-initial-scale": "TRUE",
            "max-scale-up-rate": "1.001",
            "max-scale-down-rate": "3.0",
            "container-concurrency-target-percentage": "55",
            "container-concurrency-target-default": "10.5",
            "requests-per-second-target-default": "10.11",
            "target-burst-capacity": "-1",
            "panic-window-percentage": "12.5",
            "activator-capacity": "905",
            "panic-threshold-percentage": "150",
            "initial-scale": "0",
            "min-scale": "1",
            "max-scale": "9",
            "max-scale-limit": "11",
            "stable-window": "5m",
            "scale-down-delay": "1m23s",
            "scale-to-zero-grace-period": "33s",
            "scale-to-zero-pod-retention-period": "2500ms",
        }
    ) == AutoscalerConfig(
        pod_autoscaler_class="some.class", enable_scale_to_zero=False, allow_zero_initial_scale=True,
        max_scale_up_rate=1.001, max_scale_down_rate=3, container_concurrency_target_fraction=0.55,
        container_concurrency_target_default=10.5, rps_target_default=10.11, target_burst_capacity=-1,
        panic_window_percentage=12.5, activator_capacity=905, panic_threshold_percentage=150,
        initial_scale=0, min_scale=1, max_scale=9, max_scale_limit=11, stable_window_s=300,
        scale_down_delay_s=83, scale_to_zero_grace_period_s=33, pod_retention_s=2.5,
    )  # fmt: skip


def test_a_fraction_is_accepted_in_place_of_a_percentage():
    config = autoscaler_config.parse({"container-concurrency-target-percentage": "0.5"})
    assert config.container_concurrency_target_fraction == 0.5


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            {"max-scale-up-rate": "not a float"},
            (
                'failed to parse data: failed to parse "max-scale-up-rate": '
                'strconv.ParseFloat: parsing "not a float": invalid syntax'
            ),
        ),
        (
            {"stable-window": "60"},
            'failed to parse data: failed to parse "stable-window": time: missing unit in duration "60"',
        ),
        (
            {"stable-window": "not a duration"},
            'failed to parse data: failed to parse "stable-window": time: invalid duration "not a duration"',
        ),
        (
            {"initial-scale": "99999999999"},
            (
                'failed to parse data: failed to parse "initial-scale": '
                'strconv.ParseInt: parsing "99999999999": value out of range'
            ),
        ),
        (
            {"allow-zero-initial-scale": "invalid"},
            (
                'failed to parse data: failed to parse "allow-zero-initial-scale": '
                'strconv.ParseBool: parsing "invalid": invalid syntax'
            ),
        ),
        ({"scale-down-delay": "-1m23s"}, "scale-down-delay cannot be negative, was: -1m23s"),
        (
            {"scale-down-delay": "61984ms"},
            "scale-down-delay = 1m1.984s, must be specified with at most second precision",
        ),
        (
            {"scale-to-zero-pod-retention-period": "-4m11s"},
            "scale-to-zero-pod-retention-period cannot be negative, was: -4m11s",
        ),
        (
            {"target-burst-capacity": "-11"},
            "target-burst-capacity must be either non-negative or -1 (for unlimited), was: -11.000000",
        ),
        (
            {"container-concurrency-target-percentage": "142.4"},
            "container-concurrency-target-percentage = 1.424000 is outside of valid range of (0, 100]",
        ),
        (
            {
                "container-concurrency-target-percentage": "50",
                "container-concurrency-target-default": "0.001",
            },
            (
                "container-concurrency-target-percentage and container-concurrency-target-default yield "
                "target concurrency of 0.0005, can't be less than 0.01"
            ),
        ),
        (
            {"requests-per-second-target-default": "-5.25"},
            "requests-per-second-target-default must be at least 0.01, was: -5.25",
        ),
        ({"activator-capacity": "0.95"}, "activator-capacity = 0.95, must be at least 1"),
        ({"max-scale-up-rate": "1"}, "max-scale-up-rate = 1, must be greater than 1.0"),
        ({"max-scale-down-rate": "-55"}, "max-scale-down-rate = -55, must be greater than 1.0"),
        ({"stable-window": "1h1s"}, "stable-window = 1h0m1s, must be in [6s; 1h0m0s] range"),
        (
            {"stable-window": "61984ms"},
            "stable-window = 1m1.984s, must be specified with at most second precision",
        ),
        (
            {"panic-window-percentage": "110"},
            "panic-window-percentage = 110, must be in [1, 100] interval",
        ),
        (
            {"scale-to-zero-grace-period": "0s"},
            "scale-to-zero-grace-period must be positive, was: 0s",
        ),
        (
            {"initial-scale": "0"},
            "initial-scale = 0, must be at least 0 (or at least 1 when allow-zero-initial-scale is false)",
        ),
        ({"min-scale": "-1"}, "min-scale = -1, must be at least 0"),
        ({"max-scale": "-1"}, "max-scale = -1, must be in [0, max-scale-limit(0)] range"),
        (
            {"max-scale": "10", "max-scale-limit": "9"},
            "max-scale = 10, must be in [1, max-scale-limit(9)] range",
        ),
        (
            {"max-scale": "0", "max-scale-limit": "11"},
            "max-scale = 0, must be in [1, max-scale-limit(11)] range",
        ),
        ({"max-scale-limit": "-9"}, "max-scale-limit = -9, must be at least 0"),
        ({"min-scale": "4", "max-scale": "3"}, "min-scale (4) must be less than max-scale (3)"),
    ],
)
def test_a_bad_value_is_refused_in_knatives_words(data, text):
    with pytest.raises(ConfigError) as refused:
        autoscaler_config.parse(data)
    assert str(refused.value) == text


CONFIG = AutoscalerConfig(
    target_burst_capacity=0, stable_window_s=120, panic_window_percentage=20, panic_threshold_percentage=300,
    pod_retention_s=7, scale_down_delay_s=9, min_scale=2, max_scale=8, initial_scale=3,
)  # fmt: skip


def test_settings_without_an_annotation_come_from_the_configuration():
    assert annotations.parse({}, CONFIG) == AutoscalingSpec(
        target_burst_capacity=0, window_s=120, panic_window_percentage=20, panic_threshold_percentage=300,
        pod_retention_s=7, scale_down_delay_s=9, min_scale=2, max_scale=8, initial_scale=3,
    )  # fmt: skip


def test_an_annotation_takes_precedence_over_the_configuration():
    given = {
        A + "target-burst-capacity": "211", A + "window": "60s", A + "panic-window-percentage": "10",
        A + "panic-threshold-percentage": "200", A + "scale-to-zero-pod-retention-period": "0s",
        A + "scale-down-delay": "0s", A + "min-scale": "0", A + "max-scale": "0", A + "initial-scale": "1",
    }  # fmt: skip
    assert annotations.parse(given, CONFIG) == AutoscalingSpec()


def test_an_initial_scale_of_zero_that_is_no_longer_allowed_counts_as_the_default():
    given = {A + "initial-scale": "0"}
    assert annotations.parse(given, AutoscalerConfig(initial_scale=3), admitted=True).initial_scale == 3
    allowing = AutoscalerConfig(initial_scale=3, allow_zero_initial_scale=True)
    assert annotations.parse(given, allowing).initial_scale == 0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("12", f"expected 1 <= 12 <= 11: {A}max-scale"),
        ("0", f"max-scale=0 (unlimited), must be less than 11: {A}max-scale"),
    ],
)
def test_max_scale_stays_within_its_limit(given, text):
    limited = AutoscalerConfig(max_scale=10, max_scale_limit=11)
    assert [str(error) for error in annotations.validate({A + "max-scale": given}, limited)] == [text]
    assert annotations.validate({A + "max-scale": "11"}, limited) == ()
    assert annotations.validate({}, limited) == ()
    stored = annotations.parse({A + "max-scale": given}, limited, admitted=True)
    assert stored.max_scale == (int(given) or None)


def test_the_default_class_decides_which_metrics_there_are():
    given = {A + "metric": "cpu"}
    assert annotations.validate(given)
    assert annotations.validate(given, AutoscalerConfig(pod_autoscaler_class=annotations.HPA)) == ()
