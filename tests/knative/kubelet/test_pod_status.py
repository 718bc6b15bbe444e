"""A pod's status from the state of its containers."""

from datetime import UTC, datetime

import pytest

from knative.labels import SCHEDULED_AT_ANNOTATION
from knative.local import conditions
from knative.local.kubelet.status import ContainerState, PodState, pod_status, terminated

AT = datetime(2026, 11, 24, tzinfo=UTC)
SCHEDULED = {
    "scheduled": conditions.true("PodScheduled"),
    "annotations": {SCHEDULED_AT_ANNOTATION: "2026-11-24T00:00:00.250000Z"},
}


def status(*containers, **state):
    return pod_status(PodState(containers=containers, **state), {"containers": [{}]}, "127.0.0.1")


def by_type(found):
    return {item.type: item.status for item in found["conditions"]}


def test_a_pod_that_waits_for_gpus_is_pending_without_an_address():
    waits = conditions.false("PodScheduled", "Unschedulable", "no GPU")
    found = status(ContainerState("a", "x"), scheduled=waits)
    assert (found["phase"], "podIP" in found) == ("Pending", False)
    assert by_type(found) == {"Ready": "False", "ContainersReady": "False", "PodScheduled": "False"}


def test_a_scheduled_pod_has_address_and_start_time():
    found = status(ContainerState("a", "x"), **SCHEDULED)
    assert (found["podIP"], found["hostIP"], found["startTime"]) == (
        "127.0.0.1",
        "127.0.0.1",
        "2026-11-24T00:00:00Z",
    )
    assert by_type(found)["Initialized"] == "True"


def test_a_pod_is_ready_when_all_its_containers_are():
    ready, unready = (
        ContainerState("a", "x", ready=True),
        ContainerState("b", "x", not_ready_message="too early"),
    )
    found = status(ready, unready, has_run=True, **SCHEDULED)
    (condition,) = [item for item in found["conditions"] if item.type == "Ready"]
    assert (condition.status, condition.reason) == ("False", "ContainersNotReady")
    assert condition.message == "containers with unready status: [b]: too early"
    assert by_type(status(ready, ready, has_run=True, **SCHEDULED))["Ready"] == "True"


@pytest.mark.parametrize(
    ("state", "now"),
    [
        ({}, {"waiting": {"reason": "ContainerCreating"}}),
        (
            {"waiting": ("CrashLoopBackOff", "wait")},
            {"waiting": {"reason": "CrashLoopBackOff", "message": "wait"}},
        ),
        ({"running_since": "T"}, {"running": {"startedAt": "T"}}),
    ],
)
def test_what_a_container_is_doing(state, now):
    (found,) = status(ContainerState("a", "x", **state), **SCHEDULED)["containerStatuses"]
    assert found["state"] == now


def test_the_run_before_and_the_process_are_shown():
    last = terminated(137, "OOMKilled", "used too much", AT, AT)
    (found,) = status(ContainerState("a", "x", last=last, restarts=2, pid=7))["containerStatuses"]
    assert found["lastState"]["terminated"]["exitCode"] == 137
    assert (found["restartCount"], found["containerID"]) == (2, "process://7")
