"""Triggers as objects of the local platform: admission, status, metrics, Secrets, and their end."""

import asyncio
import base64
import urllib.request

import pytest

from knative.client.errors import Invalid
from knative.client.resources import SECRET, TRIGGER
from pilotlight import stack
from tests.triggers.function_server import serving
from tests.triggers.moto_server import moto_server
from triggers import operations
from triggers.spec.trigger import TriggerSpec


@pytest.fixture
async def local(tmp_path):
    """The platform with an SQS server that is told to it."""
    with moto_server(tmp_path) as server:
        config = stack.StackConfig(
            state_dir=tmp_path / "state", gateway_port=0, api_port=0, sqs=server.endpoint
        )
        async with stack.running(config) as running, serving() as function:
            yield running, function, server


async def metrics(running) -> str:
    def read() -> str:
        with urllib.request.urlopen(f"{running.platform.api_url}/metrics", timeout=30) as page:
            return page.read().decode()

    return await asyncio.to_thread(read)


async def status(cluster, check):
    async with asyncio.timeout(60):
        async for _, obj in cluster.watch(TRIGGER, "default"):
            if check(found := obj.get("status") or {}):
                return found
    raise AssertionError


def condition(found, kind="Ready"):
    return next((one for one in found.get("conditions", ()) if one["type"] == kind), {})


async def test_a_trigger_from_its_object_to_its_end(local):
    running, function, server = local
    spec = {
        "source": {"sqs": {"queue": "orders"}},
        "deadLetter": {"sqs": {"queue": "orders-dead"}},
        "target": {"url": function.url, "auth": {"bearer": "shop"}},
        "concurrency": 0,
    }
    meta = {"name": "orders", "namespace": "default"}
    with pytest.raises(Invalid, match=r"spec\.concurrency.*greater than or equal to 1|must be at least 1"):
        await running.cluster.create(TRIGGER, {"metadata": meta, "spec": spec})
    spec["concurrency"] = 2
    nested = {**spec, "filters": [{"not": {"any": [{"exact": {"TYPE": "x"}}]}}]}
    with pytest.raises(
        Invalid, match="must have CloudEvents attributes as keys"
    ):  # beyond what a schema can say
        await running.cluster.create(TRIGGER, {"metadata": meta, "spec": nested})
    await running.cluster.create(TRIGGER, {"metadata": meta, "spec": spec})

    found = await status(running.cluster, lambda one: condition(one).get("status") == "True")
    assert (found["source"], found["target"]) == ("sqs/orders", function.url)
    settings = operations.settings_for("default/orders", server.endpoint)
    await operations.send(TriggerSpec.parse(spec), settings, b"{}", {}, None)
    found = await status(running.cluster, lambda one: condition(one, "TargetReady").get("status") == "False")
    assert "there is no token in" in condition(found, "TargetReady")["message"]
    assert function.calls == [], "nothing is sent without the token that the target asks for"

    data = {"token": base64.b64encode(b"a-token").decode()}
    await running.cluster.create(SECRET, {"metadata": {"name": "shop", "namespace": "default"}, "data": data})
    found = await status(running.cluster, lambda one: one.get("delivered") == 1)
    assert function.calls[0].headers["authorization"] == "Bearer a-token"

    text = await metrics(running)
    assert "pilotlight_trigger_backlog{" in text
    assert (
        'pilotlight_trigger_messages_settled_total{namespace="default",outcome="delivered",trigger="orders"} 1.0'
        in text
    )

    await running.cluster.patch(
        TRIGGER,
        "orders",
        "default",
        {
            "spec": {
                "source": {"sqs": {"queue": "later", "region": "eu-central-1", "endpoint": server.endpoint}}
            }
        },
    )
    found = await status(running.cluster, lambda one: condition(one).get("reason") == "SourceMisconfigured")
    assert "later" in condition(found)["message"]
    assert found["observedGeneration"] == 2

    await running.cluster.delete(TRIGGER, "orders", "default")
    async with asyncio.timeout(20):
        while "pilotlight_trigger_backlog{" in await metrics(running):
            await asyncio.sleep(0.2)
