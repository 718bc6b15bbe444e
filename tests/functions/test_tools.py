"""Tools behind URLs: what they are sent, and what a model is told of what comes back."""

import asyncio
import json

import pytest
from aiohttp import web
from pydantic import ValidationError

from functions.auth.secret_folder import SecretFolder
from functions.auth.stage_token import StageToken
from functions.orchestration.tools.arguments import ArgumentsError, ArgumentsSchema
from functions.orchestration.tools.config import FunctionToolConfig, McpConfig, SecretHeader
from functions.orchestration.tools.results import ToolResult
from functions.orchestration.tools.strictness import strictness
from functions.problems import ProblemError
from tests.functions.servers import wait_until
from tests.functions.tool_servers import asked, context, functions, opened

CALCULATOR = {
    "type": "object",
    "properties": {"expression": {"type": "string", "maxLength": 20}},
    "required": ["expression"],
    "additionalProperties": False,
}


def tool(url, **more):
    known = {"description": "a tool", "timeout_seconds": 30.0, **more}
    return FunctionToolConfig(url=url, **known)


async def test_a_tool_gets_its_arguments_once_and_the_model_its_answer():
    async def calculator(request):
        return web.json_response({"result": 4})

    async with functions(calculator=calculator) as server:
        config = tool(f"{server.url}/calculator?unit=1", parameters=CALCULATOR)
        async with opened({"calculator": config}) as box:
            offer = await box.toolbox.offer(context())
            assert offer.missing == {}
            shown = offer.tools[0].function
            assert (shown.name, shown.description, shown.parameters) == ("calculator", "a tool", CALCULATOR)
            result = await box.toolbox.call(
                asked("calculator", {"expression": "2+2"}), context(), idempotency_key="key-1"
            )
            assert result == ToolResult('{"result": 4}')
        ((name, headers, body),) = server.seen
        assert (name, body) == ("calculator", {"expression": "2+2"})
        assert headers["Idempotency-Key"] == "key-1"
        # What runs elsewhere learns no more of the agent than the trace.
        assert not [name for name in headers if name.lower().startswith("x-")]
        assert box.outcomes == [("calculator", "ok")]


async def test_what_goes_wrong_with_a_tool_is_told_to_the_model():
    async def garbage(request):
        return web.Response(body=b"{not json", content_type="application/json")

    async def binary(request):
        return web.Response(body=b"\x00\xff", content_type="application/octet-stream")

    async def latin(request):
        return web.Response(body=b"caf\xe9", content_type="text/plain")

    async def refuses(request):
        return web.json_response(
            {"title": "no", "detail": "expression: must be shorter", "errors": []},
            status=422,
            content_type="application/problem+json",
        )

    async def crashes(request):
        return web.Response(status=500, text="<html>Traceback</html>", content_type="text/html")

    async def denies(request):
        return web.Response(status=403, text="key abc is wrong")

    async def moves(request):
        return web.Response(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data"})

    async def long(request):
        return web.Response(text="ö" * 100_000)

    async def empty(request):
        return web.Response(status=204)

    said = {
        "garbage": "garbage answered with what is not JSON, although it says so: '{not json'",
        "binary": "binary answered with application/octet-stream, which cannot be shown to you",
        "latin": "latin answered with what is not UTF-8 text",
        "refuses": "refuses refuses these arguments: expression: must be shorter",
        "crashes": "crashes failed (500)",
        "denies": "denies refuses the agent's credentials (403); it cannot be used",
        "moves": "moves answered with a redirect (302), which is not followed",
        "absent": "absent is not there (404): no route",
        "gone": "gone cannot be reached",
    }
    handlers = {
        "garbage": garbage, "binary": binary, "latin": latin, "refuses": refuses, "crashes": crashes,
        "denies": denies, "moves": moves, "long": long, "empty": empty,
    }  # fmt: skip
    async with functions(**handlers) as server:
        tools = {name: tool(f"{server.url}/{name}") for name in (*handlers, "absent")}
        tools["gone"] = tool("http://127.0.0.1:9/gone")
        tools["long"] = tool(f"{server.url}/long", answer_bytes=1001)
        async with opened(tools) as box:
            for name, text in said.items():
                assert await box.toolbox.call(asked(name), context()) == ToolResult(text, error=True)
            cut = await box.toolbox.call(asked("long"), context())
            assert cut.text == "ö" * 500 + "\n[cut off here: the answer is longer than 1001 bytes]"
            assert (
                await box.toolbox.call(asked("empty"), context())
            ).text == "(the tool answered with nothing)"
            unknown = await box.toolbox.call(asked("rm"), context())
            assert unknown.error
            assert unknown.text.startswith("there is no tool 'rm'; those that there are: garbage, binary")
    # One attempt for each that says no; a connection that is refused is tried as often as the policy says.
    assert sum(name == "crashes" for name, _, _ in server.seen) == 1
    assert box.outcomes.count(("gone", "failed")) == 4


async def test_a_tool_that_is_busy_is_called_again_with_the_same_key_and_a_hanging_one_is_given_up():
    tries = []
    hold = asyncio.Event()

    async def busy(request):
        tries.append(request.headers["Idempotency-Key"])
        if len(tries) < 3:
            return web.Response(status=503)
        if len(tries) == 3:
            request.transport.abort()
        return web.json_response("done")

    async def hangs(request):
        await hold.wait()
        return web.Response()

    async def says_no(request):
        return web.json_response(
            {"detail": "not today", "retryable": False}, status=503, content_type="application/problem+json"
        )

    async with functions(busy=busy, hangs=hangs, says_no=says_no) as server:
        tools = {
            "busy": tool(f"{server.url}/busy"),
            "hangs": tool(f"{server.url}/hangs", timeout_seconds=0.2),
            "late": tool(f"{server.url}/hangs"),
            "no": tool(f"{server.url}/says_no"),
        }
        async with opened(tools) as box:
            assert await box.toolbox.call(asked("busy"), context()) == ToolResult('"done"')
            assert len(tries) == 4
            assert len(set(tries)) == 1
            result = await box.toolbox.call(asked("hangs"), context())
            assert result == ToolResult("hangs did not answer within 0.2 s", error=True)
            assert (await box.toolbox.call(asked("no"), context())).text == "no failed (503): not today"
            # The request's own deadline is no matter of the model's.
            with pytest.raises(ProblemError) as raised:
                await box.toolbox.call(asked("late"), context(seconds=0.2))
            assert (raised.value.problem.status, raised.value.problem.stage) == (504, "late")
            hold.set()
    assert sum(name == "says_no" for name, _, _ in server.seen) == 1


async def test_arguments_are_checked_before_a_tool_is_called():
    async def calculator(request):
        return web.json_response(0)

    async with functions(calculator=calculator) as server:
        async with opened({"calculator": tool(f"{server.url}/calculator", parameters=CALCULATOR)}) as box:
            for text, told in {
                "{": "are not JSON",
                "[1]": "must be a JSON object",
                '{"expression": NaN}': "NaN is no JSON value",
                "[" * 60_000: "nested too deeply",
                "x" * 70_000: "at most 65536",
                "{}": "'expression' is a required property",
                '{"expression": 4, "more": 1}': "$.expression: 4 is not of type 'string'",
            }.items():
                result = await box.toolbox.call(asked("calculator", text), context())
                assert result.error
                assert told in result.text
        assert server.seen == []


async def test_a_schema_of_another_party_is_bounded():
    for schema, told in {
        '{"$ref": "http://127.0.0.1:9/schema.json"}': "must be inside the schema",
        '{"type": "array"}': "must be object",
        '{"properties": {"a": {"type": "no"}}}': "is not valid",
        json.dumps({"description": "x" * 70_000}): "at most 65536",
    }.items():
        with pytest.raises(ValueError, match=told):
            ArgumentsSchema(json.loads(schema))
    exponential = ArgumentsSchema({"properties": {"a": {"type": "string", "pattern": "^(a|aa)+$"}}})
    assert await exponential.parse(json.dumps({"a": "a" * 40 + "!"}))
    patterns = ArgumentsSchema(
        {
            "patternProperties": {"^n_": {"type": "integer"}},
            "properties": {"a": {}},
            "additionalProperties": False,
        }
    )
    assert await patterns.parse('{"n_x": 1, "a": 2}') == {"n_x": 1, "a": 2}
    with pytest.raises(ArgumentsError, match="n_x"):
        await patterns.parse('{"n_x": "one"}')
    with pytest.raises(ArgumentsError, match="unexpected"):
        await patterns.parse('{"b": 1}')
    endless = ArgumentsSchema({"allOf": [{"$ref": "#"}]})
    with pytest.raises(ArgumentsError, match="without end"):
        await endless.parse("{}")


def test_a_tool_whose_schema_leaves_nothing_open_is_strict():
    item = {"type": "object", "properties": {"n": {"type": ["integer", "null"]}}, "required": ["n"]}
    closed = {**item, "additionalProperties": False}
    listed = {**closed, "properties": {"n": {"type": "array", "items": closed}}}
    assert strictness(None, closed)
    assert strictness(None, listed)
    for open_schema in (
        item,
        {"type": "object"},
        {**closed, "required": []},
        {**closed, "required": [{}]},
        {**closed, "properties": {"n": item}},
        {**closed, "properties": {"n": {"type": "string", "pattern": "x"}}},
        {**closed, "properties": {"n": {"type": "array"}}},
        {**closed, "properties": []},
    ):
        assert strictness(None, open_schema) is None
        assert strictness(True, open_schema) is True
    assert strictness(False, closed) is False


async def test_the_agents_own_service_is_reached_through_the_gateway_and_knows_who_calls(tmp_path):
    (tmp_path / "current").write_text("t" * 40)
    (tmp_path / "crm").write_text("secret-1\n")

    async def answer(request):
        return web.json_response("ok")

    async with functions(**{"run": answer, "healthz/ready": answer}) as server:
        secret = {"Authorization": {"file": str(tmp_path / "crm"), "prefix": "Bearer "}}
        config = FunctionToolConfig.model_validate_json(
            json.dumps(
                {
                    "url": "http://crm-support.default.svc.cluster.local/run",
                    "service": True,
                    "description": "x",
                    "headers": secret,
                }
            )
        )
        quiet = config.model_copy(update={"wake": "never"})
        keyless = config.model_copy(update={"headers": {"X-Key": SecretHeader(file=str(tmp_path / "no"))}})
        eager = config.model_copy(update={"wake": "request"})
        async with opened(
            {"crm": config, "quiet": quiet, "eager": eager, "keyless": keyless},
            gateway=server.url,
            stage_token=StageToken(SecretFolder(tmp_path)),
        ) as box:
            await box.toolbox.offer(context())
            assert (await box.toolbox.call(asked("crm"), context())).text == '"ok"'
            ((_, headers, _),) = server.seen
            assert headers["Host"] == "crm-support.default.svc.cluster.local"
            assert headers["X-Pilotlight-Stage-Token"] == "t" * 40
            assert headers["Authorization"] == "Bearer secret-1"
            assert float(headers["x-pilotlight-deadline"]) <= 120
            # The model begins to call them; the first one has answered just now.
            for name in ("crm", "quiet", "unknown"):
                box.toolbox.wake(name, context())
            box.toolbox.prepare(context())
            await wait_until(lambda: len(server.seen) == 2)
            assert server.seen[1][0] == "healthz/ready"
            # A Secret that is missing is the operator's to mend.
            assert await box.toolbox.call(asked("keyless"), context()) == ToolResult(
                "keyless cannot be called now", error=True
            )
            assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"url": "ftp://host"}, "must be a URL"),
        ({"url": "http://user:word@host/"}, "from a Secret"),
        ({"headers": {"Host": {"file": "/a"}}}, "set by the call itself"),
        ({"headers": {"X A": {"file": "/a"}}}, "name of a header field"),
        ({"headers": {"X-A": {"file": "a/b"}}}, "pattern"),
        ({"headers": {"X-A": "plain text"}}, "should be an object"),
        ({"timeoutSeconds": 0}, "greater than 0"),
        ({"answerBytes": 10_000_000}, "less than or equal"),
        ({"wake": "always"}, "'request', 'call' or 'never'"),
    ],
)
def test_a_tools_settings_are_refused_with_what_would_be_right(values, told):
    for kind, more in ((FunctionToolConfig, {"description": "x"}), (McpConfig, {})):
        with pytest.raises(ValidationError, match=told):
            kind.model_validate_json(json.dumps({"url": "http://host", **more, **values}))
