"""A model's reasoning in fields of its own (`reasoning_content`, `reasoning`) is no part of the answer."""

import contextlib
import json

import pytest
from aiohttp import web

from functions.http.app import create_app
from functions.settings import FunctionSettings, StageAddress
from functions.stages import generate, orchestrate, postprocess
from tests.functions.servers import read_events, serving, wait_ready

MESSAGES = [{"role": "user", "content": "Where is Machu Picchu's airport? As JSON."}]


@contextlib.asynccontextmanager
async def model(field):
    """The URL of a generate stage whose API sends reasoning in `field`, then JSON in a code fence."""
    deltas = [
        {"role": "assistant", field: 'It is {"city": "Cusco"}.'},
        {field: " Or Lima?", "content": None},
        {"content": "Here:\n```json\n"},
        {"content": '{"city": "Cusco"}', field: None},
        {"content": "\n```\n"},
    ]

    async def completions(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for at, delta in enumerate(deltas):
            reason = "stop" if at == len(deltas) - 1 else None
            event = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    api = web.Application()
    api.router.add_post("/v1/chat/completions", completions)
    runner = web.AppRunner(api)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    args = {"base-url": f"http://127.0.0.1:{runner.addresses[0][1]}/v1"}
    settings = FunctionSettings(engine="openai", engine_args=args, model_name="m")
    try:
        async with serving(create_app(generate.build(settings), settings)) as url:
            yield url
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_output_and_its_json_have_no_reasoning(http, field, stream):
    checked = FunctionSettings(stage_config={"jsonOutput": "refuse", "jsonSchema": {"required": ["city"]}})
    async with (
        model(field) as model_url,
        serving(create_app(postprocess.build(checked), checked)) as checked_url,
    ):
        chain = FunctionSettings(
            stages=(
                StageAddress("generate", "generate", model_url),
                StageAddress("postprocess", "postprocess", checked_url),
            )
        )
        async with serving(create_app(orchestrate.build(chain), chain)) as url:
            await wait_ready(http, model_url)
            async with http.post(f"{url}/invoke", json={"input": MESSAGES, "stream": stream}) as response:
                assert response.status == 200
                reply = (await read_events(response))[-1][1] if stream else await response.json()
    assert reply["output"] == 'Here:\n```json\n{"city": "Cusco"}\n```'
    assert reply["data"]["postprocess"]["json"] == {"city": "Cusco"}
