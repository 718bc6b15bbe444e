"""The floor: min-scale on a Revision moves replicas in place, as observed on a real control plane."""

import pytest

from knative.client.errors import Invalid
from knative.client.resources import CONFIG_MAP, CONFIGURATION, POD_AUTOSCALER, REVISION, SERVICE
from tests.knative.platform.conftest import LocalCluster, service, until


async def test_raising_the_floor_on_the_revision_starts_replicas_without_a_new_revision(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    await local.set_floor("a-00001", 3)
    await local.ready_pods(3, "a-00001")
    assert (await local.cluster.get(CONFIGURATION, "a", "default"))["metadata"]["generation"] == 1
    assert len(await local.cluster.list(REVISION, "default")) == 1
    autoscaler = await local.cluster.get(POD_AUTOSCALER, "a-00001", "default")
    assert autoscaler["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] == "3"


async def test_a_pod_has_its_revisions_annotations_except_those_of_the_autoscaler(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a", scale={"min-scale": "1"}))
    await local.ready("a")
    of_autoscaler = {"autoscaling.knative.dev/target": "7", "autoscaling.knative.dev.example.com/note": "x"}
    others = {"example.com/note": "y"}
    body = {"metadata": {"annotations": of_autoscaler | others}}
    await local.cluster.patch(REVISION, "a-00001", "default", body)

    async def passed_on():
        found = await local.cluster.get(POD_AUTOSCALER, "a-00001", "default")
        return (of_autoscaler | others).items() <= found["metadata"]["annotations"].items()

    await until(passed_on)
    await local.set_floor("a-00001", 2)
    await local.ready_pods(2, "a-00001")
    annotations = [pod["metadata"]["annotations"] for pod in await local.pods()]
    assert sorted("example.com/note" in found for found in annotations) == [False, True]  # only the new one
    assert not any(key.startswith("autoscaling.knative.dev") for found in annotations for key in found)


async def test_lowering_the_floor_hands_control_back_to_the_autoscaler(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a", scale={"min-scale": "3"}))
    await local.ready_pods(3)
    await local.set_floor("a-00001", None)

    async def fewer():
        return len(await local.pods()) < 3

    await until(fewer)


async def test_a_floor_acts_on_a_revision_that_started_at_zero_and_never_had_a_request(local: LocalCluster):
    settings = {"metadata": {"name": "config-autoscaler", "namespace": "knative-serving"}}
    await local.cluster.apply(CONFIG_MAP, settings | {"data": {"allow-zero-initial-scale": "true"}})
    await local.cluster.create(SERVICE, service("a", scale={"initial-scale": "0"}))
    await local.ready("a")
    assert await local.pods() == []
    await local.set_floor("a-00001", 2)
    await local.ready_pods(2)


async def test_a_change_of_the_pod_autoscaler_is_reverted(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a", scale={"min-scale": "1"}))
    await local.ready("a")
    body = {"metadata": {"annotations": {"autoscaling.knative.dev/min-scale": "4"}}}
    await local.cluster.patch(POD_AUTOSCALER, "a-00001", "default", body)

    async def restored():
        found = await local.cluster.get(POD_AUTOSCALER, "a-00001", "default")
        return found["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] == "1"

    await until(restored)
    assert len(await local.pods()) == 1


async def test_a_revision_without_traffic_accepts_a_floor_and_ignores_it(local: LocalCluster):
    await local.cluster.apply(SERVICE, service("a", env={"N": "1"}))
    await local.ready("a")
    await local.cluster.apply(SERVICE, service("a", env={"N": "2"}))
    await local.ready("a")

    async def reserved():
        old = await local.cluster.get(REVISION, "a-00001", "default")
        return old["metadata"]["labels"]["serving.knative.dev/routingState"] == "reserve"

    await until(reserved)
    await local.set_floor("a-00001", 2)
    await local.set_floor("a-00002", 2)  # the later one has acted, so the earlier one would have
    await local.ready_pods(2, "a-00002")
    assert len(await local.pods("a-00001")) <= 1


async def test_a_tag_with_no_share_makes_a_revision_reachable_again(local: LocalCluster):
    await local.cluster.apply(SERVICE, service("a", revision="a-one"))
    await local.ready("a")
    tagged = [{"latestRevision": True, "percent": 100}, {"revisionName": "a-one", "percent": 0, "tag": "old"}]
    await local.cluster.apply(SERVICE, service("a", revision="a-two", traffic=tagged))
    await local.ready("a")
    await local.set_floor("a-one", 2)
    await local.ready_pods(2, "a-one")


@pytest.mark.parametrize("value", ["-1", "abc", "1.5", "2147483648"])
async def test_a_floor_that_is_not_a_number_is_refused_in_knatives_words(local: LocalCluster, value):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    with pytest.raises(Invalid, match=r"validation.webhook.serving.knative.dev.*validation failed"):
        await local.set_floor("a-00001", value)


async def test_a_new_revision_starts_with_the_templates_floor(local: LocalCluster):
    await local.cluster.apply(SERVICE, service("a", env={"N": "1"}))
    await local.ready("a")
    await local.set_floor("a-00001", 2)
    await local.ready_pods(2, "a-00001")
    await local.cluster.apply(SERVICE, service("a", env={"N": "2"}))
    await local.ready("a")
    revision = await local.cluster.get(REVISION, "a-00002", "default")
    assert "autoscaling.knative.dev/min-scale" not in revision["metadata"]["annotations"]
    assert len(await local.pods("a-00002")) == 1
