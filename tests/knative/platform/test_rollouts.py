"""Gradual rollouts of a Service, in real time."""

import pytest

from knative.client.errors import Invalid
from knative.client.resources import ROUTE, SERVICE
from tests.knative.platform.conftest import LocalCluster, condition, service, until

ANNOTATION = "serving.knative.dev/rollout-duration"


def rolled_out(duration, value):
    body = service("a", env={"V": value})
    body["metadata"]["annotations"] = {ANNOTATION: duration}
    return body


async def test_requests_move_to_a_new_revision_step_by_step(local: LocalCluster):
    await local.cluster.apply(SERVICE, rolled_out("4s", "1"))
    await local.ready("a")
    await local.cluster.apply(SERVICE, rolled_out("4s", "2"))
    seen = []

    async def done():
        obj = await local.cluster.get(SERVICE, "a", "default")
        shares = {item["revisionName"]: item["percent"] for item in obj["status"].get("traffic") or ()}
        if not seen or seen[-1][0] != shares:
            seen.append((shares, condition(obj, "RoutesReady")["reason"] if len(shares) > 1 else ""))
        return shares == {"a-00002": 100} and condition(obj)["status"] == "True"

    await until(done, timeout_s=15)
    assert next(shares for shares, _ in seen if len(shares) > 1) == {"a-00001": 99, "a-00002": 1}
    assert {reason for shares, reason in seen if len(shares) > 1} == {"RolloutInProgress"}
    moved = [shares.get("a-00002", 0) for shares, _ in seen]
    assert moved == sorted(moved)
    assert len(moved) >= 4
    route = await local.cluster.get(ROUTE, "a", "default")
    assert "pilotlight.dev/rollout" not in route["metadata"]["annotations"]


async def test_a_rollout_that_is_no_longer_wanted_ends_at_once(local: LocalCluster):
    await local.cluster.apply(SERVICE, rolled_out("1h", "1"))
    await local.ready("a")
    await local.cluster.apply(SERVICE, rolled_out("1h", "2"))
    await local.service_condition("a", "Unknown", "RoutesReady")

    async def begun():
        route = await local.cluster.get(ROUTE, "a", "default")
        return "pilotlight.dev/rollout" in route["metadata"]["annotations"]

    await until(begun)
    body = {"metadata": {"annotations": {ANNOTATION: None}}}
    await local.cluster.patch(SERVICE, "a", "default", body)
    status = (await local.ready("a"))["status"]
    assert [(item["revisionName"], item["percent"]) for item in status["traffic"]] == [("a-00002", 100)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("soon", "invalid value: soon"),
        ("1.5s", "rollout-duration=1.5s is not at second precision"),
        ("-1s", "rollout-duration=-1s must be positive"),
    ],
)
async def test_a_duration_that_is_none_is_refused(local: LocalCluster, value, text):
    traffic = [{"revisionName": "a", "percent": 100}]
    meta = {"name": "a", "namespace": "default", "annotations": {ANNOTATION: value}}
    for resource, body in (
        (SERVICE, rolled_out(value, "1")),
        (ROUTE, {"metadata": meta, "spec": {"traffic": traffic}}),
    ):
        with pytest.raises(Invalid) as refused:
            await local.cluster.create(resource, body)
        assert f"{text}: metadata.annotations.{ANNOTATION}" in refused.value.message
