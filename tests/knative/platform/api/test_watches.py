"""Watches: events, bookmarks, and resuming."""

import asyncio
import json

from knative.client.cluster import Cluster
from knative.client.resources import CONFIG_MAP, SERVICE
from tests.knative.platform.api.raw_http import CMS, KSVCS, Raw, config_map
from tests.knative.platform.conftest import LocalCluster, condition, service, until


async def test_a_watch_reports_existing_changed_and_deleted_objects(local: LocalCluster):
    await local.cluster.create(CONFIG_MAP, config_map("first"))
    seen: list[tuple[str, str]] = []

    async def watch() -> None:
        async for kind, obj in local.cluster.watch(CONFIG_MAP, "default"):
            seen.append((kind, obj["metadata"]["name"]))

    task = asyncio.create_task(watch())

    async def length(number):
        return len(seen) >= number

    await until(lambda: length(1))
    await local.cluster.create(CONFIG_MAP, config_map("second"))
    await local.cluster.patch(CONFIG_MAP, "second", "default", {"data": {"b": "2"}})
    await local.cluster.delete(CONFIG_MAP, "first", "default")
    await until(lambda: length(4))
    task.cancel()
    assert seen == [("ADDED", "first"), ("ADDED", "second"), ("MODIFIED", "second"), ("DELETED", "first")]


async def test_a_watch_with_a_selector_reports_objects_that_begin_and_cease_to_match(local: LocalCluster):
    seen: list[str] = []

    async def watch() -> None:
        async for kind, _ in local.cluster.watch(CONFIG_MAP, "default", label_selector="on=yes"):
            seen.append(kind)

    task = asyncio.create_task(watch())
    await local.cluster.create(CONFIG_MAP, config_map(labels={"on": "no"}))
    await local.cluster.patch(CONFIG_MAP, "cm", "default", {"metadata": {"labels": {"on": "yes"}}})

    async def length(number):
        return len(seen) >= number

    await until(lambda: length(1))
    await local.cluster.patch(CONFIG_MAP, "cm", "default", {"metadata": {"labels": {"on": "no"}}})
    await until(lambda: length(2))
    task.cancel()
    assert seen == ["ADDED", "DELETED"]


async def test_a_watch_from_a_version_that_is_not_known_is_one_error_event(raw: Raw):
    # Inside of a successful response, upon which clients list again; most of them give up at a status of 410.
    status, body, _ = await raw("GET", f"{CMS}?watch=true&resourceVersion=999999")
    assert status == 200
    assert (body["type"], body["object"]["kind"]) == ("ERROR", "Status")
    assert (body["object"]["code"], body["object"]["reason"]) == (410, "Expired")


async def test_a_bookmark_ends_the_initial_events_of_a_watch(local: LocalCluster, raw: Raw):
    await local.cluster.create(CONFIG_MAP, config_map())
    path = (
        f"{CMS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    )
    async with local.http.get(f"{raw.base}{path}&timeoutSeconds=20", headers=raw.headers) as answer:
        lines = [json.loads(await answer.content.readline()) for _ in range(2)]
    assert [line["type"] for line in lines] == ["ADDED", "BOOKMARK"]
    assert lines[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_a_client_that_writes_reads_and_watches_sees_an_immediate_failure(
    local: LocalCluster, raw: Raw
):
    body = service("a")
    del body["spec"]["template"]["spec"]["containers"][0]["command"]  # fails before anything is started
    await local.cluster.create(SERVICE, body)
    read = await local.cluster.get(SERVICE, "a", "default")
    assert condition(read)["status"] != "False"
    query = f"watch=true&fieldSelector=metadata.name=a&resourceVersion={read['metadata']['resourceVersion']}"
    async with local.http.get(f"{raw.base}{KSVCS}?{query}", headers=raw.headers) as answer:
        async for line in answer.content:
            ready = condition(json.loads(line)["object"])
            if ready["status"] == "False":
                break
    assert ready["reason"] == "RevisionFailed"


async def test_the_client_reports_objects_deleted_while_its_watch_was_down(config):
    from knative.local.platform.platform import Platform

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

        task = asyncio.create_task(watch())  # retries until the API is up

        async def length(number):
            return len(seen) >= number

        async with Platform(again):
            await until(lambda: length(2))
        async with Platform(again) as platform, Cluster.from_kubeconfig(platform.kubeconfig) as cluster:
            await cluster.delete(CONFIG_MAP, "goes", "default")
            await until(lambda: length(3))
        task.cancel()
    assert seen == [("ADDED", "goes"), ("ADDED", "stays"), ("DELETED", "goes")]
