"""Server-side apply and field ownership over HTTP."""

import json
from typing import Any

import pytest

from knative.client.errors import Conflict
from knative.client.resources import CONFIG_MAP, CONFIGURATION, POD, POD_AUTOSCALER, REVISION, ROUTE, SERVICE
from tests.knative.platform.api.raw_http import CMS, Raw, config_map
from tests.knative.platform.conftest import LocalCluster, service, until

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


async def test_apply_owns_and_prunes_fields_and_conflicts_with_other_managers(local: LocalCluster):
    cluster = local.cluster
    await cluster.apply(CONFIG_MAP, config_map(data={"a": "1", "b": "2"}), field_manager="one")
    await cluster.apply(CONFIG_MAP, config_map(data={"c": "3"}), field_manager="two")
    with pytest.raises(Conflict, match=r'conflict with "one": \.data\.a') as refused:
        await cluster.apply(CONFIG_MAP, config_map(data={"a": "9", "c": "3"}), field_manager="two")
    assert [(cause.field, cause.reason) for cause in refused.value.causes] == [
        (".data.a", "FieldManagerConflict")
    ]
    taken = await cluster.apply(
        CONFIG_MAP, config_map(data={"a": "9", "c": "3"}), field_manager="two", force=True
    )
    assert taken["data"] == {"a": "9", "b": "2", "c": "3"}
    pruned = await cluster.apply(CONFIG_MAP, config_map(data={"x": "0"}), field_manager="one")
    assert pruned["data"] == {"a": "9", "c": "3", "x": "0"}
    managers = {
        entry["manager"]: entry["fieldsV1"]["f:data"] for entry in pruned["metadata"]["managedFields"]
    }
    assert managers == {"one": {"f:x": {}}, "two": {"f:a": {}, "f:c": {}}}


async def test_apply_keeps_fields_that_another_manager_also_applies(local: LocalCluster):
    cluster = local.cluster
    await cluster.apply(CONFIG_MAP, config_map(data={"a": "1"}), field_manager="one")
    await cluster.apply(CONFIG_MAP, config_map(data={"a": "1"}), field_manager="two")
    kept = await cluster.apply(CONFIG_MAP, config_map(data={"b": "1"}), field_manager="one")
    assert kept["data"] == {"a": "1", "b": "1"}


async def test_apply_merges_one_annotation_into_a_revision(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a", scale={"max-scale": "5"}))
    await local.ready("a")
    body = {
        "metadata": {
            "name": "a-00001",
            "namespace": "default",
            "annotations": {"autoscaling.knative.dev/min-scale": "2"},
        }
    }
    applied = await local.cluster.apply(REVISION, body, field_manager="pilotlight")
    marks = applied["metadata"]["annotations"]
    assert marks["autoscaling.knative.dev/max-scale"] == "5"
    await local.ready_pods(2)
    body["metadata"]["annotations"] = {}
    released = await local.cluster.apply(REVISION, body, field_manager="pilotlight")
    assert "autoscaling.knative.dev/min-scale" not in released["metadata"]["annotations"]


def owners(obj: dict[str, Any], field: str) -> set[tuple[str, str]]:
    """Managers and subresources of the entries that hold a field of the object."""
    return {
        (entry["manager"], entry.get("subresource", ""))
        for entry in obj["metadata"]["managedFields"]
        if f"f:{field}" in entry["fieldsV1"]
    }


async def test_status_is_owned_by_the_part_of_the_platform_that_writes_it(local: LocalCluster):
    await local.cluster.apply(SERVICE, service("a"), field_manager="me")
    await local.ready("a")
    await local.ready_pods(1)
    for resource, manager in (
        (SERVICE, "controller"),
        (CONFIGURATION, "controller"),
        (ROUTE, "controller"),
        (REVISION, "controller"),
        (POD_AUTOSCALER, "autoscaler"),
        (POD, "kubelet"),
    ):
        (obj,) = await local.cluster.list(resource, "default")
        assert owners(obj, "status") == {(manager, "status")}, resource.kind
        paths = {
            key.removeprefix("f:")
            for entry in obj["metadata"]["managedFields"]
            for key in entry["fieldsV1"].get("f:status", {})
        }
        assert paths - {"."} == set(obj["status"]), resource.kind
    (obj,) = await local.cluster.list(SERVICE, "default")
    assert owners(obj, "spec") == {("me", "")}
    (obj,) = await local.cluster.list(POD, "default")
    assert owners(obj, "spec") == {("kube-controller-manager", "")}


async def test_applying_a_status_of_another_manager_is_a_conflict_unless_forced(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    path = "/apis/serving.knative.dev/v1/namespaces/default/services/a/status?fieldManager=me"
    body = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "a"},
        "status": {"url": "http://x"},
    }
    raw = Raw(local)
    kind = "application/apply-patch+yaml"
    status, refused, _ = await raw("PATCH", path, body, content_type=kind)
    assert status == 409
    assert refused["message"] == (
        'Apply failed with 1 conflict: conflict with "controller" with subresource "status" using '
        "serving.knative.dev/v1: .status.url"
    )
    status, forced, _ = await raw("PATCH", f"{path}&force=true", body, content_type=kind)
    assert (status, forced["status"]["url"]) == (200, "http://x")
    assert ("me", "status") in owners(forced, "status")

    async def taken_back() -> bool:
        now = await local.cluster.get(SERVICE, "a", "default")
        return now["status"]["url"] != "http://x" and owners(now, "status") == {("controller", "status")}

    await until(taken_back)


async def test_defaults_of_a_webhook_are_owned_by_no_manager(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    body = {
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"template": {"spec": {"timeoutSeconds": 30}}},
    }
    applied = await local.cluster.apply(SERVICE, body, field_manager="other")
    assert applied["spec"]["template"]["spec"]["timeoutSeconds"] == 30


async def test_kubectl_goes_from_client_side_to_server_side_apply_without_a_conflict(local: LocalCluster):
    cluster = local.cluster
    mine = config_map(data={"a": "1", "b": "2"})
    last = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", **mine})
    made = {**mine, "metadata": {**mine["metadata"], "annotations": {LAST_APPLIED: last}}}
    await cluster.create(CONFIG_MAP, made)  # as client-side apply does, by another manager
    changed = await cluster.apply(CONFIG_MAP, config_map(data={"a": "9", "b": "2"}), field_manager="kubectl")
    assert changed["data"] == {"a": "9", "b": "2"}
    assert json.loads(changed["metadata"]["annotations"][LAST_APPLIED])["data"] == changed["data"]
    # What another manager has changed since belongs to it.
    await cluster.patch(CONFIG_MAP, "cm", "default", {"data": {"b": "8"}})
    with pytest.raises(Conflict, match=r"\.data\.b"):
        await cluster.apply(CONFIG_MAP, config_map(data={"a": "9", "b": "3"}), field_manager="kubectl")


async def test_managed_fields_can_be_rewritten_by_a_client(local: LocalCluster, raw: Raw):
    made = await local.cluster.create(CONFIG_MAP, config_map())
    (entry,) = made["metadata"]["managedFields"]
    change = [
        {"op": "replace", "path": "/metadata/managedFields/0/manager", "value": "renamed"},
        {"op": "replace", "path": "/metadata/managedFields/0/operation", "value": "Apply"},
    ]
    _, patched, _ = await raw("PATCH", f"{CMS}/cm", change, content_type="application/json-patch+json")
    assert patched["metadata"]["managedFields"] == [{**entry, "manager": "renamed", "operation": "Apply"}]
    applied = await local.cluster.apply(CONFIG_MAP, config_map(data={"z": "1"}), field_manager="renamed")
    assert applied["data"] == {"z": "1"}
    nonsense = [{"op": "replace", "path": "/metadata/managedFields", "value": [{"operation": "x"}]}]
    _, kept, _ = await raw("PATCH", f"{CMS}/cm", nonsense, content_type="application/json-patch+json")
    assert kept["metadata"]["managedFields"] == applied["metadata"]["managedFields"]


async def test_a_struct_is_owned_by_who_adds_it_but_not_by_who_applies_it(local: LocalCluster):
    made = await local.cluster.create(CONFIG_MAP, config_map(labels={"x": "y"}))
    (entry,) = made["metadata"]["managedFields"]
    assert entry["fieldsV1"] == {
        "f:data": {".": {}, "f:a": {}},
        "f:metadata": {"f:labels": {".": {}, "f:x": {}}},
    }
    applied = await local.cluster.apply(CONFIG_MAP, config_map("other", labels={"x": "y"}), field_manager="m")
    (entry,) = applied["metadata"]["managedFields"]
    assert entry["fieldsV1"] == {"f:data": {"f:a": {}}, "f:metadata": {"f:labels": {"f:x": {}}}}
