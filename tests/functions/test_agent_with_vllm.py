"""An agent's loop before a real vLLM, whose own parser makes the calls of tools."""

import pytest
from aiohttp import web

from functions.http.app import create_app
from functions.settings import FunctionSettings, StageAddress
from functions.stages.orchestrate import build
from tests.functions.servers import read_events, serving
from tests.functions.tool_servers import functions

pytestmark = pytest.mark.vllm

PICK = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_by_vllms_own_parser_reaches_the_tool_with_arguments_of_its_schema(
    warm_replica, http, stream
):
    await warm_replica.order(http, "hot")

    async def pick(request):
        return web.json_response((await request.json())["colour"])

    async with functions(pick=pick) as server:
        settings = FunctionSettings(
            service="front",
            stages=(StageAddress("model", "generate", warm_replica.url),),
            graph={
                "nodes": [{"name": "assistant"}],
                "agents": {"assistant": {"model": "model", "tools": ["pick"], "bounds": {"steps": 1}}},
                "tools": {
                    "pick": {
                        "type": "function",
                        "url": f"{server.url}/pick",
                        "description": "Picks a colour.",
                        "parameters": PICK,
                    }
                },
            },
        )
        choice = {"type": "function", "function": {"name": "pick"}}
        async with serving(create_app(build(settings), settings)) as url:
            # Random weights fill a JSON object with blanks; some seed ends it soon.
            for seed in range(1, 9):
                parameters = {"max_tokens": 400, "temperature": 2, "seed": seed, "tool_choice": choice}
                asked = {"input": [{"role": "user", "content": "pick"}], "parameters": parameters}
                async with http.post(f"{url}/invoke", json={**asked, "stream": stream}) as response:
                    assert response.status == 200
                    reply = (await read_events(response))[-1][1] if stream else await response.json()
                assert reply["data"]["assistant"]["turns"] == 1
                if server.seen:
                    break
    ((name, _, body),) = server.seen
    assert name == "pick"
    assert body["colour"] in {"red", "blue"}
    assert reply["data"]["assistant"]["calls"] == [{"tool": "pick", "turn": 1, "error": False}]
