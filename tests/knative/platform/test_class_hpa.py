"""Class hpa, with real replicas that use real processors and memory."""

from pathlib import Path

import pytest

from knative.client.cluster import (
    EVENT,
    HORIZONTAL_POD_AUTOSCALER,
    POD_AUTOSCALER,
    REVISION,
    SERVICE,
    Cluster,
    Forbidden,
    Invalid,
    NotFound,
)
from knative.local.platform.platform import Platform
from tests.knative.platform.api.raw import Raw
from tests.knative.platform.conftest import World, condition, platform_config, service, until
from tests.knative.platform.test_settings import configure

PLATFORM = {"metrics_interval_s": 0.25}
HPA = "hpa.autoscaling.knative.dev"
BURNER = Path(__file__).with_name("burner.py")


def scaled(name, **scale):
    """A Service of class hpa whose replicas ask for a tenth of a core."""
    return service(
        name,
        scale={"class": HPA} | {key.replace("_", "-"): value for key, value in scale.items()},
        container={
            "command": ["python", str(BURNER)],
            "resources": {"requests": {"cpu": "100m"}},
        },
    )


async def horizontal(world: World, name: str = "a-00001"):
    return await world.cluster.get(HORIZONTAL_POD_AUTOSCALER, name, "default")


async def test_replicas_that_burn_cpu_get_company_and_objects_say_so_as_on_a_cluster(world: World):
    await world.cluster.create(SERVICE, scaled("a", metric="cpu", target="50", max_scale="2"))
    await world.ready("a")
    made = await horizontal(world)
    assert made["spec"] == {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a-00001-deployment"},
        "minReplicas": 1,
        "maxReplicas": 2,
        "metrics": [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
            }
        ],
    }
    await world.call("a", "/burn=20")
    await world.ready_pods(2)
    found = await horizontal(world)
    assert found["status"]["desiredReplicas"] == 2
    assert condition(found, "ScalingActive")["reason"] == "ValidMetricFound"
    events = await world.cluster.list(EVENT, "default")
    about = [event for event in events if event["involvedObject"]["uid"] == found["metadata"]["uid"]]
    (rescaled,) = [event for event in about if event["reason"] == "SuccessfulRescale"]
    assert rescaled["message"] == (
        "New size: 2; reason: cpu resource utilization (percentage of request) above target"
    )
    autoscaler = await world.cluster.get(POD_AUTOSCALER, "a-00001", "default")
    status = autoscaler["status"]
    assert (status["desiredScale"], status["actualScale"]) == (2, 2)
    assert (status["metricsServiceName"], status["serviceName"]) == ("a-00001-private", "a-00001")
    assert {item["type"]: item["status"] for item in status["conditions"]} == {
        "Active": "True",
        "Ready": "True",
        "SKSReady": "True",
        "ScaleTargetInitialized": "True",
    }


async def test_memory_is_compared_with_an_amount(world: World):
    await world.cluster.create(SERVICE, scaled("a", metric="memory", target="1", max_scale="3"))
    await world.ready_pods(3)
    found = await horizontal(world)
    (metric,) = found["spec"]["metrics"]
    assert metric["resource"]["target"] == {"type": "AverageValue", "averageValue": "1Mi"}

    async def limited():
        return condition(await horizontal(world), "ScalingLimited")["reason"] == "TooManyReplicas"

    await until(limited)
    path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
    _, table, _ = await Raw(world)("GET", path, accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    columns = [column["name"] for column in table["columnDefinitions"]]
    assert columns == ["Name", "Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age"]
    name, reference, targets, least, most, replicas, _ = table["rows"][0]["cells"]
    assert (name, reference) == ("a-00001", "Deployment/a-00001-deployment")
    assert (str(least), most, replicas) == ("1", 3, 3)
    assert targets.startswith("memory: ")
    assert targets.endswith("/1Mi")


async def test_a_metric_that_cannot_be_had_shows_in_the_horizontal_pod_autoscaler_only(world: World):
    await world.cluster.create(SERVICE, scaled("a", metric="queue-length", target="5"))
    await world.ready("a")

    async def inactive():
        found = condition(await horizontal(world), "ScalingActive")
        return found if found["status"] == "False" else None

    found = await until(inactive)
    assert found["reason"] == "FailedGetPodsMetric"
    assert found["message"].endswith("no custom metrics API (custom.metrics.k8s.io) registered")
    autoscaler = await world.cluster.get(POD_AUTOSCALER, "a-00001", "default")
    assert condition(autoscaler, "Active")["status"] == "True"


async def test_floors_move_replicas_at_once_and_a_change_by_hand_is_put_back(world: World):
    # No more than the floor: on a slow machine the processor time of a start alone asks for another replica.
    await world.cluster.create(SERVICE, scaled("a", max_scale="3"))
    await world.ready("a")
    await world.set_floor("a-00001", 3)
    await world.ready_pods(3)
    await world.cluster.patch(
        HORIZONTAL_POD_AUTOSCALER, "a-00001", "default", {"spec": {"minReplicas": 1, "maxReplicas": 1}}
    )

    async def restored():
        return (await horizontal(world))["spec"]["minReplicas"] == 3

    await until(restored)
    assert len(await world.pods()) == 3


async def test_nobody_makes_a_horizontal_pod_autoscaler_by_hand(world: World):
    body = {
        "metadata": {"name": "x", "namespace": "default"},
        "spec": {"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "x"}},
    }
    with pytest.raises(Forbidden, match="made by Revisions"):
        await world.cluster.create(HORIZONTAL_POD_AUTOSCALER, body)


async def test_what_kubernetes_refuses_fails_the_revision(world: World):
    await world.cluster.create(SERVICE, scaled("a", metric="memory", target="0.5"))
    found = await world.condition_of(POD_AUTOSCALER, "a-00001", "False", "Active")
    assert (found["reason"], found["message"]) == (
        "FailedCreate",
        'Failed to create HorizontalPodAutoscaler "a-00001".',
    )
    await world.revision_condition("a-00001", "False")


async def test_the_class_can_be_changed_and_taken_back(world: World):
    await world.cluster.create(SERVICE, service("a", scale={"min-scale": "2"}))
    await world.ready_pods(2)
    body = {"metadata": {"annotations": {"autoscaling.knative.dev/class": HPA}}}
    await world.cluster.patch(REVISION, "a-00001", "default", body)

    async def made():
        try:
            return await horizontal(world)
        except NotFound:
            return None

    await until(made)
    assert len(await world.pods()) == 2
    body = {"metadata": {"annotations": {"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"}}}
    await world.cluster.patch(REVISION, "a-00001", "default", body)

    async def gone():
        return await made() is None

    await until(gone)
    await world.ready_pods(2)


async def test_what_no_revision_may_have_is_refused_on_its_pod_autoscaler_too(world: World):
    await world.cluster.create(SERVICE, service("a"))
    await world.ready("a")
    body = {"metadata": {"annotations": {"autoscaling.knative.dev/class": "x.autoscaling.knative.dev"}}}
    with pytest.raises(Invalid, match=r"invalid value: x\.autoscaling\.knative\.dev: metadata\.annotations"):
        await world.cluster.patch(POD_AUTOSCALER, "a-00001", "default", body)


async def test_the_default_class_of_the_configuration_counts(world: World):
    await configure(world, "autoscaler", pod_autoscaler_class=HPA)
    await world.cluster.create(SERVICE, service("a"))
    await world.ready("a")
    assert (await horizontal(world))["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 80


async def test_a_class_of_somebody_elses_keeps_its_initial_scale_and_is_warned_of(world: World):
    warnings: list[str] = []
    async with Cluster.from_kubeconfig(world.platform.kubeconfig, on_warning=warnings.append) as cluster:
        body = service("a", scale={"class": "other.example.com", "initial-scale": "2"})
        await cluster.create(SERVICE, body)
    assert "no autoscaler of class other.example.com runs here" in warnings[0]
    await world.ready_pods(2)
    autoscaler = await world.cluster.get(POD_AUTOSCALER, "a-00001", "default")
    assert not autoscaler.get("status")
    assert condition(await world.cluster.get(REVISION, "a-00001", "default"))["status"] == "Unknown"


async def test_without_a_cpu_request_a_warning_says_that_nothing_will_be_scaled(world: World):
    warnings: list[str] = []
    async with Cluster.from_kubeconfig(world.platform.kubeconfig, on_warning=warnings.append) as cluster:
        await cluster.create(SERVICE, service("a", scale={"class": HPA}))
    (text,) = warnings
    assert "compares with the CPU request, and there is none" in text
    assert "spec.template.spec.containers[0].resources.requests.cpu" in text


async def test_the_number_survives_a_restart(tmp_path: Path):
    config = platform_config(tmp_path, metrics_interval_s=0.25)
    async with Platform(config) as platform, Cluster.from_kubeconfig(platform.kubeconfig) as cluster:
        world = World(platform, cluster, None)
        await cluster.create(SERVICE, scaled("a", metric="memory", target="1", max_scale="2"))
        await world.ready("a")
        await world.ready_pods(2)
    config = platform_config(tmp_path, metrics_interval_s=60.0)
    async with Platform(config) as platform, Cluster.from_kubeconfig(platform.kubeconfig) as cluster:
        await World(platform, cluster, None).ready_pods(2)
