"""Every number that Knative's own autoscaler tests state, against `knative.autoscaling.kpa`."""

import json
from pathlib import Path

import pytest

from knative.autoscaling import kpa
from knative.autoscaling.annotations import AutoscalingSpec, Metric
from knative.autoscaling.config import AutoscalerConfig

VECTORS = json.loads((Path(__file__).parent / "data" / "kpa_vectors.json").read_text())
COMMON = VECTORS["common_scale"]


def decider(case, **overrides):
    total = case["target"] / 0.75
    fields = {
        "target": case["target"],
        "total": total,
        "target_burst_capacity": case.get("tbc", 0),
        "stable_window_s": case.get("stable_window_s", COMMON["stable_window_s"]),
        "panic_threshold": case.get("panic_threshold", COMMON["panic_threshold"]),
        "max_scale_up_rate": COMMON["max_scale_up"],
        "max_scale_down_rate": COMMON["max_scale_down"],
        "activation_scale": 1,
        "scale_down_delay_s": case.get("delay_s", 0),
        "reachable": case.get("reachable", True),
    }
    return kpa.DeciderSpec(**(fields | overrides))


OVERRIDES = {
    "up": "max_scale_up_rate",
    "down": "max_scale_down_rate",
    "reachable": "reachable",
    "activation": "activation_scale",
}


@pytest.mark.parametrize("case", VECTORS["scale_single"], ids=lambda case: case["test"])
def test_one_decision(case):
    spec = decider(case, **{OVERRIDES[name]: value for name, value in case["overrides"].items()})
    now = 1_000.0
    since = None if case["panic_since_s"] is None else now - case["panic_since_s"]
    before = kpa.KpaState(since, case["max_panic_pods"] or 0)
    _, result = kpa.step(before, spec, kpa.WindowAverages(case["ready"], case["stable"], case["panic"]), now)
    assert result.desired_scale == case["want_scale"]
    assert abs(result.excess_burst_capacity - case["want_ebc"]) <= 1


@pytest.mark.parametrize("case", VECTORS["scale_sequences"], ids=lambda case: case["test"])
def test_a_sequence_of_decisions(case):
    spec = decider(case)
    state = kpa.initial_state(case["steps"][0]["ready"] if "delay_s" not in case else 0, 0.0)
    if "Panic" not in case["test"]:
        state = kpa.KpaState()
    wanted = []
    for one in case["steps"]:
        state, result = kpa.step(
            state, spec, kpa.WindowAverages(one["ready"], one["stable"], one["panic"]), one["t"]
        )
        wanted.append(result.desired_scale)
    assert wanted == [one["want"] for one in case["steps"]]


def test_a_slow_rise_does_not_extend_panic():
    case = next(case for case in VECTORS["scale_sequences"] if case["test"].endswith("AfterSlowIncrease"))
    spec = decider(case)
    state, _ = kpa.step(kpa.KpaState(), spec, kpa.WindowAverages(10, 11, 25), 0.0)
    assert state.panic_since == 0.0
    state, _ = kpa.step(state, spec, kpa.WindowAverages(40, 30, 41), 30.0)
    assert state.panic_since == 0.0
    state, _ = kpa.step(state, spec, kpa.WindowAverages(55, 50, 56), 62.0)
    assert not state.panicking


def test_a_second_surge_extends_panic():
    case = next(case for case in VECTORS["scale_sequences"] if case["test"].endswith("ExtendPanicWindow"))
    spec = decider(case)
    state, _ = kpa.step(kpa.KpaState(), spec, kpa.WindowAverages(10, 11, 25), 0.0)
    state, _ = kpa.step(state, spec, kpa.WindowAverages(40, 30, 80), 30.0)
    assert state.panic_since == 30.0


@pytest.mark.parametrize(("ready", "panicking"), [(0, False), (1, False), (2, True)])
def test_a_new_autoscaler_panics_when_there_are_several_replicas(ready, panicking):
    state = kpa.initial_state(ready, 5.0)
    assert (state.panicking, state.max_panic_pods) == (panicking, ready)


@pytest.mark.parametrize("case", VECTORS["targets"], ids=lambda case: case["name"])
def test_target(case):
    given = case["inp"]
    percent = given.get("tu_ann")
    spec = AutoscalingSpec(
        metric=Metric(given.get("metric", "concurrency")),
        target=given.get("ann"),
        target_utilization_percentage=None if percent is None else percent * 100,
    )
    config = AutoscalerConfig(
        container_concurrency_target_fraction=given.get("cfg_tu", 0.7),
        container_concurrency_target_default=given.get("cfg_default", 100),
    )
    target = kpa.resolve_target(spec, given.get("cc", 0), config)
    assert target.target == pytest.approx(case["target"])
    assert target.total == pytest.approx(case["total"])


@pytest.mark.parametrize(("stable", "percent", "want"), VECTORS["panic_window"])
def test_panic_window(stable, percent, want):
    assert kpa.panic_window_s(stable, percent) == want


def test_every_part_of_the_vectors_is_used():
    assert set(VECTORS) == {
        "source", "common_scale", "scale_single", "scale_sequences", "buckets", "smoothing_coeff",
        "max_window_size5", "targets", "panic_window",
    }  # fmt: skip
