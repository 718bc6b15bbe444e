"""An agent's loop: real orchestrate, a scripted model, tools behind real HTTP."""

import asyncio
import contextlib
import json

import aiohttp
import openai
import pytest
from aiohttp import web

from functions.contract import Delta, Failure, Final, Problem, StageReply, ToolStart, Usage
from functions.dialogue import FunctionCall, Message, Role, ToolCall
from functions.http.app import create_app
from functions.settings import FunctionSettings, StageAddress
from functions.stages.orchestrate import build
from tests.functions.servers import read_events, scripted, serving, wait_until

ADD = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def call(name, number=0, **arguments):
    return ToolCall(id=f"call_{number}", function=FunctionCall(name=name, arguments=json.dumps(arguments)))


class Model:
    """Answers with what the test has put in line: texts, calls, or both."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.waits = asyncio.Event()
        self.waits.set()

    async def __call__(self, request, _context):
        self.requests.append(request)
        answer = self.answers.pop(0) if self.answers else "done"
        if isinstance(answer, Problem):
            yield Delta("half an ans")
            yield Failure(answer)
            return
        text, calls = answer if isinstance(answer, tuple) else (answer, [])
        if text:
            yield Delta(text)
        for index, one in enumerate(calls):
            yield ToolStart(index, one.id, one.function.name)
        await self.waits.wait()
        message = Message(role=Role.ASSISTANT, content=text or None, tool_calls=tuple(calls))
        yield Final(
            StageReply(
                id=request.id,
                stage="model",
                output=(message,) if calls else text,
                finish_reason="tool_calls" if calls else "stop",
                usage=Usage(prompt_tokens=100, completion_tokens=10),
            )
        )


class Tools:
    """Tools as anybody's HTTP server has them."""

    def __init__(self):
        self.calls = []
        self.probed = []
        self.answers = {}

    async def handle(self, request):
        name = request.path.strip("/")
        if request.path.endswith("/healthz/ready"):
            self.probed.append(name)
            return web.Response()
        body = await request.json()
        self.calls.append((name, body, request.headers.get("Idempotency-Key")))
        answer = self.answers.get(name)
        if callable(answer):
            return await answer(body)
        if answer is not None:
            return answer
        return web.json_response(body["a"] + body["b"])


@contextlib.asynccontextmanager
async def served(tools):
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", tools.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
def tools():
    return Tools()


@contextlib.asynccontextmanager
async def agent(model, tools, *, bounds=None, names=("add",), nodes=None, wake=None, **more):
    async with scripted(model, kind="generate") as (_, model_url), served(tools) as url:
        settings = FunctionSettings(
            service="front",
            agent="helper",
            stages=(StageAddress("model", "generate", model_url),),
            graph={
                "nodes": nodes or [{"name": "assistant"}],
                "agents": {
                    "assistant": {"model": "model", "tools": list(names), "bounds": bounds or {}, **more}
                },
                "tools": {
                    name: {
                        "type": "function",
                        "url": f"{url}/{name}",
                        "description": f"The tool {name}.",
                        "parameters": ADD,
                        "timeoutSeconds": 2,
                        **({} if wake is None else {"wake": wake}),
                    }
                    for name in names
                },
            },
            stage_config={"wait_initial": 0.01, "wait_max": 0.02, "attempts": 2},
        )
        async with serving(create_app(build(settings), settings)) as front:
            yield front


async def ask(http, url, text="What is 2 and 3?", **more):
    async with http.post(f"{url}/invoke", json={"input": text, **more}) as response:
        return response.status, await response.json(content_type=None)


async def test_the_model_calls_a_tool_and_answers_with_its_result(http, tools):
    model = Model((None, [call("add", a=2, b=3)]), "It is 5.")
    async with agent(model, tools, system="You add.") as url:
        status, reply = await ask(http, url)
    assert (status, reply["output"], reply["finish_reason"]) == (200, "It is 5.", "stop")
    assert reply["data"]["assistant"] == {"turns": 2, "calls": [{"tool": "add", "turn": 1, "error": False}]}
    assert reply["usage"] == {"prompt_tokens": 200, "completion_tokens": 20}
    assert [timing["stage"] for timing in reply["timings"]] == ["model", "add", "model", "front"]
    first, second = model.requests
    assert [tool.function.name for tool in first.parameters.tools] == ["add"]
    assert [(message.role, message.text) for message in second.input] == [
        ("system", "You add."),
        ("user", "What is 2 and 3?"),
        ("assistant", ""),
        ("tool", "5"),
    ]
    assert second.input[3].tool_call_id == second.input[2].tool_calls[0].id
    ((name, body, key),) = tools.calls
    assert (name, body) == ("add", {"a": 2, "b": 3})
    assert key


@pytest.mark.parametrize("wake", ["request", "call"])
async def test_a_tool_is_woken_before_it_is_called(http, tools, wake):
    model = Model((None, [call("add", a=2, b=3)]) if wake == "call" else "no tool was needed")
    model.waits.clear()
    async with agent(model, tools, wake=wake) as url:
        asking = asyncio.create_task(ask(http, url))
        await wait_until(lambda: len(tools.probed) == 1)
        assert tools.calls == []
        model.waits.set()
        assert (await asking)[0] == 200


async def test_calls_of_one_turn_are_made_side_by_side(http, tools):
    both = asyncio.Barrier(2)

    async def meet(body):
        await both.wait()
        return web.json_response(body["a"])

    tools.answers = {"left": meet, "right": meet}
    model = Model(("Both at once.", [call("left", 1, a=1, b=0), call("right", 2, a=2, b=0)]), "Done.")
    async with agent(model, tools, names=("left", "right")) as url:
        status, reply = await ask(http, url)
    assert (status, reply["output"]) == (200, "Both at once.\n\nDone.")
    assert [message.text for message in model.requests[1].input[-2:]] == ["1", "2"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda: web.Response(status=500, text="it broke"), "add failed (500): it broke"),
        (lambda: web.Response(status=404), "add is not there (404)"),
        (lambda: web.Response(body=b"\x00\xff", content_type="application/octet-stream"), "cannot be shown"),
        (lambda: web.Response(text="{not json", content_type="application/json"), "is not JSON"),
        ("hang", "did not answer within 2 s"),
        ("missing", "cannot be reached"),
    ],
)
async def test_what_goes_wrong_with_a_tool_is_told_to_the_model(http, tools, answer, told):
    async def hang(_body):
        await asyncio.sleep(60)

    tools.answers["add"] = hang if answer == "hang" else None if answer == "missing" else answer()
    model = Model((None, [call("add", a=2, b=3)]), "I cannot add today.")
    async with agent(model, tools) as url:
        if answer == "missing":
            async with served(Tools()) as gone:
                pass
            settings_url = gone
            model_tools = {"add": settings_url}
            async with missing_tool(model, model_tools["add"]) as other:
                status, reply = await ask(http, other)
        else:
            status, reply = await ask(http, url)
    assert (status, reply["output"]) == (200, "I cannot add today.")
    assert reply["data"]["assistant"]["calls"] == [{"tool": "add", "turn": 1, "error": True}]
    assert told in model.requests[1].input[-1].text


@contextlib.asynccontextmanager
async def missing_tool(model, url):
    async with scripted(model, kind="generate") as (_, model_url):
        settings = FunctionSettings(
            service="front",
            stages=(StageAddress("model", "generate", model_url),),
            graph={
                "nodes": [{"name": "assistant"}],
                "agents": {"assistant": {"model": "model", "tools": ["add"]}},
                "tools": {
                    "add": {
                        "type": "function",
                        "url": url,
                        "description": "x",
                        "parameters": ADD,
                        "timeoutSeconds": 1,
                    }
                },
            },
            stage_config={"wait_initial": 0.01, "wait_max": 0.02, "attempts": 2},
        )
        async with serving(create_app(build(settings), settings)) as front:
            yield front


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"a": 2', "the arguments are not JSON"),
        ('{"a": 2, "b": "three"}', "do not meet the tool's schema"),
        ('{"a": 2, "b": 3, "c": 4}', "do not meet the tool's schema"),
        ("[2, 3]", "must be a JSON object"),
    ],
)
async def test_arguments_that_do_not_fit_never_reach_the_tool(http, tools, arguments, told):
    bad = ToolCall(id="call_1", function=FunctionCall(name="add", arguments=arguments))
    model = Model((None, [bad]), (None, [call("add", 2, a=2, b=3)]), "5")
    async with agent(model, tools) as url:
        status, reply = await ask(http, url)
    assert (status, reply["output"], len(tools.calls)) == (200, "5", 1)
    assert told in model.requests[1].input[-1].text


async def test_an_unknown_tool_and_text_that_looks_like_a_call_call_nothing(http, tools):
    looks = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 1}}</tool_call>'
    model = Model((None, [call("erase", a=1, b=1)]), looks)
    async with agent(model, tools) as url:
        status, reply = await ask(http, url, f"please say {looks}")
    assert (status, reply["output"]) == (200, looks)
    assert tools.calls == []
    assert "there is no tool 'erase'; those that there are: add" in model.requests[1].input[-1].text


@pytest.mark.parametrize(
    ("bounds", "bound", "turns"),
    [
        ({"steps": 3}, "steps", 3),
        ({"steps": 100, "tokens": 250}, "tokens", 3),
        ({"steps": 100, "dollars": 0.0002, "prices": {"prompt": 1, "completion": 1}}, "dollars", 2),
    ],
)
async def test_a_loop_that_never_ends_stops_at_its_bound(http, tools, bounds, bound, turns):
    model = Model(*[(None, [call("add", at, a=at, b=1)]) for at in range(200)])
    async with agent(model, tools, bounds=bounds) as url:
        status, reply = await ask(http, url)
    assert (status, reply["finish_reason"]) == (200, "length")
    assert reply["output"].startswith("The agent stopped at its limit of ")
    assert bound in reply["output"]
    assert (reply["data"]["assistant"]["bound"], reply["data"]["assistant"]["turns"]) == (bound, turns)
    if bound == "tokens":
        assert model.requests[-1].parameters.max_tokens == 30, "what is left"


@pytest.mark.parametrize("slow", ["model", "tool"])
async def test_seconds_end_what_is_under_way(http, tools, slow):
    async def hang(_body):
        await asyncio.sleep(60)

    tools.answers["add"] = hang if slow == "tool" else None
    model = Model(("Let me see.", [call("add", a=2, b=3)]))
    if slow == "model":
        model.waits.clear()
    async with agent(model, tools, bounds={"seconds": 0.5}) as url:
        status, reply = await ask(http, url)
    assert (status, reply["data"]["assistant"]["bound"]) == (200, "seconds")
    if slow == "tool":
        assert reply["output"] == "Let me see."


async def test_the_openai_client_holds_a_streamed_conversation_with_the_agent(tools):
    model = Model(("Let me add. ", [call("add", a=2, b=3)]), "It is 5.", "You are welcome.")
    async with agent(model, tools) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x") as client:
        messages = [{"role": "user", "content": "What is 2 and 3?"}]
        text, names = "", []
        async for chunk in await client.chat.completions.create(
            model="helper", messages=messages, stream=True
        ):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                names += [one.function.name for one in choice.delta.tool_calls or ()]
        assert (text, names) == ("Let me add. \n\nIt is 5.", [])
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "Thanks"}]
        answer = await client.chat.completions.create(model="helper", messages=messages)
        assert answer.choices[0].message.content == "You are welcome."
    assert [message.role for message in model.requests[-1].input] == ["user", "assistant", "user"]


async def test_a_clients_own_tools_are_called_by_the_client(http, tools):
    theirs = {"type": "function", "function": {"name": "open_door", "parameters": {"type": "object"}}}
    model = Model(("Both.", [call("add", 1, a=2, b=3), call("open_door", 2)]))
    async with agent(model, tools) as url:
        async with http.post(
            f"{url}/invoke", json={"input": "x", "stream": True, "parameters": {"tools": [theirs]}}
        ) as response:
            events = await read_events(response)
        status, problem = await ask(
            http, url, parameters={"tools": [{"type": "function", "function": {"name": "add"}}]}
        )
    assert ("tool", {"index": 0, "id": "call_2", "name": "open_door"}) in events
    reply = events[-1][1]
    assert [one["function"]["name"] for one in reply["output"][-1]["tool_calls"]] == ["open_door"]
    assert reply["finish_reason"] == "tool_calls"
    assert tools.calls == []
    assert status == 422
    assert "'add' is a tool of the agent 'assistant', must have another name" in problem["detail"]


async def test_an_answer_that_is_cut_off_is_asked_for_again_and_shown_once(http, tools):
    broken = Problem(title="Broken", status=502, detail="the engine broke", retryable=True)
    model = Model(broken, "whole")
    async with agent(model, tools) as url:
        assert (await ask(http, url))[1]["output"] == "whole"
        model.answers = [broken, broken, "never"]
        status, problem = await ask(http, url)
        assert (status, problem["detail"]) == (502, "the engine broke")
        model.answers = [broken]
        async with http.post(f"{url}/invoke", json={"input": "x", "stream": True}) as response:
            events = await read_events(response)
    assert [name for name, _ in events] == ["delta", "error"], "what was shown cannot be taken back"


async def test_a_client_that_leaves_ends_the_loop(http, tools):
    hangs = asyncio.Event()

    async def hang(_body):
        hangs.set()
        await asyncio.sleep(60)

    tools.answers["add"] = hang
    model = Model((None, [call("add", a=2, b=3)]), "never")
    async with agent(model, tools) as url:
        async with aiohttp.ClientSession() as client:
            asking = asyncio.create_task(client.post(f"{url}/invoke", json={"input": "x"}))
            await hangs.wait()
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking

        async def idle():
            async with http.get(f"{url}/healthz/ready") as response:
                return (await response.json())["in_flight"] == 0

        await wait_until(idle)
    assert len(model.requests) == 1
