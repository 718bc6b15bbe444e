"""Class hpa: its settings, and its decision over time (cases of Kubernetes' horizontal_test.go)."""

import pytest

from knative import hpa, hpa_spec
from knative.autoscaling import annotations
from knative.autoscaling.annotations import HPA, MAX_INT32
from knative.autoscaling.config import Config
from knative.hpa import HpaState
from knative.hpa_spec import HpaSpec
from knative.utilization import CPU, MEMORY, Observation, Pod, Sample, Target

A = "autoscaling.knative.dev/"
NOW = 1_000_000.0


def spec(config=None, reachable=True, **given):
    marks = {A + "class": HPA, A + "metric": "cpu"}
    marks |= {A + key.replace("_", "-"): value for key, value in given.items()}
    return hpa_spec.spec(marks, config or Config(), reachable=reachable)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({}, HpaSpec(Target(CPU, utilization=80))),
        ({"target": "49.1"}, HpaSpec(Target(CPU, utilization=50))),
        ({"metric": "memory", "target": "100.9"}, HpaSpec(Target(MEMORY, average=100 * 1024**2 * 1000))),
        ({"metric": "memory"}, HpaSpec(Target(CPU, utilization=80))),
        ({"metric": "queue", "target": "7"}, HpaSpec(Target("queue", average=7000))),
        ({"min_scale": "0", "max_scale": "0"}, HpaSpec(least=1, most=MAX_INT32)),
        ({"min_scale": "2", "max_scale": "5"}, HpaSpec(least=2, most=5)),
        ({"window": "90s"}, HpaSpec(window_s=90.0)),
    ],
)
def test_annotations_become_the_horizontal_pod_autoscalers_settings(given, want):
    assert spec(**given) == want


def test_bounds_come_from_the_configuration_too_and_no_floor_counts_without_a_route():
    config = Config(min_scale=2, max_scale=9)
    assert (spec(config).least, spec(config).most) == (2, 9)
    assert spec(config, reachable=False).least == 1


@pytest.mark.parametrize(
    ("given", "config"),
    [
        ({"max_scale": "3"}, Config(min_scale=5)),
        ({"metric": "memory", "target": "0.5"}, Config()),
        ({"metric": "queue", "target": "0.5"}, Config()),
    ],
)
def test_what_kubernetes_refuses_is_refused(given, config):
    with pytest.raises(hpa_spec.Unusable, match=r"Invalid value: \d+: must be"):
        spec(config, **given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"metric": "memory"}, "Kubernetes takes cpu at 80 %"),
        ({"metric": "queue", "target": "3"}, "there is no custom metrics API"),
        ({"metric": "cpu", "min-scale": "0"}, "never scales to zero, min-scale=0 counts as 1"),
        ({"metric": "memory", "target": "0.1"}, "Kubernetes will refuse"),
    ],
)
def test_what_nobody_means_is_warned_of(given, text):
    marks = {A + "class": HPA} | {A + key: value for key, value in given.items()}
    assert annotations.validate(marks) == ()
    (error,) = hpa_spec.warnings(marks)
    assert text in str(error)
    assert hpa_spec.warnings({A + "class": HPA, A + "metric": "cpu", A + "target": "70"}) == ()
    assert hpa_spec.warnings({}) == ()


class Workload:
    """Replicas that all use the same share of a request of one core, and a clock."""

    def __init__(self, replicas=1, **given):
        self.settings = spec(**given)
        self.replicas = replicas
        self.state = HpaState()
        self.now = NOW
        self.outcome = None

    def step(self, percent, *, after=15.0):
        """One decision while replicas use `percent` of what they ask for on average."""
        self.now += after
        pods = [
            Pod(f"pod-{at}", ready=True, ready_changed=0.0, started=0.0, requests=(("main", 1000),))
            for at in range(self.replicas)
        ]
        samples = {} if percent is None else {pod.name: Sample(percent * 10, self.now, 15.0) for pod in pods}
        self.state, self.outcome = hpa.step(
            self.state, self.settings, self.replicas, Observation(self.now, pods, samples)
        )
        self.replicas = self.outcome.replicas
        return self.replicas

    def finding(self, kind):
        found = self.state.findings[kind]
        return found.status, found.reason


def test_growth_is_at_most_double_or_four_at_a_time():
    work = Workload(target="50")
    assert [work.step(1000) for _ in range(4)] == [4, 8, 16, 32]
    assert work.finding("ScalingLimited") == ("True", "ScaleUpLimit")
    assert work.outcome.reason == "cpu resource utilization (percentage of request) above target"
    assert work.finding("AbleToScale") == ("True", "SucceededRescale")


def test_growth_ends_at_max_scale():
    work = Workload(max_scale="3")
    assert [work.step(1000), work.step(1000)] == [3, 3]
    assert work.finding("ScalingLimited") == ("True", "TooManyReplicas")
    assert work.finding("ScalingActive") == ("True", "ValidMetricFound")


def test_what_is_less_is_followed_after_five_minutes():
    work = Workload(replicas=8)
    assert work.step(80) == 8
    seen = [work.step(10) for _ in range(21)]
    assert seen[:20] == [8] * 20
    assert seen[20] == 1
    assert work.outcome.reason == "All metrics below target"


def test_in_between_the_highest_wish_of_five_minutes_counts():
    work = Workload(replicas=8)
    work.step(80)
    for _ in range(10):
        assert work.step(10) == 8
    assert work.step(40) == 8
    assert work.finding("AbleToScale") == ("True", "ScaleDownStabilized")
    assert [work.step(10) for _ in range(10)][-1] == 4


def test_never_less_than_one_and_never_less_than_the_floor():
    work = Workload(replicas=4)
    assert [work.step(0) for _ in range(25)][-1] == 1
    work = Workload(replicas=4, min_scale="2")
    assert [work.step(0) for _ in range(25)][-1] == 2
    assert work.finding("ScalingLimited") == ("True", "TooFewReplicas")


def test_bounds_act_without_any_measurement():
    work = Workload(replicas=1, min_scale="3")
    assert work.step(None) == 3
    assert work.outcome.reason == "Current number of replicas below Spec.MinReplicas"
    work = Workload(replicas=9, max_scale="5")
    assert work.step(None) == 5
    assert work.outcome.reason == "Current number of replicas above Spec.MaxReplicas"


def test_without_measurements_nothing_moves_and_the_condition_says_why():
    work = Workload(replicas=3)
    assert work.step(None) == 3
    assert work.finding("ScalingActive") == ("False", "FailedGetResourceMetric")
    assert work.state.findings["ScalingActive"].message == (
        "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics "
        "for resource cpu: no metrics returned from resource metrics API"
    )
    assert [reason for reason, _ in work.outcome.failures] == [
        "FailedGetResourceMetric",
        "FailedComputeMetricsReplicas",
    ]
    assert work.step(80) == 3
    assert work.finding("ScalingActive") == ("True", "ValidMetricFound")


def test_a_custom_metric_cannot_be_had():
    work = Workload(replicas=2, metric="queue", target="5")
    assert work.step(100) == 2
    assert work.finding("ScalingActive") == ("False", "FailedGetPodsMetric")
    _, (reason, text) = work.outcome.failures
    assert reason == "FailedComputeMetricsReplicas"
    assert text == (
        "invalid metrics (1 invalid out of 1), first error is: failed to get pods metric value: unable to get "
        "metric queue: unable to fetch metrics from custom metrics API: no custom metrics API "
        "(custom.metrics.k8s.io) registered"
    )


def test_what_is_at_zero_stays_there():
    work = Workload(replicas=0)
    assert work.step(None) == 0
    assert work.finding("ScalingActive") == ("False", "ScalingDisabled")


def test_with_a_window_a_wish_must_last_to_be_followed():
    work = Workload(replicas=2, window="60s")
    assert work.step(80) == 2
    assert [work.step(160) for _ in range(4)] == [2, 2, 2, 4]
    assert [work.step(40) for _ in range(4)] == [4, 4, 4, 2]
    work.step(80)
    assert work.step(160) == 2
    assert work.finding("AbleToScale") == ("True", "ScaleUpStabilized")


def test_with_a_window_growth_is_bounded_for_each_period():
    work = Workload(replicas=10, window="6s")
    assert work.step(800) == 10  # the number at the start counts as a wish
    assert work.step(800, after=7) == 20
    assert work.step(800, after=7) == 20  # doubled within the last 15 seconds
    assert work.finding("ScalingLimited") == ("True", "ScaleUpLimit")
    assert work.step(800, after=9) == 40


@pytest.mark.parametrize(
    ("recommended", "current", "wanted", "window", "want"),
    [
        (((120, 4), (60, 5)), 100, 3, 180, 5),
        (((120, 4), (60, 5)), 1, 7, 300, 4),
        (((600, 10), (540, 9)), 100, 3, 60, 3),
        (((6000, 2), (180, 3)), 2, 1, 300, 2),
        (((6000, 2), (180, 1)), 2, 3, 300, 2),
    ],
)
def test_stabilisation_is_kubernetes(recommended, current, wanted, window, want):
    log = tuple((NOW - ago, number) for ago, number in recommended)
    pods = [Pod(f"p-{at}", ready=True, started=0.0) for at in range(current)]
    samples = {pod.name: Sample(1000 * wanted // current, NOW, 15.0) for pod in pods}
    settings = HpaSpec(Target(MEMORY, average=1000), window_s=float(window))
    _, outcome = hpa.step(HpaState(recommended=log), settings, current, Observation(NOW, pods, samples))
    assert outcome.replicas == want


@pytest.mark.parametrize(
    ("log", "wanted", "want"),
    [
        ((), 5, 5),
        (((120, 4), (60, 5)), 3, 5),
        (((120, 1), (60, 2)), 3, 3),
        (((600, 10), (540, 9)), 3, 3),
        (((600, 10), (540, 9), (120, 5), (60, 4)), 3, 5),
    ],
)
def test_the_highest_recent_wish_counts(log, wanted, want):
    settings = HpaSpec(Target(MEMORY, average=1000))
    pods = [Pod(f"p-{at}", ready=True, started=0.0) for at in range(10)]
    samples = {pod.name: Sample(100 * wanted, NOW, 15.0) for pod in pods}
    state = HpaState(recommended=tuple((NOW - ago, number) for ago, number in log))
    _, outcome = hpa.step(state, settings, 10, Observation(NOW, pods, samples))
    assert outcome.replicas == want
