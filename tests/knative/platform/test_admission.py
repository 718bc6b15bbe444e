"""Admission of Knative's kinds: denials in the words of its webhook, warnings, defaults."""

from typing import Any

import pytest

from knative.client.cluster import Cluster
from knative.client.errors import Cause, Invalid
from knative.client.resources import CONFIG_MAP, CONFIGURATION, REVISION, ROUTE, SERVICE, WARM_POOL
from tests.knative.platform.conftest import LocalCluster, service

ANNOTATION = "spec.template.metadata.annotations.autoscaling.knative.dev"
SPEC = "spec.template.spec"


def with_container(**container: Any) -> dict[str, Any]:
    return service("a", container=container)


def mounted(source: dict[str, Any], **mount: Any) -> dict[str, Any]:
    volume = {"name": "v", **source}
    return service(
        "a",
        container={"volumeMounts": [{"name": "v", "mountPath": "/data", **mount}]},
        spec={"volumes": [volume]},
    )


REFUSED = [
    (service("a", scale={"min-scale": "-1"}), f"expected 0 <= -1 <= 2147483647: {ANNOTATION}/min-scale"),
    (service("a", scale={"min-scale": "abc"}), f"invalid value: abc: {ANNOTATION}/min-scale"),
    (service("a", scale={"min-scale": "3", "max-scale": "2"}), "min-scale=3"),
    (service("a", scale={"target": "0.001"}), f"{ANNOTATION}/target"),
    (service("a", scale={"activation-scale": "1"}), f"{ANNOTATION}/activation-scale"),
    (service("a", scale={"window": "5s"}), f"{ANNOTATION}/window"),
    (service("a", scale={"scale-down-delay": "2h"}), f"{ANNOTATION}/scale-down-delay"),
    (service("a", scale={"initial-scale": "0"}), "initial-scale=0 not allowed by cluster"),
    (service("a", scale={"target-burst-capacity": "-2"}), f"{ANNOTATION}/target-burst-capacity"),
    (
        service("a", annotations={"serving.knative.dev/progress-deadline": "0s"}),
        "invalid value: 0s: spec.template.metadata.annotations.serving.knative.dev/progress-deadline",
    ),
    (
        service("a", spec={"containerConcurrency": 1001}),
        f"expected 0 <= 1001 <= 1000: {SPEC}.containerConcurrency",
    ),
    (service("a", spec={"timeoutSeconds": 601}), f"expected 0 <= 601 <= 600: {SPEC}.timeoutSeconds"),
    (service("a", spec={"nodeSelector": {"gpu": "h100"}}), f"must not set the field(s): {SPEC}.nodeSelector"),
    (
        service("a", spec={"runtimeClassName": "nvidia"}),
        f"must not set the field(s): {SPEC}.runtimeClassName",
    ),
    (service("a", spec={"tolerations": []}), f"must not set the field(s): {SPEC}.tolerations"),
    (
        mounted({"persistentVolumeClaim": {"claimName": "c"}}, readOnly=True),
        f"must not set the field(s): {SPEC}.volumes[0].persistentVolumeClaim",
    ),
    (mounted({"hostPath": {"path": "/x"}}), f"must not set the field(s): {SPEC}.volumes[0].hostPath"),
    (mounted({"emptyDir": {}}, mountPath="/var"), 'mountPath "/var" is a reserved path'),
    (mounted({"emptyDir": {}}, name="other"), "volumeMount has no matching volume"),
    (mounted({}), "expected exactly one, got neither"),
    (with_container(image=""), f"missing field(s): {SPEC}.containers[0].image"),
    (
        with_container(env=[{"name": "PORT", "value": "1"}]),
        f'"PORT" is a reserved environment variable: {SPEC}.containers[0].env[0].name',
    ),
    (
        with_container(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
        f"must not set the field(s): {SPEC}.containers[0].env[0].valueFrom.fieldRef\nthis platform has no downward API",
    ),
    (
        with_container(ports=[{"containerPort": 8012}]),
        f"8012 is a reserved port: {SPEC}.containers[0].ports.containerPort",
    ),
    (
        with_container(ports=[{"containerPort": 1}, {"containerPort": 2}]),
        f"more than one container port is set: {SPEC}.containers[*].ports",
    ),
    (with_container(ports=[{"containerPort": 1, "name": "http"}]), "Port name http is not allowed"),
    (with_container(resources={"requests": {"nvidia.com/gpu": "1"}}), "limits.nvidia.com/gpu"),
    (with_container(resources={"limits": {"nvidia.com/gpu": "0.5"}}), "must be an integer"),
    (
        with_container(readinessProbe={"httpGet": {"path": "/"}, "failureThreshold": 3}),
        f"must not set the field(s): {SPEC}.containers[0].readinessProbe.failureThreshold",
    ),
    (
        with_container(readinessProbe={"httpGet": {}, "tcpSocket": {}}),
        "expected exactly one, got both",
    ),
    (with_container(startupProbe={"httpGet": {"path": "/"}}), "startupProbe.httpGet.port"),
    (
        with_container(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}),
        f"must not set the field(s): {SPEC}.containers[0].securityContext.capabilities.add",
    ),
    (
        service("a", traffic=[{"latestRevision": True, "percent": 90}]),
        "Traffic targets sum to 90, want 100: spec.traffic",
    ),
    (
        service("a", traffic=[{"latestRevision": False, "percent": 100}]),
        "invalid value: false: spec.traffic[0].latestRevision",
    ),
    (
        service("a", traffic=[{"percent": 50, "tag": "t"}, {"percent": 50, "tag": "t"}]),
        'Multiple definitions for "t": spec.traffic[0].tag, spec.traffic[1].tag',
    ),
    (service("a", revision="b-1"), 'invalid value: "b-1" must have prefix "a-": spec.template.metadata.name'),
    (service("1a"), "not a DNS 1035 label"),
]


@pytest.mark.parametrize(("body", "text"), REFUSED, ids=[text[:60] for _, text in REFUSED])
async def test_services_are_denied_in_knatives_words(local: LocalCluster, body, text):
    with pytest.raises(Invalid) as refused:
        await local.cluster.create(SERVICE, body)
    message = refused.value.message
    assert message.startswith(
        'admission webhook "validation.webhook.serving.knative.dev" denied the request: validation failed: '
    )
    assert text in message


async def test_autoscaling_annotations_on_the_service_itself_are_refused(local: LocalCluster):
    body = service("a")
    body["metadata"]["annotations"] = {"autoscaling.knative.dev/min-scale": "1"}
    with pytest.raises(Invalid, match=r"must be put under .spec\.template\.metadata\.annotations. to work"):
        await local.cluster.create(SERVICE, body)


async def test_min_scale_as_a_number_has_a_wrong_type(local: LocalCluster):
    with pytest.raises(Invalid, match="must be of type string"):
        await local.cluster.create(SERVICE, service("a", scale={"min-scale": 1}))


@pytest.mark.parametrize("field", ["lifecycle", "terminationGracePeriodSeconds", "restartPolicy"])
async def test_fields_that_are_not_in_the_schema_are_unknown(local: LocalCluster, field):
    with pytest.raises(Invalid, match=f'unknown field "spec.template.spec.{field}"'):
        await local.cluster.create(SERVICE, service("a", spec={field: "x"}))


async def test_a_template_with_a_name_cannot_change_without_another_name(local: LocalCluster):
    await local.cluster.apply(SERVICE, service("a", revision="a-one"))
    with pytest.raises(Invalid, match="Saw the following changes without a name change"):
        await local.cluster.apply(SERVICE, service("a", revision="a-one", env={"A": "b"}))


async def test_a_revisions_spec_is_immutable(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    with pytest.raises(Invalid, match="Immutable fields changed"):
        await local.cluster.patch(REVISION, "a-00001", "default", {"spec": {"containerConcurrency": 5}})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (service("a", scale={"minscale": "1"}), "unknown autoscaling annotation"),
        (service("a", scale={"initial-scale": "3", "max-scale": "2"}), "initial-scale=3"),
        (service("a", scale={"target": "20"}, spec={"containerConcurrency": 10}), "target=20"),
        (service("a", container={"command": []}), "set command"),
    ],
)
async def test_mistakes_that_knative_accepts_are_warned_of(local: LocalCluster, body, text):
    warnings: list[str] = []
    async with Cluster.from_kubeconfig(local.platform.kubeconfig, on_warning=warnings.append) as cluster:
        await cluster.create(SERVICE, body)
    assert len(warnings) == 1
    assert text in warnings[0]


async def test_feature_flags_act_at_once(local: LocalCluster):
    body = service("a", spec={"nodeSelector": {"gpu": "h100"}})
    with pytest.raises(Invalid):
        await local.cluster.create(SERVICE, body)
    meta = {"name": "config-features", "namespace": "knative-serving"}
    switches = {"kubernetes.podspec-nodeselector": "enabled"}
    await local.cluster.apply(CONFIG_MAP, {"metadata": meta, "data": switches})
    await local.cluster.create(SERVICE, body)


async def test_defaults_are_those_of_knative(local: LocalCluster):
    made = await local.cluster.create(SERVICE, service("a"))
    spec = made["spec"]["template"]["spec"]
    assert (spec["containerConcurrency"], spec["timeoutSeconds"], spec["enableServiceLinks"]) == (
        0,
        300,
        False,
    )
    assert spec["containers"][0]["name"] == "user-container"
    assert spec["containers"][0]["readinessProbe"] == {"successThreshold": 1, "tcpSocket": {"port": 0}}
    assert made["spec"]["traffic"] == [{"latestRevision": True, "percent": 100}]
    assert made["metadata"]["annotations"]["serving.knative.dev/creator"] == "kubernetes-admin"


CREATOR, MODIFIER = "serving.knative.dev/creator", "serving.knative.dev/lastModifier"


@pytest.mark.parametrize("resource", [SERVICE, CONFIGURATION, ROUTE], ids=lambda resource: resource.kind)
async def test_creator_and_modifier_are_the_users_whatever_the_object_says(local: LocalCluster, resource):
    await local.cluster.create(SERVICE, service("other"))
    body = service("a") if resource is SERVICE else service("b")
    if resource is ROUTE:
        body["spec"] = {"traffic": [{"configurationName": "other", "percent": 100}]}
    name = body["metadata"]["name"]
    body["metadata"]["annotations"] = {CREATOR: "someone-else", MODIFIER: "someone-else"}
    made = await local.cluster.create(resource, body)
    marks = made["metadata"]["annotations"]
    assert (marks[CREATOR], marks[MODIFIER]) == ("kubernetes-admin", "kubernetes-admin")
    for annotation, text in (
        (CREATOR, f"annotation value is immutable: metadata.annotations.{CREATOR}"),
        (MODIFIER, f"invalid value: me: metadata.annotations.{MODIFIER}"),
    ):
        with pytest.raises(Invalid) as refused:
            await local.cluster.patch(
                resource, name, "default", {"metadata": {"annotations": {annotation: "me"}}}
            )
        assert refused.value.message == (
            'admission webhook "validation.webhook.serving.knative.dev" denied the request: '
            f"validation failed: {text}"
        )
    with pytest.raises(Invalid, match="annotation value is immutable"):
        await local.cluster.patch(resource, name, "default", {"metadata": {"annotations": {CREATOR: None}}})
    await local.cluster.patch(resource, name, "default", {"metadata": {"annotations": {"note": "fine"}}})
    if resource is not SERVICE:
        await local.cluster.delete(resource, name, "default")


async def test_a_function_can_validate_what_is_stored(tmp_path):
    from knative.local.apiserver.admission.validating_function import AdmissionResponse
    from knative.local.platform.platform import Platform
    from tests.knative.platform.conftest import platform_config

    def validate(obj: dict[str, Any], old: dict[str, Any] | None) -> AdmissionResponse:
        if obj["spec"]["target"] == "bad":
            return AdmissionResponse([Cause("must be good", "spec.target", "FieldValueInvalid")])
        return AdmissionResponse(warnings=() if old is None else [f"was {old['spec']['target']}"])

    warnings: list[str] = []
    config = platform_config(tmp_path, validating={WARM_POOL: validate})
    async with (
        Platform(config) as platform,
        Cluster.from_kubeconfig(platform.kubeconfig, on_warning=warnings.append) as cluster,
    ):
        pool = {"metadata": {"name": "p", "namespace": "default"}, "spec": {"target": "bad"}}
        with pytest.raises(Invalid) as refused:
            await cluster.apply(WARM_POOL, pool)
        assert refused.value.message == (
            'admission webhook "validation.webhook.pilotlight.dev" denied the request: '
            "validation failed: spec.target: must be good"
        )
        assert [cause.field for cause in refused.value.causes] == ["spec.target"]
        await cluster.apply(WARM_POOL, pool | {"spec": {"target": "a"}})
        await cluster.apply(WARM_POOL, pool | {"spec": {"target": "b"}})
        assert warnings == ["was a"]
        with pytest.raises(Invalid):  # and it changes nothing
            await cluster.patch(WARM_POOL, "p", "default", {"spec": {"target": "bad"}})
        assert (await cluster.get(WARM_POOL, "p", "default"))["spec"]["target"] == "b"
