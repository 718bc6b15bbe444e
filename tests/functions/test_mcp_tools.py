"""Tools of a real MCP server, made with the official SDK: of today's revision, and of those with sessions."""

import asyncio
import json
import time

import pytest

from functions.orchestration.tools.config import McpConfig
from functions.orchestration.tools.mcp_messages import visible_name
from functions.orchestration.tools.results import ToolResult
from functions.problems import ProblemError
from tests.functions.servers import wait_until
from tests.functions.tool_servers import asked, context, functions, mcp_process, opened


@pytest.fixture(scope="module", params=["today", "sessions"])
def process(request, tmp_path_factory):
    with mcp_process(tmp_path_factory.mktemp("mcp"), request.param) as server:
        yield server


@pytest.fixture
def library(process):
    process.forget()
    return process


def mcp(url, **more):
    return McpConfig.model_validate({"url": url, **more}, by_name=True)


async def test_its_tools_are_listed_once_and_called(library, tmp_path):
    (tmp_path / "token").write_text("secret")
    secret = {"Authorization": {"file": str(tmp_path / "token"), "prefix": "Bearer "}}
    config = McpConfig.model_validate_json(
        json.dumps({"url": library.url, "headers": secret, "answerBytes": 300})
    )
    async with opened({"lib": config}) as box:
        box.toolbox.prepare(context())
        offers = await asyncio.gather(*(box.toolbox.offer(context()) for _ in range(5)))
        shown = {tool.function.name: tool.function for tool in offers[-1].tools}
        assert list(shown) == [
            f"lib__{name}" for name in ("add", "effect", "broken", "slow", "big", "picture")
        ]
        assert shown["lib__add"].description == "Add two numbers."
        assert sum(line["method"] == "tools/list" for line in library.lines("seen")) == 1

        call = box.toolbox.call
        added = await call(asked("lib__add", {"a": 1, "b": 2}), context())
        assert added == ToolResult("3", data={"result": 3})
        assert (await call(asked("lib__big", {"size": 900}), context())).text.startswith(
            "x" * 300 + "\n[cut off"
        )
        broken = await call(asked("lib__broken"), context())
        assert broken == ToolResult("Error executing tool broken: the shelf is empty", error=True)
        assert (await call(asked("lib__picture"), context())).text == "[image of type image/png, not shown]"
        wrong = await call(asked("lib__add", {"a": "one"}), context())
        assert "'one' is not of type 'integer'" in wrong.text
        # Side by side on one connection, each with its own key.
        results = await asyncio.gather(
            *(
                call(asked("lib__effect", {"what": str(n)}), context(), idempotency_key=f"key-{n}")
                for n in range(8)
            )
        )
        assert [result.text for result in results] == [f"done: {n}" for n in range(8)]
        effects = {line["what"]: line for line in library.lines("effects")}
        assert {what: line["key"] for what, line in effects.items()} == {str(n): f"key-{n}" for n in range(8)}
        assert effects["3"]["meta"]["pilotlight/idempotency-key"] == "key-3"
    seen = library.lines("seen")
    # No stream stays open, which would hold the server from going to zero; each request has the credentials.
    assert {line["http"] for line in seen} <= {"POST", "DELETE"}
    assert {line["headers"]["authorization"] for line in seen if line["http"] == "POST"} == {"Bearer secret"}
    begun = sum(line["method"] == "initialize" for line in seen)
    assert begun == (1 if library.revision == "sessions" else 0)


async def test_a_server_that_is_killed_is_found_again(library):
    async with opened({"lib": mcp(library.url, only=("add", "effect", "slow"))}) as box:
        call = box.toolbox.call
        assert len((await box.toolbox.offer(context())).tools) == 3
        (library.folder / "hold").touch()
        waiting = asyncio.create_task(call(asked("lib__slow"), context()))
        await wait_until(lambda: len(library.lines("effects")) == 1)
        library.kill()
        # It says of itself that it may be called again; but it is away for too long.
        assert (await waiting).error
        away = await call(asked("lib__add", {"a": 1, "b": 1}), context())
        assert away == ToolResult("lib__add: the tool server cannot be reached", error=True)
        library.start()
        library.forget()
        assert (await call(asked("lib__add", {"a": 1, "b": 1}), context())).text == "2"
        assert (await call(asked("lib__effect", {"what": "x"}), context())).text == "done: x"
        assert len(library.lines("effects")) == 1


async def test_a_call_that_hangs_ends_alone(library):
    (library.folder / "hold").touch()
    async with opened({"lib": mcp(library.url, timeout_seconds=1.0)}) as box:
        call = box.toolbox.call
        await box.toolbox.offer(context())
        slow = asyncio.create_task(call(asked("lib__slow"), context()))
        await wait_until(lambda: len(library.lines("effects")) == 1)
        assert (await call(asked("lib__add", {"a": 2, "b": 3}), context())).text == "5"
        assert await slow == ToolResult("lib__slow did not answer within 1 s", error=True)
        with pytest.raises(ProblemError) as raised:
            await call(asked("lib__slow"), context(seconds=0.3))
        assert raised.value.problem.status == 504
        (library.folder / "hold").unlink()
        assert (await call(asked("lib__slow"), context())).text == "at last"


async def test_a_server_without_its_credentials_is_left_out(library, tmp_path):
    (tmp_path / "token").write_text("wrong")
    secret = {"Authorization": {"file": str(tmp_path / "token")}}
    refused = McpConfig.model_validate_json(json.dumps({"url": library.url, "headers": secret}))
    async with opened({"lib": refused, "ok": mcp(library.url), "gone": mcp("http://127.0.0.1:9/mcp")}) as box:
        offer = await box.toolbox.offer(context())
        assert {tool.function.name.partition("__")[0] for tool in offer.tools} == {"ok"}
        assert offer.missing == {
            "lib": "tool server lib: the tool server refuses the agent's credentials (401)",
            "gone": "tool server gone: the tool server cannot be reached",
        }
        # They are not asked again by each request, and what is there is offered again as it is.
        asked_for = len(library.lines("seen"))
        again = await box.toolbox.offer(context())
        box.toolbox.prepare(context())
        assert (again.missing, again.tools) == (offer.missing, offer.tools)
        assert len(library.lines("seen")) == asked_for


async def test_a_list_that_is_old_is_used_while_a_new_one_is_asked_for(library):
    async with opened({"lib": mcp(library.url, refresh_seconds=1.0)}) as box:
        first = await box.toolbox.offer(context())
        assert await box.toolbox.offer(context()) is first
        later = context()
        later._clock = lambda: time.monotonic() + 60
        library.kill()
        assert await box.toolbox.offer(later) is first
        await wait_until(lambda: ("lib", "failed") in box.outcomes)
        assert await box.toolbox.offer(later) is first
        library.start()


async def test_a_server_that_talks_nonsense_is_no_matter_of_the_users():
    from aiohttp import web

    async def answer(kind, request):
        asked_for = await request.json()
        if kind == "html":
            return web.Response(text="<html>", content_type="text/html")
        if kind == "json":
            return web.json_response({"hello": 1})
        if kind == "endless":
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            for _ in range(5_000):
                await response.write(b" " * 1000)
            return response
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'event: message\ndata: {"jsonrpc"\n\n' + str(asked_for["id"]).encode())
        request.transport.abort()
        return response

    kinds = ("html", "json", "endless", "events")
    handlers = {kind: lambda request, kind=kind: answer(kind, request) for kind in kinds}
    async with functions(**handlers) as server:
        tools = {kind: mcp(f"{server.url}/{kind}", timeout_seconds=20.0) for kind in kinds}
        async with opened(tools) as box:
            offer = await box.toolbox.offer(context(retries=0))
            assert offer.tools == ()
            assert set(offer.missing) == set(kinds)
            assert offer.missing["json"].endswith("answered with what is no message of the protocol")


def test_names_are_what_openais_api_takes():
    assert visible_name("lib", "search.docs/all") == "lib__search_docs_all"
    names = {visible_name("lib", "x" * 100 + end) for end in ("a", "b")}
    assert len(names) == 2
    assert {len(name) for name in names} == {64}
