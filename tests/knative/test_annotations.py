"""The autoscaling annotations: what is refused, with which words, and what they stand for."""

import pytest

from knative import literals
from knative.autoscaling import annotations
from knative.autoscaling.annotations import Algorithm, AutoscalingSpec, Metric
from knative.autoscaling.config import AutoscalerConfig

A = "autoscaling.knative.dev/"


def texts(given, **options):
    found = annotations.validate({A + key: v for key, v in given.items()}, AutoscalerConfig(**options))
    return [str(error) for error in found]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"min-scale": "-1"}, f"expected 0 <= -1 <= 2147483647: {A}min-scale"),
        ({"min-scale": "abc"}, f"invalid value: abc: {A}min-scale"),
        ({"min-scale": "1.5"}, f"invalid value: 1.5: {A}min-scale"),
        ({"minScale": "x"}, f"invalid value: x: {A}minScale"),
        (
            {"max-scale": "99999999999"},
            f"expected 0 <= 99999999999 <= 2147483647: {A}max-scale",
        ),
        (
            {"min-scale": "3", "max-scale": "2"},
            f"max-scale=2 is less than min-scale=3: {A}max-scale, {A}min-scale",
        ),
        ({"target": "0.001"}, f"target 0.001 should be at least 0.01: {A}target"),
        ({"target": "ten"}, f"invalid value: ten: {A}target"),
        ({"activation-scale": "1"}, f"activation-scale=1 must be greater than 1: {A}activation-scale"),
        (
            {"min-scale": "4", "activation-scale": "2"},
            f"min-scale=4 is greater than activation-scale=2: {A}activation-scale",
        ),
        (
            {"max-scale": "2", "activation-scale": "3"},
            f"max-scale=2 is less than activation-scale=3: {A}activation-scale",
        ),
        ({"window": "5s"}, f"expected 6s <= 5s <= 1h0m0s: {A}window"),
        ({"window": "61m"}, f"expected 6s <= 61m <= 1h0m0s: {A}window"),
        ({"window": "60"}, f"invalid value: 60: {A}window"),
        ({"window": "6500ms"}, f"must be specified with at most second precision: {A}window"),
        (
            {"scale-to-zero-pod-retention-period": "2h"},
            f"expected 0s <= 2h <= 1h0m0s: {A}scale-to-zero-pod-retention-period",
        ),
        ({"scale-down-delay": "-1s"}, f"expected 0s <= -1s <= 1h0m0s: {A}scale-down-delay"),
        (
            {"scale-down-delay": "1.5s"},
            f"must be specified with at most second precision: {A}scale-down-delay",
        ),
        ({"target-burst-capacity": "-2"}, f"invalid value: -2: {A}target-burst-capacity"),
        (
            {"target-utilization-percentage": "0"},
            f"expected 1 <= 0 <= 100: {A}target-utilization-percentage",
        ),
        ({"panic-window-percentage": "101"}, f"expected 1 <= 101 <= 100: {A}panic-window-percentage"),
        (
            {"panic-threshold-percentage": "100"},
            f"expected 110 <= 100 <= 1000: {A}panic-threshold-percentage",
        ),
        ({"metric": "cpu"}, f"invalid value: cpu: {A}metric"),
        ({"class": "foo.knative.dev"}, f"invalid value: foo.knative.dev: {A}class"),
        (
            {"class": annotations.KPA, "metric-aggregation-algorithm": "median"},
            f"invalid value: median: {A}metric-aggregation-algorithm",
        ),
        ({"initial-scale": "0"}, f"invalid value: 0: {A}initial-scale=0 not allowed by cluster"),
        ({"initial-scale": "-1"}, f"invalid value: -1: {A}initial-scale must be greater than 0"),
    ],
)
def test_a_bad_value_is_refused_in_knatives_words(given, text):
    assert texts(given) == [text]
    with pytest.raises(ValueError, match=r"scale|value|expected|precision|least"):
        annotations.parse({A + key: value for key, value in given.items()})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"min-scale": "0", "max-scale": "0"},
        {"min-scale": "5", "max-scale": "0"},
        {"target-burst-capacity": "-1"},
        {"window": "1h"},
        {"class": "other.example.com", "metric": "anything"},
        {"class": annotations.HPA, "metric": "cpu"},
        {"metric-aggregation-algorithm": "median"},
        {"initial-scale": "9", "max-scale": "3"},
    ],
)
def test_what_knative_accepts_is_accepted(given):
    assert texts(given) == []


def test_zero_initial_scale_is_a_matter_of_configuration():
    assert texts({"initial-scale": "0"}, allow_zero_initial_scale=True) == []


def test_several_bad_values_are_all_named():
    assert len(texts({"min-scale": "x", "window": "1s", "target": "0"})) == 3


def test_no_annotation_means_knatives_defaults():
    spec = annotations.parse({"other/key": "1"})
    assert spec == AutoscalingSpec()
    assert (spec.window_s, spec.target_burst_capacity, spec.initial_scale, spec.max_scale) == (
        60,
        211,
        1,
        None,
    )


def test_every_annotation_is_read():
    spec = annotations.parse(
        {
            A + "class": annotations.KPA,
            A + "metric": "rps",
            A + "target": "12.5",
            A + "target-utilization-percentage": "80",
            A + "target-burst-capacity": "-1",
            A + "min-scale": "1",
            A + "max-scale": "9",
            A + "initial-scale": "2",
            A + "activation-scale": "3",
            A + "scale-down-delay": "1m30s",
            A + "scale-to-zero-pod-retention-period": "1500ms",
            A + "window": "2m",
            A + "panic-window-percentage": "20",
            A + "panic-threshold-percentage": "150",
            A + "metric-aggregation-algorithm": "weighted-exponential",
        }
    )
    assert spec == AutoscalingSpec(
        metric=Metric.RPS, target=12.5, target_utilization_percentage=80, target_burst_capacity=-1,
        min_scale=1, max_scale=9, initial_scale=2, activation_scale=3, scale_down_delay_s=90,
        pod_retention_s=1.5, window_s=120, panic_window_percentage=20, panic_threshold_percentage=150,
        algorithm=Algorithm.WEIGHTED_EXPONENTIAL,
    )  # fmt: skip


def test_the_newer_spelling_wins():
    assert annotations.parse({A + "minScale": "2"}).min_scale == 2
    assert annotations.parse({A + "minScale": "2", A + "min-scale": "3"}).min_scale == 3


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"class": annotations.HPA}, {"class": annotations.KPA}),
        (
            {"class": annotations.HPA, "metric": "cpu", "target": "80", "min-scale": "1"},
            {"class": annotations.KPA, "min-scale": "1"},
        ),
        ({"class": annotations.KPA, "metric": "rps"}, {"class": annotations.KPA, "metric": "rps"}),
        ({"class": "other.example.com", "target": "5"}, {"class": "other.example.com", "target": "5"}),
        ({"target": "5"}, {"target": "5"}),
    ],
)
def test_class_hpa_becomes_kpa_without_metric_and_target(given, kept):
    replaced = annotations.by_kpa({A + key: value for key, value in given.items()})
    assert replaced == {A + key: value for key, value in kept.items()}


def test_class_hpa_is_warned_of():
    (warning,) = annotations.warnings({A + "class": annotations.HPA, A + "metric": "cpu"})
    assert "class hpa.autoscaling.knative.dev is not supported here" in warning.message
    assert warning.paths == (A + "class",)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("1h1m1s", 3661), ("1.5s", 1.5), ("-2m", -120), (".5h", 1800), ("100us", 1e-4)],
)
def test_go_durations_are_read(text, seconds):
    assert float(literals.parse_duration(text)) == seconds


@pytest.mark.parametrize("text", ["", "1", "s", "1x", "1s ", "1 s", "--1s", "1s2"])
def test_other_texts_are_not_durations(text):
    assert literals.parse_duration(text) is None


def test_silent_mistakes_become_warnings():
    found = annotations.warnings(
        {
            A + "min-scales": "1",
            A + "initial-scale": "5",
            A + "max-scale": "2",
            A + "target": "20",
            A + "metric-aggregation-algorithm": "median",
        },
        container_concurrency=10,
    )
    joined = "\n".join(map(str, found))
    assert f"did you mean {A}min-scale?: {A}min-scales" in joined
    assert "initial-scale=5 is greater than max-scale=2" in joined
    assert "target=20 is greater than containerConcurrency=10" in joined
    assert "median" in joined
    assert annotations.warnings({A + "min-scale": "1"}) == ()


def test_on_the_service_itself_the_annotations_are_misplaced():
    (error,) = annotations.misplaced({A + "min-scale": "1", "x": "y"})
    assert str(error) == (
        'invalid key name "autoscaling.knative.dev/min-scale"\n'
        'autoscaling annotations must be put under "spec.template.metadata.annotations" to work'
    )
