"""The Kubernetes API's rules over HTTP: identity, concurrency, patches, lists, watches, deletion."""

import asyncio
import json
import ssl
from typing import Any

import aiohttp
import pytest
import yaml

from knative.cluster import (
    CONFIG_MAP,
    CONFIGURATION,
    EVENT,
    NAMESPACE,
    REVISION,
    SECRET,
    SERVICE,
    WARM_POOL,
    AlreadyExists,
    Cluster,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    NotFound,
)
from tests.knative.platform.conftest import World, service, until


def config_map(name: str = "cm", data: dict[str, str] | None = None, **meta: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default", **meta}, "data": data or {"a": "1"}}


class Raw:
    """Plain requests to the API."""

    def __init__(self, world: World) -> None:
        user = yaml.safe_load(world.platform.kubeconfig.read_text())["users"][0]["user"]
        self.base = world.platform.api_url
        self.headers = {"Authorization": f"Bearer {user['token']}"}
        self.http = world.http

    async def __call__(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any, Any]:
        """Status, body, headers."""
        content = body if isinstance(body, (str, bytes)) or body is None else json.dumps(body)
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        async with self.http.request(
            method, f"{self.base}{path}", data=content, headers={**self.headers, **named}
        ) as answer:
            return answer.status, await answer.json(content_type=None), answer.headers


@pytest.fixture
def raw(world: World) -> Raw:
    return Raw(world)


CMS = "/api/v1/namespaces/default/configmaps"
KSVCS = "/apis/serving.knative.dev/v1/namespaces/default/services"
MERGE = "application/merge-patch+json"


async def test_without_the_token_nothing_is_answered_but_health_and_metrics(world: World):
    base = world.platform.api_url
    for path, status in (("/api/v1/pods", 401), ("/version", 401), ("/healthz", 200), ("/metrics", 200)):
        async with world.http.get(f"{base}{path}") as answer:
            assert answer.status == status, path
    async with world.http.get(f"{base}/api/v1/pods", headers={"Authorization": "Bearer wrong"}) as answer:
        assert (await answer.json())["reason"] == "Unauthorized"


async def test_the_kubeconfig_is_private_and_its_certificate_is_the_servers(world: World):
    path = world.platform.kubeconfig
    assert path.stat().st_mode & 0o077 == 0
    assert world.platform.config.state_dir.stat().st_mode & 0o077 == 0
    server = yaml.safe_load(path.read_text())["clusters"][0]["cluster"]["server"]
    assert server.startswith("https://")
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await world.http.get(f"{server}/healthz")
    trusted = ssl.create_default_context(cafile=world.platform.config.state_dir / "api.crt")
    async with world.http.get(f"{server}/healthz", ssl=trusted) as answer:
        assert answer.status == 200


async def test_a_silent_connection_does_not_block_others(world: World):
    port = int(world.platform.api_url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        assert await world.cluster.version()
    finally:
        writer.close()


async def test_creating_gives_identity_and_a_second_time_is_refused(world: World):
    made = await world.cluster.create(CONFIG_MAP, config_map())
    assert {"uid", "resourceVersion", "creationTimestamp"} <= set(made["metadata"])
    with pytest.raises(AlreadyExists, match='configmaps "cm" already exists'):
        await world.cluster.create(CONFIG_MAP, config_map())
    named = await world.cluster.create(
        CONFIG_MAP, {"metadata": {"generateName": "cm-", "namespace": "default"}, "data": {}}
    )
    assert named["metadata"]["name"].startswith("cm-")
    assert len(named["metadata"]["name"]) == 8


async def test_what_is_missing_is_named(world: World):
    with pytest.raises(NotFound, match=r'services\.serving\.knative\.dev "nope" not found'):
        await world.cluster.get(SERVICE, "nope", "default")
    with pytest.raises(NotFound, match='namespaces "nope" not found'):
        await world.cluster.create(CONFIG_MAP, {"metadata": {"name": "a", "namespace": "nope"}})


async def test_a_replace_from_an_old_version_is_a_conflict(world: World):
    made = await world.cluster.create(CONFIG_MAP, config_map())
    await world.cluster.patch(CONFIG_MAP, "cm", "default", {"data": {"b": "2"}})
    with pytest.raises(Conflict, match=r"the object has been modified"):
        await world.cluster.replace(CONFIG_MAP, made | {"data": {"c": "3"}})
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"c": "3"}}
    with pytest.raises(Conflict):
        await world.cluster.patch(CONFIG_MAP, "cm", "default", stale)
    now = await world.cluster.get(CONFIG_MAP, "cm", "default")
    assert now["data"] == {"a": "1", "b": "2"}
    replaced = await world.cluster.replace(CONFIG_MAP, now | {"data": {"z": "0"}})
    assert replaced["data"] == {"z": "0"}


async def test_a_write_that_changes_nothing_makes_no_new_version(world: World):
    made = await world.cluster.apply(CONFIG_MAP, config_map())
    again = await world.cluster.apply(CONFIG_MAP, config_map())
    patched = await world.cluster.patch(CONFIG_MAP, "cm", "default", {"data": {"a": "1"}})
    versions = {obj["metadata"]["resourceVersion"] for obj in (made, again, patched)}
    assert len(versions) == 1


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
async def test_strict_validation_names_unknown_fields(world: World, change, text):
    await world.cluster.create(SERVICE, service("a"))
    with pytest.raises(Invalid, match=rf"strict decoding error: {text}"):
        await world.cluster.patch(SERVICE, "a", "default", change)


async def test_without_strict_validation_unknown_fields_are_warned_of_and_dropped(raw: Raw):
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


async def test_a_wrong_type_is_named_with_its_field(world: World):
    body = service("a")
    body["spec"]["template"]["spec"]["containerConcurrency"] = "ten"
    with pytest.raises(Invalid, match="must be of type integer") as refused:
        await world.cluster.create(SERVICE, body)
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


async def test_status_and_the_rest_are_written_through_their_own_doors(world: World):
    pool = {"metadata": {"name": "p", "namespace": "default"}, "spec": {"target": "a"}}
    made = await world.cluster.create(WARM_POOL, pool | {"status": {"floor": 9}})
    assert "status" not in made
    through = {"status": {"floor": 2}, "spec": {"target": "b"}}
    patched = await world.cluster.patch(WARM_POOL, "p", "default", through, subresource="status")
    assert (patched["status"], patched["spec"]) == ({"floor": 2}, made["spec"])
    assert patched["metadata"]["generation"] == 1
    changed = await world.cluster.patch(
        WARM_POOL, "p", "default", {"status": {"floor": 7}, "spec": {"target": "c"}}
    )
    assert (changed["status"], changed["metadata"]["generation"]) == ({"floor": 2}, 2)


async def test_a_dry_run_checks_and_stores_nothing(world: World):
    await world.cluster.create(CONFIG_MAP, config_map(), dry_run=True)
    with pytest.raises(NotFound):
        await world.cluster.get(CONFIG_MAP, "cm", "default")
    with pytest.raises(Invalid):
        await world.cluster.create(SERVICE, service("a", scale={"min-scale": "x"}), dry_run=True)


async def test_lists_are_chosen_by_labels_and_fields_and_come_in_pages(world: World, raw: Raw):
    for number in range(5):
        labels = {"n": str(number), "odd": "yes" if number % 2 else "no"}
        await world.cluster.create(CONFIG_MAP, config_map(f"cm{number}", labels=labels))
    for selector, count in (
        ("odd=yes", 2),
        ("odd!=yes", 3),
        ("n in (1,2)", 2),
        ("n notin (1,2)", 3),
        ("odd", 5),
        ("!odd", 0),
        ("odd=yes,n=1", 1),
    ):
        assert len(await world.cluster.list(CONFIG_MAP, "default", label_selector=selector)) == count, (
            selector
        )
    assert len(await world.cluster.list(CONFIG_MAP, "default", field_selector="metadata.name=cm3")) == 1
    with pytest.raises(Invalid, match="field label not supported"):
        await world.cluster.list(CONFIG_MAP, "default", field_selector="data.a=1")
    names, token = [], ""
    while True:
        _, page, _ = await raw("GET", f"{CMS}?limit=2&continue={token}")
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue", "")
        if not token:
            break
        assert len(page["items"]) == 2
    assert names == [f"cm{number}" for number in range(5)]


async def test_apply_owns_fields_prunes_what_it_no_longer_says_and_meets_conflicts(world: World):
    cluster = world.cluster
    await cluster.apply(CONFIG_MAP, config_map(data={"a": "1", "b": "2"}), field_manager="one")
    await cluster.apply(CONFIG_MAP, config_map(data={"c": "3"}), field_manager="two")
    with pytest.raises(Conflict, match=r'conflict with "one" using v1: \.data\.a') as refused:
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


async def test_apply_keeps_what_another_manager_also_says(world: World):
    cluster = world.cluster
    await cluster.apply(CONFIG_MAP, config_map(data={"a": "1"}), field_manager="one")
    await cluster.apply(CONFIG_MAP, config_map(data={"a": "1"}), field_manager="two")
    kept = await cluster.apply(CONFIG_MAP, config_map(data={"b": "1"}), field_manager="one")
    assert kept["data"] == {"a": "1", "b": "1"}


async def test_apply_merges_one_annotation_into_a_revision(world: World):
    await world.cluster.create(SERVICE, service("a", scale={"max-scale": "5"}))
    await world.ready("a")
    body = {
        "metadata": {
            "name": "a-00001",
            "namespace": "default",
            "annotations": {"autoscaling.knative.dev/min-scale": "2"},
        }
    }
    applied = await world.cluster.apply(REVISION, body, field_manager="pilotlight")
    marks = applied["metadata"]["annotations"]
    assert marks["autoscaling.knative.dev/max-scale"] == "5"
    await world.ready_pods(2)
    body["metadata"]["annotations"] = {}
    released = await world.cluster.apply(REVISION, body, field_manager="pilotlight")
    assert "autoscaling.knative.dev/min-scale" not in released["metadata"]["annotations"]


async def test_a_watch_tells_what_exists_what_changes_and_what_goes(world: World):
    await world.cluster.create(CONFIG_MAP, config_map("first"))
    seen: list[tuple[str, str]] = []

    async def watch() -> None:
        async for kind, obj in world.cluster.watch(CONFIG_MAP, "default"):
            seen.append((kind, obj["metadata"]["name"]))

    task = asyncio.create_task(watch())

    async def length(number):
        return len(seen) >= number

    await until(lambda: length(1))
    await world.cluster.create(CONFIG_MAP, config_map("second"))
    await world.cluster.patch(CONFIG_MAP, "second", "default", {"data": {"b": "2"}})
    await world.cluster.delete(CONFIG_MAP, "first", "default")
    await until(lambda: length(4))
    task.cancel()
    assert seen == [("ADDED", "first"), ("ADDED", "second"), ("MODIFIED", "second"), ("DELETED", "first")]


async def test_a_watch_with_a_selector_sees_objects_come_into_and_go_out_of_it(world: World):
    seen: list[str] = []

    async def watch() -> None:
        async for kind, _ in world.cluster.watch(CONFIG_MAP, "default", label_selector="on=yes"):
            seen.append(kind)

    task = asyncio.create_task(watch())
    await world.cluster.create(CONFIG_MAP, config_map(labels={"on": "no"}))
    await world.cluster.patch(CONFIG_MAP, "cm", "default", {"metadata": {"labels": {"on": "yes"}}})

    async def length(number):
        return len(seen) >= number

    await until(lambda: length(1))
    await world.cluster.patch(CONFIG_MAP, "cm", "default", {"metadata": {"labels": {"on": "no"}}})
    await until(lambda: length(2))
    task.cancel()
    assert seen == ["ADDED", "DELETED"]


async def test_a_watch_from_a_version_that_is_not_known_is_410(raw: Raw):
    status, body, _ = await raw("GET", f"{CMS}?watch=true&resourceVersion=999999")
    assert (status, body["reason"]) == (410, "Expired")


async def test_a_watch_list_ends_its_first_part_with_a_bookmark(world: World, raw: Raw):
    await world.cluster.create(CONFIG_MAP, config_map())
    path = (
        f"{CMS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    )
    async with world.http.get(f"{raw.base}{path}&timeoutSeconds=1", headers=raw.headers) as answer:
        lines = [json.loads(line) async for line in answer.content]
    assert [line["type"] for line in lines] == ["ADDED", "BOOKMARK"]
    assert lines[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_the_client_finds_out_what_was_deleted_while_its_watch_was_away(config):
    from knative.local.platform import Platform

    seen: list[tuple[str, str]] = []
    async with Platform(config) as platform:
        port = int(platform.api_url.rpartition(":")[2])
        kubeconfig = platform.kubeconfig.read_text()
        async with Cluster.from_kubeconfig(platform.kubeconfig) as cluster:
            await cluster.create(CONFIG_MAP, config_map("stays"))
            await cluster.create(CONFIG_MAP, config_map("goes"))
    kept = config.state_dir / "kubeconfig.kept"
    kept.write_text(kubeconfig)
    from dataclasses import replace

    again = replace(config, api_port=port)
    async with Cluster.from_kubeconfig(kept) as watcher:

        async def watch() -> None:
            async for kind, obj in watcher.watch(CONFIG_MAP, "default"):
                seen.append((kind, obj["metadata"]["name"]))

        task = asyncio.create_task(watch())  # the API isn't there yet: it is tried again

        async def length(number):
            return len(seen) >= number

        async with Platform(again):
            await until(lambda: length(2))
        async with Platform(again) as platform, Cluster.from_kubeconfig(platform.kubeconfig) as cluster:
            await cluster.delete(CONFIG_MAP, "goes", "default")
            await until(lambda: length(3))
        task.cancel()
    assert seen == [("ADDED", "goes"), ("ADDED", "stays"), ("DELETED", "goes")]


async def test_finalizers_hold_an_object_until_they_are_taken_away(world: World):
    await world.cluster.create(CONFIG_MAP, config_map(finalizers=["example.com/hold"]))
    await world.cluster.delete(CONFIG_MAP, "cm", "default")
    held = await world.cluster.get(CONFIG_MAP, "cm", "default")
    assert held["metadata"]["deletionTimestamp"]
    await world.cluster.patch(CONFIG_MAP, "cm", "default", {"metadata": {"finalizers": None}})
    with pytest.raises(NotFound):
        await world.cluster.get(CONFIG_MAP, "cm", "default")


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
async def test_owners_take_their_dependents_along_unless_told_not_to(world: World, policy, left):
    owner = await world.cluster.create(CONFIG_MAP, config_map("owner"))
    await world.cluster.create(CONFIG_MAP, owned_by(owner, "child", block=True))
    await world.cluster.delete(CONFIG_MAP, "owner", "default", propagation=policy)
    assert [item["metadata"]["name"] for item in await world.cluster.list(CONFIG_MAP, "default")] == left


async def test_foreground_deletion_waits_for_dependents_that_are_held(world: World):
    owner = await world.cluster.create(CONFIG_MAP, config_map("owner"))
    child = owned_by(owner, "child", block=True)
    child["metadata"]["finalizers"] = ["example.com/hold"]
    await world.cluster.create(CONFIG_MAP, child)
    await world.cluster.delete(CONFIG_MAP, "owner", "default", propagation="Foreground")
    assert (await world.cluster.get(CONFIG_MAP, "owner", "default"))["metadata"]["finalizers"] == [
        "foregroundDeletion"
    ]
    await world.cluster.patch(CONFIG_MAP, "child", "default", {"metadata": {"finalizers": []}})
    assert await world.cluster.list(CONFIG_MAP, "default") == []


async def test_a_deletion_may_insist_on_one_incarnation(world: World):
    made = await world.cluster.create(CONFIG_MAP, config_map())
    with pytest.raises(Conflict, match="Precondition failed: UID"):
        await world.cluster.delete(CONFIG_MAP, "cm", "default", uid="other")
    await world.cluster.delete(CONFIG_MAP, "cm", "default", uid=made["metadata"]["uid"])


async def test_a_namespace_takes_everything_in_it_along(world: World):
    await world.cluster.create(NAMESPACE, {"metadata": {"name": "team"}})
    await world.cluster.create(SERVICE, service("a", namespace="team"))
    await world.cluster.create(
        SECRET, {"metadata": {"name": "s", "namespace": "team"}, "stringData": {"a": "b"}}
    )

    async def running():
        return (await world.call("a", namespace="team"))[0] == 200

    await until(running)
    await world.cluster.delete(NAMESPACE, "team")

    async def gone():
        return "team" not in {item["metadata"]["name"] for item in await world.cluster.list(NAMESPACE)}

    await until(gone)
    assert await world.cluster.list(CONFIGURATION) == []


async def test_delete_collection_takes_what_the_selector_chooses(world: World, raw: Raw):
    for number in range(3):
        await world.cluster.create(CONFIG_MAP, config_map(f"cm{number}", labels={"n": str(number)}))
    status, _, _ = await raw("DELETE", f"{CMS}?labelSelector=n!=1")
    assert status == 200
    assert [item["metadata"]["name"] for item in await world.cluster.list(CONFIG_MAP, "default")] == ["cm1"]


async def test_a_table_has_the_kinds_own_columns(world: World, raw: Raw):
    await world.cluster.create(SERVICE, service("a"))
    await world.ready("a")
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    _, table, _ = await raw("GET", KSVCS, accept=accept)
    assert table["kind"] == "Table"
    assert [column["name"] for column in table["columnDefinitions"]] == [
        "Name",
        "URL",
        "LatestCreated",
        "LatestReady",
        "Ready",
        "Reason",
    ]
    assert table["rows"][0]["cells"][0] == "a"
    assert table["rows"][0]["cells"][4] == "True"
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


async def test_discovery_names_every_kind_and_openapi_describes_it(raw: Raw):
    _, groups, _ = await raw("GET", "/apis")
    assert {group["name"] for group in groups["groups"]} == {
        "autoscaling.internal.knative.dev",
        "coordination.k8s.io",
        "pilotlight.dev",
        "serving.knative.dev",
    }
    _, resources, _ = await raw("GET", "/apis/serving.knative.dev/v1")
    names = {item["name"]: item for item in resources["resources"]}
    assert names["services"]["shortNames"] == ["kservice", "ksvc"]
    assert "revisions/status" in names
    _, index, _ = await raw("GET", "/openapi/v3")
    for entry in index["paths"].values():
        status, document, _ = await raw("GET", entry["serverRelativeURL"])
        assert status == 200
        assert document["components"]["schemas"]


async def test_methods_and_paths_that_do_not_exist_are_404_and_405(raw: Raw):
    for method, path, status in (
        ("GET", "/apis/nope/v1/things", 404),
        ("GET", f"{CMS}/cm/scale", 404),
        ("PUT", CMS, 405),
        ("GET", "/nowhere", 404),
    ):
        assert (await raw(method, path))[0] == status, path


async def test_a_secret_is_stored_in_base64_and_checked(world: World):
    made = await world.cluster.create(
        SECRET, {"metadata": {"name": "s", "namespace": "default"}, "stringData": {"a": "b"}}
    )
    assert (made["data"], made["type"], "stringData" in made) == ({"a": "Yg=="}, "Opaque", False)
    with pytest.raises(Invalid, match="base64"):
        await world.cluster.create(
            SECRET, {"metadata": {"name": "t", "namespace": "default"}, "data": {"a": "%"}}
        )


async def test_a_client_with_a_wrong_token_is_told(world: World, tmp_path):
    config = yaml.safe_load(world.platform.kubeconfig.read_text())
    config["users"][0]["user"]["token"] = "wrong"
    path = tmp_path / "other"
    path.write_text(yaml.safe_dump(config))
    async with Cluster.from_kubeconfig(path) as other:
        with pytest.raises(Forbidden):
            await other.list(EVENT)


async def test_errors_of_the_client_carry_what_the_server_said(world: World):
    with pytest.raises(NotFound) as missing:
        await world.cluster.get(CONFIG_MAP, "x", "default")
    assert (missing.value.status, missing.value.reason) == (404, "NotFound")
    assert not issubclass(Expired, NotFound)
