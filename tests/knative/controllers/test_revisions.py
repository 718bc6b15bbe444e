"""A Revision's PodAutoscaler and pods, and the status drawn from them."""

import pytest

from knative.autoscaling.config import AutoscalerConfig
from knative.local import conditions
from knative.local.controllers.desired_state import revision_status, revisions
from tests.knative.controllers.objects import NOW, condition, found, pod, revision

ACTIVE = {
    "status": {
        "actualScale": 1,
        "desiredScale": 2,
        "conditions": [
            condition("Active", "True"),
            condition("Ready", "True"),
            condition("ScaleTargetInitialized", "True"),
        ],
    }
}
AT_ZERO = {
    "status": {
        "conditions": [
            condition("Active", "False", "NoTraffic", "idle"),
            condition("Ready", "False", "NoTraffic", "idle"),
            condition("ScaleTargetInitialized", "True"),
        ]
    }
}
GAVE_UP = {
    "status": {
        "conditions": [
            condition("Active", "False", "TimedOut", "late"),
            condition("Ready", "False", "TimedOut", "late"),
            condition("ScaleTargetInitialized", "Unknown"),
        ]
    }
}
CRASHED = {"name": "user-container", "lastState": {"terminated": {"exitCode": 3, "message": "no such model"}}}
ENDED = {"name": "user-container", "lastState": {"terminated": {"exitCode": 0}}}
NO_SECRET = {
    "name": "user-container",
    "state": {"waiting": {"reason": "CreateContainerConfigError", "message": "no Secret x"}},
}


@pytest.mark.parametrize(
    ("autoscaler", "pods", "ready"),
    [
        pytest.param(None, [], ("Unknown", "Deploying", ""), id="made just now"),
        pytest.param(ACTIVE, [pod("p")], ("True", "", ""), id="a pod is ready"),
        pytest.param(AT_ZERO, [], ("True", "", ""), id="at zero after it was ready"),
        pytest.param(
            GAVE_UP,
            [],
            ("False", "ProgressDeadlineExceeded", "Initial scale was never achieved"),
            id="never ready",
        ),
        pytest.param(
            None,
            [pod("p", ready=False, scheduled="False")],
            ("False", "Unschedulable", "no GPU"),
            id="waits for a GPU",
        ),
        pytest.param(
            None,
            [pod("p", ready=False, statuses=[CRASHED])],
            ("False", "ExitCode3", "Container failed with: no such model"),
            id="crashed",
        ),
        pytest.param(
            None,
            [pod("p", ready=False, statuses=[ENDED])],
            ("False", "ExitCode0", "Container failed with: container exited with no error"),
            id="ended",
        ),
        pytest.param(
            None,
            [pod("p", ready=False, statuses=[NO_SECRET])],
            ("False", "CreateContainerConfigError", "no Secret x"),
            id="cannot be configured",
        ),
        pytest.param(
            ACTIVE,
            [pod("p"), pod("q", ready=False, statuses=[CRASHED])],
            ("True", "", ""),
            id="one of two is ready",
        ),
        pytest.param(
            None, [pod("p", ready=False, deleted=True)], ("Unknown", "Deploying", ""), id="being deleted"
        ),
    ],
)
def test_ready_follows_the_pods_and_the_pod_autoscaler(autoscaler, pods, ready):
    assert found(revision_status.status(revision("a-00001", ready=None), autoscaler, pods, NOW)) == ready


def test_a_revision_recovers_when_a_pod_is_ready_again():
    before = [condition("ContainerHealthy", "False", "ExitCode3", "x"), condition("Ready", "False")]
    status = revision_status.status(revision("a-00001", conditions=before), ACTIVE, [pod("p")], NOW)
    assert found(status) == ("True", "", "")


def test_what_cannot_run_here_says_so():
    problem = conditions.false("ContainerHealthy", "NoCommand", "set command")
    status = revision_status.status(revision("a-00001", ready=None), None, [], NOW, problem=problem)
    assert found(status) == ("False", "NoCommand", "set command")


def test_the_status_has_scales_and_digests():
    spec = {"containers": [{"image": "x@sha256:1"}, {"name": "side", "image": "y:1"}]}
    status = revision_status.status(revision("a-00001", spec=spec), ACTIVE, [], NOW)
    assert (status["actualReplicas"], status["desiredReplicas"]) == (1, 2)
    assert status["containerStatuses"] == [
        {"name": "user-container", "imageDigest": "x@sha256:1"},
        {"name": "side"},
    ]


@pytest.mark.parametrize(
    ("state", "conditions", "reachable", "reachability"),
    [
        ("pending", [], True, None),
        ("active", [], True, "Reachable"),
        ("reserve", [], False, "Unreachable"),
        ("active", [condition("ContainerHealthy", "False")], False, "Unreachable"),
        ("active", [condition("ResourcesAvailable", "False")], False, "Unreachable"),
    ],
)
def test_a_revision_is_reachable_unless_in_reserve_or_failed(state, conditions, reachable, reachability):
    obj = revision("a-00001", state=state, conditions=conditions)
    assert revisions.is_reachable(obj) is reachable
    assert revisions.pod_autoscaler(obj)["spec"].get("reachability") == reachability


def test_class_and_metric_stay_as_they_were_when_the_pod_autoscaler_was_made():
    annotations = revisions.pod_autoscaler(revision("a-00001"))["metadata"]["annotations"]
    assert annotations == {
        "autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev",
        "autoscaling.knative.dev/metric": "concurrency",
    }
    before = {"metadata": {"annotations": annotations}}
    changed = AutoscalerConfig(pod_autoscaler_class="other.example.com")
    kept = revisions.pod_autoscaler(revision("a-00001"), before, changed)["metadata"]["annotations"]
    assert kept == annotations


def test_a_pod_has_the_revisions_containers_and_knatives_variables():
    spec = {
        "containers": [{"image": "x", "env": [{"name": "A", "value": "1"}]}],
        "timeoutSeconds": 7,
    }
    obj = revision("a-00001", spec=spec)
    obj["metadata"]["annotations"] = {
        "note": "z",
        "autoscaling.knative.dev/min-scale": "1",
        "serving.knative.dev/routes": "a",
    }
    made = revisions.pod(obj, "abcde")
    (container,) = made["spec"]["containers"]
    assert [item["name"] for item in container["env"]] == ["A", "K_REVISION", "K_CONFIGURATION", "K_SERVICE"]
    assert made["spec"]["terminationGracePeriodSeconds"] == 7
    assert made["metadata"]["annotations"] == {"note": "z"}
    assert made["metadata"]["name"].endswith("-abcde")
    assert spec["containers"][0]["env"] == [{"name": "A", "value": "1"}]  # the Revision is left as it is


def test_a_pods_name_is_at_most_63_characters_long():
    name = revisions.pod(revision("a" * 62), "abcde")["metadata"]["name"]
    assert len(name) <= 63
    assert name.endswith("-abcde")
