"""Deletion: finalizers, owners, propagation, preconditions, namespaces."""

from typing import Any

import pytest

from knative.client.errors import Conflict, NotFound
from knative.client.resources import CONFIG_MAP, CONFIGURATION, NAMESPACE, SECRET, SERVICE
from tests.knative.platform.api.raw_http import CMS, Raw, config_map
from tests.knative.platform.conftest import LocalCluster, service, until


async def test_finalizers_keep_an_object_until_they_are_removed(local: LocalCluster):
    await local.cluster.create(CONFIG_MAP, config_map(finalizers=["example.com/hold"]))
    await local.cluster.delete(CONFIG_MAP, "cm", "default")
    held = await local.cluster.get(CONFIG_MAP, "cm", "default")
    assert held["metadata"]["deletionTimestamp"]
    await local.cluster.patch(CONFIG_MAP, "cm", "default", {"metadata": {"finalizers": None}})
    with pytest.raises(NotFound):
        await local.cluster.get(CONFIG_MAP, "cm", "default")


def owned_by(owner: dict[str, Any], name: str, *, block: bool = False) -> dict[str, Any]:
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": block,
    }
    return config_map(name, ownerReferences=[reference])


@pytest.mark.parametrize(("policy", "left"), [("Background", []), ("Foreground", []), ("Orphan", ["child"])])
async def test_dependents_are_deleted_with_their_owner_or_orphaned(local: LocalCluster, policy, left):
    owner = await local.cluster.create(CONFIG_MAP, config_map("owner"))
    await local.cluster.create(CONFIG_MAP, owned_by(owner, "child", block=True))
    await local.cluster.delete(CONFIG_MAP, "owner", "default", propagation=policy)
    assert [item["metadata"]["name"] for item in await local.cluster.list(CONFIG_MAP, "default")] == left


async def test_foreground_deletion_waits_for_dependents_with_finalizers(local: LocalCluster):
    owner = await local.cluster.create(CONFIG_MAP, config_map("owner"))
    child = owned_by(owner, "child", block=True)
    child["metadata"]["finalizers"] = ["example.com/hold"]
    await local.cluster.create(CONFIG_MAP, child)
    await local.cluster.delete(CONFIG_MAP, "owner", "default", propagation="Foreground")
    assert (await local.cluster.get(CONFIG_MAP, "owner", "default"))["metadata"]["finalizers"] == [
        "foregroundDeletion"
    ]
    await local.cluster.patch(CONFIG_MAP, "child", "default", {"metadata": {"finalizers": []}})
    assert await local.cluster.list(CONFIG_MAP, "default") == []


async def test_a_deletion_may_require_a_uid(local: LocalCluster):
    made = await local.cluster.create(CONFIG_MAP, config_map())
    with pytest.raises(Conflict, match="Precondition failed: UID"):
        await local.cluster.delete(CONFIG_MAP, "cm", "default", uid="other")
    await local.cluster.delete(CONFIG_MAP, "cm", "default", uid=made["metadata"]["uid"])


async def test_a_namespace_is_deleted_with_its_objects(local: LocalCluster):
    await local.cluster.create(NAMESPACE, {"metadata": {"name": "team"}})
    await local.cluster.create(SERVICE, service("a", namespace="team"))
    await local.cluster.create(
        SECRET, {"metadata": {"name": "s", "namespace": "team"}, "stringData": {"a": "b"}}
    )

    async def running():
        return (await local.call("a", namespace="team"))[0] == 200

    await until(running)
    await local.cluster.delete(NAMESPACE, "team")

    async def gone():
        return "team" not in {item["metadata"]["name"] for item in await local.cluster.list(NAMESPACE)}

    await until(gone)
    assert await local.cluster.list(CONFIGURATION) == []


@pytest.mark.parametrize(
    "options",
    [
        [],
        {"preconditions": "u"},
        {"gracePeriodSeconds": "soon"},
        {"gracePeriodSeconds": -1},
        {"propagationPolicy": "Sideways"},
        {"propagationPolicy": ["Orphan"]},
    ],
)
async def test_options_that_cannot_be_read_delete_nothing(local: LocalCluster, raw: Raw, options: Any):
    await local.cluster.create(CONFIG_MAP, config_map())
    status, refused, _ = await raw("DELETE", f"{CMS}/cm", options, content_type="application/json")
    assert (status, refused["reason"]) == (400, "BadRequest")
    await local.cluster.get(CONFIG_MAP, "cm", "default")


async def test_go_clients_delete_with_options_in_protobuf(local: LocalCluster, raw: Raw):
    # DeleteOptions{Preconditions: {UID: "other"}} as client-go sends it for core kinds.
    envelope = b"k8s\x00" + b"\n\x13\n\x02v1\x12\rDeleteOptions" + b"\x12\x09\x12\x07\n\x05other"
    kind = "application/vnd.kubernetes.protobuf"
    await local.cluster.create(CONFIG_MAP, config_map())
    status, refused, _ = await raw("DELETE", f"{CMS}/cm", envelope, content_type=kind)
    assert (status, refused["reason"]) == (409, "Conflict")
    assert "Precondition failed: UID in precondition: other" in refused["message"]
