"""Objects whole or as a Table: what an Accept header asks for."""

import pytest

from knative.client.resources import CONFIG_MAP, SECRET
from tests.knative.platform.api.raw_http import CMS, Raw, config_map
from tests.knative.platform.conftest import LocalCluster


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "ConfigMapList"),
        ("*/*", "ConfigMapList"),
        ("application/vnd.kubernetes.protobuf, application/json", "ConfigMapList"),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "Table"),
        ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", "ConfigMapList"),
        ("application/json;as=Nothing;v=v1;g=meta.k8s.io,application/json", "ConfigMapList"),
    ],
)
async def test_the_first_acceptable_form_is_given(raw: Raw, accept, kind):
    assert (await raw("GET", CMS, accept=accept))[1]["kind"] == kind


async def test_no_acceptable_form_is_406(raw: Raw):
    status, refused, _ = await raw("GET", CMS, accept="application/vnd.kubernetes.protobuf")
    assert (status, refused["reason"]) == (406, "NotAcceptable")


async def test_the_table_counts_entries_of_config_maps_and_secrets(local: LocalCluster, raw: Raw):
    await local.cluster.create(CONFIG_MAP, config_map(data={"a": "1", "b": "2"}))
    body = {"metadata": {"name": "s", "namespace": "default"}, "stringData": {"a": "b"}}
    await local.cluster.create(SECRET, body)
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    for path, cells in (
        (f"{CMS}/cm", ["cm", "2"]),
        ("/api/v1/namespaces/default/secrets/s", ["s", "Opaque", "1"]),
    ):
        _, table, _ = await raw("GET", path, accept=accept)
        assert table["rows"][0]["cells"][:-1] == cells
