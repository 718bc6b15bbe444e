"""Lists: selectors, tables, and deletion by selector."""

import pytest

from knative.client.errors import Invalid
from knative.client.resources import CONFIG_MAP, SERVICE
from tests.knative.platform.api.raw_http import CMS, KSVCS, Raw, config_map
from tests.knative.platform.conftest import LocalCluster, service


async def test_lists_are_selected_by_labels_and_fields_and_come_whole(local: LocalCluster, raw: Raw):
    for number in range(5):
        labels = {"n": str(number), "odd": "yes" if number % 2 else "no"}
        await local.cluster.create(CONFIG_MAP, config_map(f"cm{number}", labels=labels))
    for selector, count in (
        ("odd=yes", 2),
        ("odd!=yes", 3),
        ("n in (1,2)", 2),
        ("n notin (1,2)", 3),
        ("odd", 5),
        ("!odd", 0),
        ("odd=yes,n=1", 1),
    ):
        assert len(await local.cluster.list(CONFIG_MAP, "default", label_selector=selector)) == count, (
            selector
        )
    assert len(await local.cluster.list(CONFIG_MAP, "default", field_selector="metadata.name=cm3")) == 1
    with pytest.raises(Invalid, match="field label not supported"):
        await local.cluster.list(CONFIG_MAP, "default", field_selector="data.a=1")
    _, whole, _ = await raw("GET", f"{CMS}?limit=2")  # a server may answer with more than was asked for
    assert [item["metadata"]["name"] for item in whole["items"]] == [f"cm{number}" for number in range(5)]
    assert "continue" not in whole["metadata"]


async def test_a_table_has_the_columns_of_its_kind(local: LocalCluster, raw: Raw):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
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


async def test_delete_collection_deletes_what_the_selector_matches(local: LocalCluster, raw: Raw):
    for number in range(3):
        await local.cluster.create(CONFIG_MAP, config_map(f"cm{number}", labels={"n": str(number)}))
    status, _, _ = await raw("DELETE", f"{CMS}?labelSelector=n!=1")
    assert status == 200
    assert [item["metadata"]["name"] for item in await local.cluster.list(CONFIG_MAP, "default")] == ["cm1"]
