"""Malformed bodies and queries: accepted, or refused with what is wrong, but never a server error."""

import asyncio
import copy
import logging
import random
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from yarl import URL

from knative.client.errors import Invalid
from knative.client.resources import (
    CONFIG_MAP,
    CONFIGURATION,
    POD,
    REVISION,
    ROUTE,
    SECRET,
    SERVICE,
    WARM_POOL,
    Resource,
)
from tests.knative.platform.api.raw_http import CMS, MERGE, Raw
from tests.knative.platform.conftest import LocalCluster, service, until

CONTAINER = {
    "image": "x",
    "command": ["python"],
    "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}],
    "ports": [{"containerPort": 8080, "name": "http1"}],
    "resources": {"limits": {"cpu": "1"}},
    "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    "volumeMounts": [{"name": "v", "mountPath": "/x"}],
}
SPEC = {
    "containerConcurrency": 1,
    "containers": [CONTAINER],
    "volumes": [{"name": "v", "configMap": {"name": "a", "items": [{"key": "a", "path": "b"}]}}],
}
META = {
    "name": "f",
    "labels": {"a": "b"},
    "annotations": {"autoscaling.knative.dev/min-scale": "0"},
    "finalizers": [],
    "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u"}],
}
TEMPLATE = {"metadata": {"annotations": {"autoscaling.knative.dev/window": "30s"}}, "spec": SPEC}
WINDOW = {"name": "w", "from": "08:00", "to": "09:00", "days": ["Mon"], "replicas": 1}
BODIES: dict[Resource, dict[str, Any]] = {
    SERVICE: {"spec": {"template": TEMPLATE, "traffic": [{"latestRevision": True, "percent": 100}]}},
    CONFIGURATION: {"spec": {"template": TEMPLATE}},
    REVISION: {"spec": SPEC},
    ROUTE: {"spec": {"traffic": [{"configurationName": "f", "percent": 100, "tag": "x"}]}},
    WARM_POOL: {"spec": {"target": "a", "windows": [WINDOW], "limits": {"budget": {"amount": 1.5}}}},
    CONFIG_MAP: {"data": {"a": "b"}, "binaryData": {"x": "YQ=="}},
    SECRET: {"data": {"a": "YQ=="}, "stringData": {"b": "c"}},
}
MALFORMED = [
    None,
    0,
    -1,
    1.5,
    10**20,
    True,
    "",
    "x",
    "a/b",
    "é\n",
    [],
    {},
    [None],
    ["a"],
    {"a": None},
    {"a": {"b": []}},
]
REQUESTS = [
    ("POST", "", "application/json"),
    ("PUT", "/f", "application/json"),
    ("PATCH", "/f", "application/merge-patch+json"),
    ("PATCH", "/f", "application/apply-patch+yaml"),
]


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, item in entries:
        yield from paths_in(item, (*path, key))


def corrupted(body: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The body with a malformed value, or none, at one or two paths."""
    body = copy.deepcopy(body)
    for _ in range(chance.choice((1, 1, 2))):
        *way, last = chance.choice(list(paths_in(body)))
        holder: Any = body
        for key in way:
            holder = holder[key]
        if chance.random() < 0.2:
            del holder[last]
        else:
            holder[last] = copy.deepcopy(chance.choice(MALFORMED))
    return body


@pytest.mark.parametrize("resource", BODIES, ids=lambda resource: resource.kind)
async def test_malformed_bodies_are_accepted_or_refused_but_never_a_server_error(
    local: LocalCluster, raw: Raw, resource: Resource
):
    chance = random.Random(resource.kind)
    base = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": META, **BODIES[resource]}
    for _ in range(40):
        body = corrupted(base, chance)
        method, name, kind = chance.choice(REQUESTS)
        path = f"/{resource.path('default')}{name}?fieldManager=m&force=true&fieldValidation=Warn"
        status, answer, _ = await raw(method, path, body, content_type=kind)
        assert status < 500, (method, kind, body, answer)
        assert status < 400 or answer["message"], (method, kind, body)
    for made in (CONFIGURATION, ROUTE, REVISION):
        await raw("DELETE", f"/{made.path('default', 'f')}")


async def test_a_field_of_a_wrong_type_is_named_on_apply(raw: Raw):
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "f"}, "data": [1]}
    path = f"/{CONFIG_MAP.path('default', 'f')}?fieldManager=m"
    status, refused, _ = await raw("PATCH", path, body, content_type="application/apply-patch+yaml")
    assert status == 400
    assert refused["message"] == (
        "failed to create typed patch object (default/f; v1, Kind=ConfigMap): "
        'Invalid value: "array": data in body must be of type object: "array"'
    )


@pytest.mark.parametrize("span", ["100000000000h", "9999999999999999999999s", "-1h", "1", "h"])
async def test_an_invalid_go_duration_is_refused(local: LocalCluster, span: str):
    meta = {"name": "config-gc", "namespace": "knative-serving"}
    settings = {"metadata": meta, "data": {"retain-since-create-time": span}}
    with pytest.raises(Invalid, match="failed to parse retain-since-create-time"):
        await local.cluster.apply(CONFIG_MAP, settings)


@pytest.mark.parametrize(
    "number", ["9" * 5000, "1e999999999", "-" + "9" * 5000], ids=["long", "power", "low"]
)
async def test_an_enormous_number_is_answered_at_once(raw: Raw, number: str):
    for annotations, limits in ({"autoscaling.knative.dev/min-scale": number}, {}), ({}, {"memory": number}):
        container = {"image": "x", "command": ["python"], "resources": {"limits": limits}}
        template = {"metadata": {"annotations": annotations}, "spec": {"containers": [container]}}
        body = {"apiVersion": SERVICE.api_version, "kind": "Service", "metadata": {"name": "far"}}
        path = f"/{SERVICE.path('default')}?dryRun=All"
        status, answer, _ = await raw(
            "POST", path, {**body, "spec": {"template": template}}, content_type="application/json"
        )
        assert status in {201, 400}, answer
        assert status == 201 or answer["message"]


@pytest.mark.parametrize(
    "query", ["watch=1&timeoutSeconds=²", f"watch=1&timeoutSeconds={'9' * 5000}", "watch=1&resourceVersion=²"]
)
async def test_a_query_parameter_that_is_not_a_number_is_named(raw: Raw, query: str):
    status, refused, _ = await raw("GET", f"/{SERVICE.path('default')}?{query}")
    assert status == 400
    assert "must be a whole number" in refused["message"]


async def test_an_enormous_limit_does_not_limit(local: LocalCluster):
    limits = {"resources": {"limits": {"cpu": "1e400", "memory": "1e400"}}}
    await local.cluster.create(SERVICE, service("far", container=limits))
    await local.ready("far")
    await local.cluster.delete(SERVICE, "far", "default")


async def test_a_malformed_pod_status_does_not_stop_the_controllers(local: LocalCluster, raw: Raw):
    await local.cluster.create(SERVICE, service("odd"))
    await local.ready("odd")
    (pod,) = await local.pods()
    path = f"/{POD.path('default', pod['metadata']['name'])}/status"
    body = {"status": {"containerStatuses": [{"state": {"running": {}}}]}}
    status, answer, _ = await raw("PATCH", path, body, content_type=MERGE)
    assert status == 200, answer
    await local.cluster.delete(SERVICE, "odd", "default")

    async def gone():
        return not await local.pods()

    await until(gone)


@pytest.mark.parametrize("fields", [{"f:data": "x"}, {"k:nothing": {}}], ids=["leaf", "key"])
async def test_managed_fields_that_cannot_be_read_are_ignored_by_the_api(raw: Raw, fields: dict[str, Any]):
    entry = {"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsV1": fields}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "notes", "managedFields": [entry]}}
    status, answer, _ = await raw("POST", CMS, body, content_type="application/json")
    assert status == 201, answer
    answer["metadata"]["managedFields"] = [entry]
    status, answer, _ = await raw("PUT", f"{CMS}/notes", answer, content_type="application/json")
    assert status == 200, answer


async def test_a_client_that_disconnects_while_it_sends_a_body_is_not_logged_as_an_error(
    raw: Raw, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG, logger="knative.local.apiserver.api")
    base = URL(raw.base)
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(base.host, base.port, ssl=trusting)
    head = {**raw.headers, "Host": base.authority, "Content-Type": MERGE, "Content-Length": "100"}
    lines = [
        f"PATCH {CMS}/left HTTP/1.1",
        *(f"{key}: {value}" for key, value in head.items()),
        "",
        '{"data":',
    ]
    writer.write("\r\n".join(lines).encode())
    await writer.drain()
    writer.close()

    async def told() -> bool:
        return any("left" in record.getMessage() for record in caplog.records)

    await until(told)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
