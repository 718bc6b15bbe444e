"""Orchestrate behind its client and the activator before its stage draw on one budget of retries."""

import asyncio

import pytest

from functions.http.app import create_app
from functions.settings import FunctionSettings, StageAddress
from functions.stages.orchestrate import build
from knative.local.routing import Endpoint, RevisionKey
from tests.functions.servers import serving

KEY = RevisionKey("default", "a-00001")


@pytest.mark.parametrize(
    ("given", "posts"),
    [
        (None, 7),  # orchestrate's default of six retries, and not four posts times four
        ("2", 3),
        ("0", 1),
    ],
)
async def test_a_request_to_a_stage_that_resets_connections_is_posted_as_often_as_its_budget_allows(
    gateway, given, posts
):
    seen = []

    async def reset(reader, writer):
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.transport.abort()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    gateway.deploy()
    gateway.activator.set_endpoints(KEY, (Endpoint("bad", *server.sockets[0].getsockname()[:2]),))
    settings = FunctionSettings(
        stages=(StageAddress("model", "generate", "http://a.default.localhost"),),
        gateway=gateway.url,
        stage_config={"wake": False, "wait_initial": 0.01, "breaker_failures": 50},
    )
    headers = {} if given is None else {"X-Pilotlight-Retries": given}
    async with (
        server,
        serving(create_app(build(settings), settings)) as url,
        gateway.client.post(f"{url}/invoke", json={"input": "x"}, headers=headers) as response,
    ):
        problem = await response.json(content_type=None)
    assert (response.status, problem["stage"]) == (502, "model")
    assert len(seen) == posts
    assert int(response.headers.get("X-Pilotlight-Retries-Used", "0")) == posts - 1
