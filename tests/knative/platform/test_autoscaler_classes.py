"""Autoscaler classes: kpa scales, hpa is replaced by it, any other is left to a third party."""

import pytest

from knative.client.cluster import Cluster
from knative.client.errors import Invalid
from knative.client.resources import POD_AUTOSCALER, REVISION, SERVICE
from tests.knative.platform.conftest import LocalCluster, condition, service, until
from tests.knative.platform.test_settings import configure

CLASS, METRIC, TARGET = (f"autoscaling.knative.dev/{name}" for name in ("class", "metric", "target"))
KPA, HPA = "kpa.autoscaling.knative.dev", "hpa.autoscaling.knative.dev"


async def class_of(local: LocalCluster, name: str = "a-00001") -> str:
    autoscaler = await local.cluster.get(POD_AUTOSCALER, name, "default")
    return autoscaler["metadata"]["annotations"][CLASS]


async def test_a_service_of_class_hpa_is_warned_of_and_scaled_by_kpa(local: LocalCluster):
    warnings: list[str] = []
    async with Cluster.from_kubeconfig(local.platform.kubeconfig, on_warning=warnings.append) as cluster:
        scale = {"class": HPA, "metric": "memory", "target": "0.5", "min-scale": "2", "max-scale": "3"}
        await cluster.create(SERVICE, service("a", scale=scale))
    (text,) = warnings
    assert f"class {HPA} is not supported here: {KPA} scales this Revision" in text
    assert text.endswith(f": spec.template.metadata.annotations.{CLASS}")
    await local.ready("a")
    await local.ready_pods(2)
    autoscaler = await local.cluster.get(POD_AUTOSCALER, "a-00001", "default")
    marks = autoscaler["metadata"]["annotations"]
    assert (marks[CLASS], marks[METRIC], marks.get(TARGET)) == (KPA, "concurrency", None)
    assert (await local.call("a", "/"))[0] == 200


async def test_hpa_as_the_default_class_means_kpa_too(local: LocalCluster):
    await configure(local, "autoscaler", pod_autoscaler_class=HPA)
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    assert await class_of(local) == KPA


async def test_the_class_can_be_changed_and_taken_back(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a", scale={"min-scale": "2"}))
    await local.ready_pods(2)
    for name in ("other.example.com", KPA):
        body = {"metadata": {"annotations": {CLASS: name}}}
        await local.cluster.patch(REVISION, "a-00001", "default", body)

        async def changed(wanted: str = name) -> bool:
            return await class_of(local) == wanted

        await until(changed)
    await local.ready_pods(2)


async def test_what_no_revision_may_have_is_refused_on_its_pod_autoscaler_too(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    body = {"metadata": {"annotations": {CLASS: "x.autoscaling.knative.dev"}}}
    with pytest.raises(Invalid, match=r"invalid value: x\.autoscaling\.knative\.dev: metadata\.annotations"):
        await local.cluster.patch(POD_AUTOSCALER, "a-00001", "default", body)


async def test_a_third_partys_class_keeps_its_initial_scale_and_is_warned_of(local: LocalCluster):
    warnings: list[str] = []
    async with Cluster.from_kubeconfig(local.platform.kubeconfig, on_warning=warnings.append) as cluster:
        body = service("a", scale={"class": "other.example.com", "initial-scale": "2"})
        await cluster.create(SERVICE, body)
    assert "no autoscaler of class other.example.com runs here" in warnings[0]
    await local.ready_pods(2)
    autoscaler = await local.cluster.get(POD_AUTOSCALER, "a-00001", "default")
    assert not autoscaler.get("status")
    assert condition(await local.cluster.get(REVISION, "a-00001", "default"))["status"] == "Unknown"
