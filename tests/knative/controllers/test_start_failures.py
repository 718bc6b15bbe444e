"""When requests are answered at once because no replica will start."""

import pytest

from knative.local.controllers.desired_state import start_failures
from knative.local.routing import StartFailure
from tests.knative.controllers.objects import condition, configuration, pod, revision, route

INITIALIZED = {"status": {"conditions": [condition("ScaleTargetInitialized", "True")]}}
NEVER_READY = {"status": {"conditions": [condition("ScaleTargetInitialized", "Unknown")]}}


def failed(reason="ExitCode1", message="no such model"):
    return revision("a-00001", conditions=[condition("Ready", "False", reason, message)])


def crashing(restarts, *, waiting="CrashLoopBackOff"):
    """A pod whose container has exited, and waits or runs again."""
    state = {"waiting": {"reason": waiting}} if waiting else {"running": {}}
    status = {
        "name": "user-container",
        "restartCount": restarts,
        "state": state,
        "lastState": {"terminated": {"exitCode": 1}},
    }
    return pod("p", ready=False, statuses=[status])


def failure(*, retryable, reason="ExitCode1", message="no such model"):
    return StartFailure("a-00001", reason, message, retryable)


@pytest.mark.parametrize(
    ("obj", "autoscaler", "pods", "expected"),
    [
        pytest.param(revision("a-00001"), INITIALIZED, [], None, id="ready, at zero"),
        pytest.param(revision("a-00001", ready="Unknown"), None, [], None, id="starting"),
        pytest.param(failed("Unschedulable"), NEVER_READY, [], None, id="waits for a GPU"),
        pytest.param(
            failed(), NEVER_READY, [crashing(0, waiting="")], failure(retryable=True), id="crashed once"
        ),
        pytest.param(
            failed(),
            NEVER_READY,
            [crashing(1, waiting="")],
            failure(retryable=True),
            id="crashed once, runs again",
        ),
        pytest.param(failed(), NEVER_READY, [crashing(1)], failure(retryable=False), id="crashed twice"),
        pytest.param(failed(), NEVER_READY, [], failure(retryable=False), id="given up, scaled to zero"),
        pytest.param(
            failed("NoCommand"),
            None,
            [],
            failure(reason="NoCommand", retryable=False),
            id="cannot run here",
        ),
        pytest.param(
            failed("CreateContainerConfigError"),
            NEVER_READY,
            [],
            failure(reason="CreateContainerConfigError", retryable=True),
            id="a Secret is missing, which may come",
        ),
        pytest.param(failed(), INITIALIZED, [crashing(1)], None, id="was ready before, crashed twice"),
        pytest.param(
            failed(),
            INITIALIZED,
            [crashing(2)],
            failure(retryable=True),
            id="was ready before, crashed thrice",
        ),
        pytest.param(
            failed(), INITIALIZED, [crashing(3, waiting="")], None, id="was ready before, runs again"
        ),
        pytest.param(failed(), INITIALIZED, [], None, id="was ready before, the next request starts one"),
        pytest.param(failed(), INITIALIZED, [crashing(5), pod("q")], None, id="another replica is ready"),
    ],
)
def test_a_revision_fails_when_its_replicas_do_not_start(obj, autoscaler, pods, expected):
    assert start_failures.of_revision(obj, autoscaler, pods) == expected


def unassigned(reason, message="x", *, status="False", traffic=None):
    entry = {"configurationName": "a", "latestRevision": True, "percent": 100}
    obj = route(*(traffic or [entry]))
    obj["status"]["conditions"] = [condition("AllTrafficAssigned", status, reason, message)]
    return obj


BROKEN = StartFailure("a-00001", "ExitCode1", "no such model", retryable=False)


@pytest.mark.parametrize(
    ("route_obj", "config", "of_revision", "expected"),
    [
        pytest.param(
            route(status=[{"revisionName": "a-00001", "percent": 100}]), None, BROKEN, None, id="has traffic"
        ),
        pytest.param(unassigned("RevisionMissing", status="Unknown"), None, BROKEN, None, id="waits"),
        pytest.param(
            unassigned("RevisionMissing"),
            configuration(latest_created="a-00001"),
            BROKEN,
            BROKEN,
            id="the Configuration's Revision failed",
        ),
        pytest.param(
            unassigned("RevisionMissing"),
            configuration(latest_created="a-00001"),
            None,
            None,
            id="the Configuration's Revision waits for a GPU",
        ),
        pytest.param(
            unassigned("RevisionMissing", traffic=[{"revisionName": "a-00001", "percent": 100}]),
            None,
            BROKEN,
            BROKEN,
            id="the named Revision failed",
        ),
        pytest.param(
            unassigned("ConfigurationMissing", 'Configuration "a" referenced in traffic not found.'),
            None,
            None,
            StartFailure(
                "",
                "ConfigurationMissing",
                'Configuration "a" referenced in traffic not found.',
                retryable=True,
            ),
            id="there is no such Configuration",
        ),
    ],
)
def test_a_route_fails_with_the_revision_that_it_leads_to(route_obj, config, of_revision, expected):
    found = start_failures.of_route(route_obj, lambda _: config, lambda _: of_revision)
    assert found == expected
