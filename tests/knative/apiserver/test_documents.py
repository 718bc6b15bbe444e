"""Discovery and OpenAPI documents of the kinds that are served."""

import pytest

from knative.local.apiserver import kinds
from knative.local.apiserver.api import discovery, openapi

KINDS = kinds.load()


def test_the_core_group_and_all_others():
    assert discovery.core_versions("localhost:8081")["versions"] == ["v1"]
    names = [group["name"] for group in discovery.group_list(KINDS)["groups"]]
    assert names == sorted(names)
    assert set(names) == {resource.group for resource in KINDS if resource.group}


@pytest.mark.parametrize("name", ["serving.knative.dev", "pilotlight.dev", "coordination.k8s.io"])
def test_a_group_has_one_preferred_version(name):
    found = discovery.group(KINDS, name)
    assert found is not None
    assert found["preferredVersion"] in found["versions"]


@pytest.mark.parametrize("name", ["apps", "", "knative.dev"])
def test_a_group_that_is_not_served_is_none(name):
    assert discovery.group(KINDS, name) is None
    assert discovery.resource_list(KINDS, name, "v9") is None


def test_every_kind_is_listed_with_its_subresources():
    for resource, info in KINDS.items():
        listed = discovery.resource_list(KINDS, resource.group, resource.version)
        assert listed is not None
        by_name = {entry["name"]: entry for entry in listed["resources"]}
        assert by_name[resource.plural]["kind"] == resource.kind
        assert (f"{resource.plural}/status" in by_name) is info.has_status
        assert (f"{resource.plural}/log" in by_name) is (resource.kind == "Pod")


def test_the_address_of_a_document_names_its_content():
    index = openapi.index(KINDS)["paths"]
    assert set(index) == {
        f"apis/{resource.group}/{resource.version}" if resource.group else "api/v1" for resource in KINDS
    }
    fewer = dict(list(KINDS.items())[:1])
    (path,) = openapi.index(fewer)["paths"]
    assert openapi.index(fewer)["paths"][path] != index[path]


def test_a_document_describes_kinds_paths_and_the_parameters_of_writes():
    document = openapi.document(KINDS, "apis/pilotlight.dev/v1alpha1")
    assert document is not None
    kinds = [
        schema["x-kubernetes-group-version-kind"] for schema in document["components"]["schemas"].values()
    ]
    assert [{"group": "pilotlight.dev", "kind": "WarmPool", "version": "v1alpha1"}] in kinds
    patch = document["paths"]["/apis/pilotlight.dev/v1alpha1/namespaces/{namespace}/warmpools/{name}"][
        "patch"
    ]
    # By this parameter kubectl knows that the server validates fields.
    assert {"fieldValidation", "fieldManager", "dryRun", "force"} == {
        item["name"] for item in patch["parameters"]
    }
    assert openapi.document(KINDS, "apis/apps/v1") is None


def test_the_v2_document_is_protobuf_without_definitions():
    tag, length = openapi.V2_DOCUMENT[:2]
    assert (tag >> 3, tag & 7) == (1, 2)  # Document.swagger, a string
    assert openapi.V2_DOCUMENT[2:] == b"2.0"
    assert length == 3
