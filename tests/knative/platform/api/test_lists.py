"""Lists: selectors, pages, tables, and deleting what a selector chooses."""

import pytest

from knative.client.errors import Invalid
from knative.client.resources import CONFIG_MAP, SERVICE
from tests.knative.platform.api.raw import CMS, KSVCS, Raw, config_map
from tests.knative.platform.conftest import World, service


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


async def test_delete_collection_takes_what_the_selector_chooses(world: World, raw: Raw):
    for number in range(3):
        await world.cluster.create(CONFIG_MAP, config_map(f"cm{number}", labels={"n": str(number)}))
    status, _, _ = await raw("DELETE", f"{CMS}?labelSelector=n!=1")
    assert status == 200
    assert [item["metadata"]["name"] for item in await world.cluster.list(CONFIG_MAP, "default")] == ["cm1"]


async def test_all_pages_show_one_instant(world: World, raw: Raw):
    for name in ("a", "b", "c", "d"):
        await world.cluster.create(CONFIG_MAP, config_map(name))
    _, first, _ = await raw("GET", f"{CMS}?limit=1")
    await world.cluster.delete(CONFIG_MAP, "b", "default")
    await world.cluster.patch(CONFIG_MAP, "c", "default", {"data": {"a": "changed"}})
    await world.cluster.create(CONFIG_MAP, config_map("e"))
    _, rest, _ = await raw("GET", f"{CMS}?continue={first['metadata']['continue']}")
    assert [(item["metadata"]["name"], item["data"]["a"]) for item in rest["items"]] == [
        ("b", "1"),
        ("c", "1"),
        ("d", "1"),
    ]
    assert rest["metadata"] == {"resourceVersion": first["metadata"]["resourceVersion"]}
    exact = f"{CMS}?resourceVersionMatch=Exact&resourceVersion={first['metadata']['resourceVersion']}"
    _, again, _ = await raw("GET", exact)
    assert [item["metadata"]["name"] for item in again["items"]] == ["a", "b", "c", "d"]
    status, refused, _ = await raw("GET", f"{CMS}?resourceVersionMatch=Exact&resourceVersion=999999")
    assert (status, refused["reason"]) == (410, "Expired")
    status, refused, _ = await raw("GET", f"{CMS}?continue=nonsense")
    assert (status, refused["message"]) == (400, "continue key is not valid")
