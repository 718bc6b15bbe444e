"""Identity and concurrency of objects, and their subresources."""

import pytest

from knative.client.errors import AlreadyExists, Conflict, Expired, Invalid, NotFound
from knative.client.resources import CONFIG_MAP, SECRET, SERVICE, WARM_POOL
from tests.knative.platform.api.raw_http import CMS, Raw, config_map
from tests.knative.platform.conftest import LocalCluster, service


async def test_creation_gives_an_identity_and_a_taken_name_is_refused(local: LocalCluster):
    made = await local.cluster.create(CONFIG_MAP, config_map())
    assert {"uid", "resourceVersion", "creationTimestamp"} <= set(made["metadata"])
    with pytest.raises(AlreadyExists, match='configmaps "cm" already exists'):
        await local.cluster.create(CONFIG_MAP, config_map())
    named = await local.cluster.create(
        CONFIG_MAP, {"metadata": {"generateName": "cm-", "namespace": "default"}, "data": {}}
    )
    assert named["metadata"]["name"].startswith("cm-")
    assert len(named["metadata"]["name"]) == 8


async def test_an_error_names_what_is_missing(local: LocalCluster):
    with pytest.raises(NotFound, match=r'services\.serving\.knative\.dev "nope" not found'):
        await local.cluster.get(SERVICE, "nope", "default")
    with pytest.raises(NotFound, match='namespaces "nope" not found'):
        await local.cluster.create(CONFIG_MAP, {"metadata": {"name": "a", "namespace": "nope"}})


async def test_errors_of_the_client_hold_status_and_reason(local: LocalCluster):
    with pytest.raises(NotFound) as missing:
        await local.cluster.get(CONFIG_MAP, "x", "default")
    assert (missing.value.status, missing.value.reason) == (404, "NotFound")
    assert not issubclass(Expired, NotFound)


async def test_an_update_of_an_old_version_is_a_conflict(local: LocalCluster):
    made = await local.cluster.create(CONFIG_MAP, config_map())
    await local.cluster.patch(CONFIG_MAP, "cm", "default", {"data": {"b": "2"}})
    with pytest.raises(Conflict, match=r"the object has been modified"):
        await local.cluster.replace(CONFIG_MAP, made | {"data": {"c": "3"}})
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"c": "3"}}
    with pytest.raises(Conflict):
        await local.cluster.patch(CONFIG_MAP, "cm", "default", stale)
    now = await local.cluster.get(CONFIG_MAP, "cm", "default")
    assert now["data"] == {"a": "1", "b": "2"}
    replaced = await local.cluster.replace(CONFIG_MAP, now | {"data": {"z": "0"}})
    assert replaced["data"] == {"z": "0"}


async def test_a_write_that_changes_nothing_makes_no_new_version(local: LocalCluster):
    made = await local.cluster.apply(CONFIG_MAP, config_map())
    again = await local.cluster.apply(CONFIG_MAP, config_map())
    patched = await local.cluster.patch(CONFIG_MAP, "cm", "default", {"data": {"a": "1"}})
    versions = {obj["metadata"]["resourceVersion"] for obj in (made, again, patched)}
    assert len(versions) == 1


async def test_status_is_written_by_its_subresource_and_everything_else_is_not(local: LocalCluster):
    pool = {"metadata": {"name": "p", "namespace": "default"}, "spec": {"target": "a"}}
    made = await local.cluster.create(WARM_POOL, pool | {"status": {"floor": 9}})
    assert "status" not in made
    change = {"status": {"floor": 2}, "spec": {"target": "b"}}
    patched = await local.cluster.patch(WARM_POOL, "p", "default", change, subresource="status")
    assert (patched["status"], patched["spec"]) == ({"floor": 2}, made["spec"])
    assert patched["metadata"]["generation"] == 1
    changed = await local.cluster.patch(
        WARM_POOL, "p", "default", {"status": {"floor": 7}, "spec": {"target": "c"}}
    )
    assert (changed["status"], changed["metadata"]["generation"]) == ({"floor": 2}, 2)


async def test_a_dry_run_checks_and_stores_nothing(local: LocalCluster):
    await local.cluster.create(CONFIG_MAP, config_map(), dry_run=True)
    with pytest.raises(NotFound):
        await local.cluster.get(CONFIG_MAP, "cm", "default")
    with pytest.raises(Invalid):
        await local.cluster.create(SERVICE, service("a", scale={"min-scale": "x"}), dry_run=True)


async def test_json_patch_and_its_failures(raw: Raw):
    await raw("POST", CMS, config_map(), content_type="application/json")
    kind = "application/json-patch+json"
    change = [
        {"op": "test", "path": "/data/a", "value": "1"},
        {"op": "replace", "path": "/data/a", "value": "2"},
    ]
    status, body, _ = await raw("PATCH", f"{CMS}/cm", change, content_type=kind)
    assert (status, body["data"]) == (200, {"a": "2"})
    status, body, _ = await raw("PATCH", f"{CMS}/cm", change, content_type=kind)
    assert (status, body["reason"]) == (422, "Invalid")
    status, _, _ = await raw("PATCH", f"{CMS}/cm", [{"op": "nonsense"}], content_type=kind)
    assert status == 400


async def test_a_secret_is_stored_in_base64_and_checked(local: LocalCluster):
    made = await local.cluster.create(
        SECRET, {"metadata": {"name": "s", "namespace": "default"}, "stringData": {"a": "b"}}
    )
    assert (made["data"], made["type"], "stringData" in made) == ({"a": "Yg=="}, "Opaque", False)
    with pytest.raises(Invalid, match="base64"):
        await local.cluster.create(
            SECRET, {"metadata": {"name": "t", "namespace": "default"}, "data": {"a": "%"}}
        )


POOLS = "/apis/pilotlight.dev/v1alpha1/namespaces/default/warmpools"


async def test_a_put_without_a_resource_version_is_refused_for_the_kinds_that_need_one(
    local: LocalCluster, raw: Raw
):
    pool = {"metadata": {"name": "p", "namespace": "default"}, "spec": {"target": "a"}}
    await local.cluster.create(WARM_POOL, pool)
    for path in (f"{POOLS}/p", f"{POOLS}/p/status"):
        status, refused, _ = await raw(
            "PUT", path, pool | {"status": {"floor": 1}}, content_type="application/json"
        )
        assert (status, refused["reason"]) == (422, "Invalid")
        assert refused["message"] == (
            'warmpools.pilotlight.dev "p" is invalid: metadata.resourceVersion: Invalid value: 0x0: '
            "must be specified for an update"
        )
    now = await local.cluster.get(WARM_POOL, "p", "default")
    version = now["metadata"]["resourceVersion"]
    # A patch is unconditional unless it names a version.
    patched = await local.cluster.patch(WARM_POOL, "p", "default", {"spec": {"target": "b"}})
    stale = {"metadata": {"resourceVersion": version}, "status": {"floor": 1}}
    with pytest.raises(Conflict):
        await local.cluster.patch(WARM_POOL, "p", "default", stale, subresource="status")
    good = pool | {
        "metadata": {**pool["metadata"], "resourceVersion": patched["metadata"]["resourceVersion"]}
    }
    status, replaced, _ = await raw("PUT", f"{POOLS}/p", good, content_type="application/json")
    assert (status, replaced["spec"]["target"]) == (200, "a")


async def test_kubernetes_own_kinds_are_replaced_without_a_resource_version(local: LocalCluster, raw: Raw):
    await local.cluster.create(CONFIG_MAP, config_map())
    body = config_map(data={"b": "2"})
    status, replaced, _ = await raw("PUT", f"{CMS}/cm", body, content_type="application/json")
    assert (status, replaced["data"]) == (200, {"b": "2"})


async def test_an_object_to_be_created_has_no_resource_version(raw: Raw):
    body = config_map(resourceVersion="7")
    status, refused, _ = await raw("POST", CMS, body, content_type="application/json")
    assert (status, refused["message"]) == (400, "resourceVersion should not be set on objects to be created")
    path = f"{CMS}/cm?fieldManager=m"
    status, refused, _ = await raw("PATCH", path, body, content_type="application/apply-patch+yaml")
    assert (status, refused["reason"]) == (409, "Conflict")


async def test_an_object_near_the_limit_of_fields_can_still_be_changed(local: LocalCluster, raw: Raw):
    data = {f"k{number}": "v" for number in range(4900)}
    await local.cluster.create(CONFIG_MAP, config_map(data=data))
    patched = await local.cluster.patch(CONFIG_MAP, "cm", "default", {"metadata": {"labels": {"x": "y"}}})
    await local.cluster.apply(CONFIG_MAP, config_map(data=data), field_manager="other")
    now = await local.cluster.get(CONFIG_MAP, "cm", "default")
    assert (now["data"], now["metadata"]["labels"]) == (patched["data"], {"x": "y"})
    replaced = await local.cluster.replace(CONFIG_MAP, now | {"data": {"a": "1"}})
    assert replaced["data"] == {"a": "1"}
    body = config_map("large", data={f"k{number}": "v" for number in range(5001)})
    status, refused, _ = await raw("POST", CMS, body, content_type="application/json")
    assert (status, refused["reason"]) == (413, "RequestEntityTooLarge")
