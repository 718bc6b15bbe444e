"""Validation names the field, the value and what would be right."""

import pytest

from knative.client.errors import Invalid
from knative.client.resources import CONFIG_MAP, SERVICE
from tests.knative.platform.api.raw_http import CMS, KSVCS, MERGE, Raw, config_map
from tests.knative.platform.conftest import LocalCluster, service


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"spec": {"templat": {}}}, 'unknown field "spec.templat"'),
        ({"sepc": {}}, 'unknown field "sepc"'),
        (
            {"spec": {"template": {"spec": {"containers": [{"image": "x", "comand": ["a"]}]}}}},
            r'unknown field "spec.template.spec.containers\[0\].comand"',
        ),
    ],
)
async def test_strict_validation_names_unknown_fields(local: LocalCluster, change, text):
    await local.cluster.create(SERVICE, service("a"))
    with pytest.raises(Invalid, match=rf"strict decoding error: {text}"):
        await local.cluster.patch(SERVICE, "a", "default", change)


async def test_without_strict_validation_unknown_fields_are_dropped_with_a_warning(raw: Raw):
    body = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", **service("a")}
    body["spec"]["nonsense"] = 1
    status, made, headers = await raw("POST", KSVCS, body, content_type="application/json")
    assert status == 201
    assert "nonsense" not in made["spec"]
    assert headers["warning"] == '299 - "unknown field \\"spec.nonsense\\""'
    status, _, headers = await raw(
        "PATCH", f"{KSVCS}/a?fieldValidation=Ignore", {"spec": {"x": 1}}, content_type=MERGE
    )
    assert (status, "warning" in headers) == (200, False)


async def test_a_duplicate_key_is_refused_when_strict(raw: Raw):
    text = '{"metadata":{"name":"cm"},"data":{"a":"1","a":"2"}}'
    status, body, _ = await raw(
        "POST", f"{CMS}?fieldValidation=Strict", text, content_type="application/json"
    )
    assert (status, body["message"]) == (400, 'strict decoding error: duplicate field "a"')


async def test_an_unknown_patch_type_is_415(local: LocalCluster, raw: Raw):
    await local.cluster.create(SERVICE, service("a"))
    for kind in ("application/strategic-merge-patch+json", "application/apply-patch+cbor", "text/plain"):
        status, refused, _ = await raw("PATCH", f"{KSVCS}/a?fieldManager=m", "{}", content_type=kind)
        assert (status, refused["reason"]) == (415, "UnsupportedMediaType"), kind


async def test_a_wrong_type_is_named_with_its_field(local: LocalCluster):
    body = service("a")
    body["spec"]["template"]["spec"]["containerConcurrency"] = "ten"
    with pytest.raises(Invalid, match="must be of type integer") as refused:
        await local.cluster.create(SERVICE, body)
    assert refused.value.causes[0].field == "spec.template.spec.containerConcurrency"


@pytest.mark.parametrize(
    ("body", "media_type", "status", "text"),
    [
        ("{", "application/json", 400, "unrecognized"),
        ("[]", "application/json", 400, "must be a JSON object"),
        ("a: [", "application/yaml", 400, "unrecognized"),
        ("x", "text/plain", 415, "text/plain"),
        ('{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"}}', "application/json", 400, "is not a"),
        ('{"metadata":{"name":"Not_A_Name"}}', "application/json", 422, "RFC 1123"),
        ('{"metadata":{"namespace":"other","name":"a"}}', "application/json", 400, "does not match"),
    ],
)
async def test_a_body_that_cannot_be_read_is_explained(raw: Raw, body, media_type, status, text):
    got, answer, _ = await raw("POST", CMS, body, content_type=media_type)
    assert (got, answer["kind"]) == (status, "Status")
    assert text in answer["message"]


VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
    "validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


@pytest.mark.parametrize(
    ("meta", "field", "text"),
    [
        ({"labels": {"x": "not a value!"}}, "metadata.labels", f'"not a value!": {VALUE_RULE}'),
        ({"labels": {"x": "y" * 64}}, "metadata.labels", "must be no more than 63 bytes"),
        ({"labels": {"/x": "y"}}, "metadata.labels", "prefix part must be non-empty"),
        ({"labels": {"example.com/": "y"}}, "metadata.labels", "name part must be non-empty"),
        ({"annotations": {"a b": "y"}}, "metadata.annotations", '"a b": name part must consist of'),
        ({"annotations": {"a/b/c": "y"}}, "metadata.annotations", "a qualified name must consist of"),
        (
            {"annotations": {"a": "y" * 262_145}},
            "metadata.annotations",
            "Too long: may not be more than 262144",
        ),
        ({"finalizers": ["not one!"]}, "metadata.finalizers", "name part must consist of"),
        ({"name": "a" * 254}, "metadata.name", "must be no more than 253 bytes"),
    ],
)
async def test_invalid_metadata_is_named(local: LocalCluster, meta, field, text):
    with pytest.raises(Invalid) as refused:
        await local.cluster.create(
            CONFIG_MAP, config_map() | {"metadata": {**config_map()["metadata"], **meta}}
        )
    assert {cause.field for cause in refused.value.causes} == {field}
    assert any(text in cause.message for cause in refused.value.causes)


async def test_metadata_that_kubernetes_allows_is_accepted(local: LocalCluster):
    meta = {
        "labels": {"app.kubernetes.io/name": "", "X": "My_Value.1"},
        "annotations": {"Example.com/Anything": "any text at all: é\n"},
        "finalizers": ["example.com/hold"],
    }
    made = await local.cluster.create(CONFIG_MAP, config_map(**meta))
    assert {key: made["metadata"][key] for key in meta} == meta


async def test_warnings_fit_into_the_head_of_a_response(raw: Raw):
    body = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", **service("a")}
    marks = {f"autoscaling.knative.dev/unknown-{number:04}": "1" for number in range(2000)}
    body["spec"]["template"]["metadata"]["annotations"] = marks
    status, _, headers = await raw("POST", f"{KSVCS}?dryRun=All", body, content_type="application/json")
    warnings = headers.getall("warning")
    assert status == 201
    assert 10 < len(warnings) < 100
    assert sum(map(len, warnings)) < 8192
    assert warnings[0].startswith('299 - "unknown autoscaling annotation')


async def test_a_warning_cannot_break_the_head_of_a_response(raw: Raw):
    body = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", **service("a")}
    body["spec"]['a\r\nX-Injected: "1"\x00\\é'] = 1
    status, _, headers = await raw("POST", f"{KSVCS}?dryRun=All", body, content_type="application/json")
    assert status == 201
    assert headers["warning"] == r'299 - "unknown field \"spec.a  X-Injected: \"1\" \\?\""'
    assert "x-injected" not in headers
