"""Which pods are created or deleted for a desired scale, and what a PodAutoscaler's status says."""

import pytest

from knative.autoscaling.revision_autoscaler import ScaleDecision
from knative.autoscaling.scaler import ActiveStatus
from knative.local.controllers.desired_state import pod_autoscalers
from knative.local.controllers.desired_state.pod_autoscalers import PodDifference
from knative.local.routing import Endpoint
from tests.knative.controllers.objects import NOW, found, pod

OLD, YOUNG = "2026-11-30T10:00:00.000000Z", "2026-11-30T11:59:00.000000Z"


@pytest.mark.parametrize(
    ("pods", "desired", "expected"),
    [
        pytest.param([], 2, PodDifference(create=2), id="none yet"),
        pytest.param([pod("a")], 1, PodDifference(), id="as many as desired"),
        pytest.param([pod("a", deleted=True)], 1, PodDifference(create=1), id="one is being deleted"),
        pytest.param([pod("a"), pod("b")], 0, PodDifference(delete=("a", "b")), id="to zero"),
        pytest.param(
            [pod("a"), pod("b", ready=False)], 1, PodDifference(delete=("b",)), id="not ready before ready"
        ),
        pytest.param(
            [pod("a", ready=False, scheduled="False"), pod("b", ready=False)],
            1,
            PodDifference(delete=("a",)),
            id="unscheduled before scheduled",
        ),
        pytest.param(
            [pod("a", ready_at=YOUNG), pod("b", ready_at=OLD)],
            1,
            PodDifference(delete=("a",)),
            id="ready last",
        ),
        pytest.param(
            [pod("a", restarts=3), pod("b", restarts=1)], 1, PodDifference(delete=("a",)), id="more restarts"
        ),
        pytest.param([pod("a", created=NOW), pod("b")], 1, PodDifference(delete=("a",)), id="the newest"),
    ],
)
def test_pods_are_created_or_deleted_in_the_order_of_a_replica_set(pods, desired, expected):
    assert pod_autoscalers.difference(pods, desired) == expected


def test_requests_go_to_ready_pods_with_a_port():
    pods = [pod("b"), pod("a"), pod("c", ready=False), pod("d", deleted=True), pod("e", port=None)]
    assert pod_autoscalers.endpoints(pods) == (
        Endpoint("a", "127.0.0.1", 9000),
        Endpoint("b", "127.0.0.1", 9000),
    )


@pytest.mark.parametrize(
    ("decision", "ready"),
    [
        (ScaleDecision(2, ActiveStatus.TRUE, "", "", initialized=True), ("True", "", "")),
        (
            ScaleDecision(0, ActiveStatus.FALSE, "NoTraffic", "idle", initialized=True),
            ("False", "NoTraffic", "idle"),
        ),
        (
            ScaleDecision(1, ActiveStatus.UNKNOWN, "Queued", "starting", initialized=False),
            ("Unknown", "Queued", "starting"),
        ),
        (
            ScaleDecision(1, ActiveStatus.TRUE, "", "", initialized=False),
            ("Unknown", "", ""),
        ),
    ],
)
def test_a_pod_autoscaler_is_ready_when_it_is_active_and_was_initialized(decision, ready):
    obj = {"metadata": {"name": "a-00001", "generation": 4}}
    status = pod_autoscalers.status(obj, decision, 1, NOW)
    assert found(status) == ready
    assert (status["actualScale"], status["desiredScale"]) == (1, decision.replicas)
    assert (status["observedGeneration"], status["serviceName"]) == (4, "a-00001")
