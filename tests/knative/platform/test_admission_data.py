"""ConfigMaps and Secrets: keys are names of files, binary values are base64."""

import pytest

from knative.client.errors import Invalid
from knative.client.resources import CONFIG_MAP, SECRET
from tests.knative.platform.conftest import LocalCluster

RULE = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"


@pytest.mark.parametrize("resource", [CONFIG_MAP, SECRET])
@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("../../etc/passwd", RULE),
        ("a/b", RULE),
        ("", RULE),
        (".", "must not be '.'"),
        ("..", "must not start with '..'"),
        ("..data", "must not start with '..'"),
        ("k" * 300, "must be no more than 253 characters"),
    ],
)
async def test_a_key_that_is_no_name_of_a_file_is_refused(local: LocalCluster, resource, key, problem):
    body = {"metadata": {"name": "x", "namespace": "default"}, "data": {key: "eA=="}}
    with pytest.raises(Invalid) as refused:
        await local.cluster.create(resource, body)
    assert problem in str(refused.value)


@pytest.mark.parametrize("key", ["key.name", "KEY_NAME", ".hidden", "a-1"])
async def test_a_key_that_is_a_name_is_accepted(local: LocalCluster, key):
    body = {"metadata": {"name": "x", "namespace": "default"}, "data": {key: "eA=="}}
    for resource in (CONFIG_MAP, SECRET):
        await local.cluster.create(resource, body)


async def test_binary_data_is_base64(local: LocalCluster):
    body = {"metadata": {"name": "x", "namespace": "default"}, "binaryData": {"a": "x"}}
    with pytest.raises(Invalid, match="illegal base64 data"):
        await local.cluster.create(CONFIG_MAP, body)
