"""Stages and tools written in Python: what a signature becomes, what a replica does with it, what is told."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Literal

import aiohttp
import pytest
from pydantic import BaseModel, Field

from functions.contract import Delta, Failure, Final
from functions.sdk import (
    Call,
    Config,
    Message,
    PerReplica,
    PerRequest,
    ProblemError,
    Reply,
    Role,
    StageRequest,
    ToolError,
    stage,
    tool,
)
from functions.sdk.testing import serving
from functions.settings import FunctionSettings
from tests.functions.servers import stage_process, wait_ready, wait_until

HAPPENED: list[str] = []


def open_numbers() -> Iterator[dict[str, int]]:
    HAPPENED.append("opened")
    yield {"one": 1, "two": 2}
    HAPPENED.append("closed")


async def find_user(call: Call) -> AsyncIterator[str]:
    try:
        yield call.caller or "anyone"
    except BaseException as error:
        HAPPENED.append(f"request failed: {type(error).__name__}")
        raise
    HAPPENED.append("request over")


class Limits(Config):
    max_results: int = 5


class Hit(BaseModel):
    title: str
    score: float


@tool
def look_up(
    word: Annotated[str, Field(min_length=1, description="What to look up.")],
    limit: int = 1,
    *,
    order: Literal["up", "down"] = "up",
    numbers: Annotated[dict[str, int], PerReplica(open_numbers)],
    user: Annotated[str, PerRequest(find_user)],
    call: Call,
    limits: Limits,
) -> dict:
    """Look up a word.

    Words are of English.

    Args:
        word: Not this one, which the annotation replaces.
        limit: How many
            results.
    """
    if word == "secret":
        raise ToolError("'secret' is not for you; ask for one or two")
    if word == "bug":
        raise KeyError("private text")
    if word == "late":
        raise TimeoutError
    if word == "endless":
        return {"text": "x" * 2_000_000}
    hits = [Hit(title=word, score=numbers.get(word, 0))]
    return {"hits": hits, "user": user, "key": call.idempotency_key, "limit": min(limit, limits.max_results)}


class Topic(BaseModel):
    topic: str


@stage
async def classify(request: StageRequest) -> Topic:
    return Topic(topic="refund" if "money" in request.text else "other")


@stage
async def spell(text: str) -> AsyncIterator[str | Reply]:
    for letter in text:
        if letter == "!":
            raise ProblemError(422, "no exclamation marks, please")
        yield letter.upper()
    yield Reply(data={"letters": len(text)})


@pytest.fixture(autouse=True)
def nothing_happened():
    HAPPENED.clear()


def test_a_tool_is_described_by_its_signature_and_docstring():
    described = look_up.definition()["function"]
    assert described["name"] == "look_up"
    assert described["description"] == "Look up a word.\n\nWords are of English."
    assert described["parameters"] == {
        "type": "object",
        "properties": {
            "word": {"type": "string", "minLength": 1, "description": "What to look up."},
            "limit": {"type": "integer", "default": 1, "description": "How many results."},
            "order": {"type": "string", "enum": ["up", "down"], "default": "up"},
        },
        "required": ["word"],
        "additionalProperties": False,
    }


def test_called_directly_they_are_the_functions_that_they_were():
    found = look_up("two", numbers={"two": 2}, user="me", call=Call(idempotency_key="k"), limits=Limits())
    assert found["hits"] == [Hit(title="two", score=2)]
    assert asyncio.run(classify(StageRequest(input="my money"))) == Topic(topic="refund")


def test_a_tool_answers_json_and_tells_the_model_what_is_wrong():
    with serving(look_up, config={"maxResults": 3}) as client:
        assert HAPPENED == ["opened"], "before the first request"
        found = client.call(word="two", limit="9", headers={"Idempotency-Key": "k-1"})
        assert found == {
            "hits": [{"title": "two", "score": 2.0}],
            "user": "anyone",
            "key": "k-1",
            "limit": 3,
        }
        assert client.request("GET", "/").json() == look_up.definition()
        told = {}
        for word in ("secret", "bug", "late", "endless", ""):
            with pytest.raises(ProblemError) as failed:
                client.call(word=word)
            told[word] = (failed.value.problem.status, failed.value.problem.detail)
        assert told["secret"] == (422, "'secret' is not for you; ask for one or two")
        assert told["bug"][0] == 500
        assert "private" not in told["bug"][1]
        assert told["late"] == (504, "look_up waited too long for something that it uses")
        assert told["endless"][0] == 422
        assert "ask for less" in told["endless"][1]
        assert told[""] == (422, "word = '': must have at least 1 character")
        for body, status, said in (
            (b"{", 400, "not JSON"),
            (b"[1]", 422, "must be a JSON object"),
            (b'{"word": "x", "colour": 1}', 422, "colour = 1: is not known here"),
            (b"{}", 422, "word: is missing"),
            (b'{"word": "x", "numbers": {}}', 422, "numbers"),
        ):
            headers = {"Content-Type": "application/json"}
            response = client.request("POST", "/", content=body, headers=headers)
            assert response.status_code == status, response.text
            assert said in response.json()["detail"]
        assert HAPPENED.count("request over") == 2, "the good one and the one whose result is too long"
        assert HAPPENED.count("request failed: KeyError") == 1
        reply = client.invoke('{"word": "one"}')
        assert reply.data["hits"] == [{"title": "one", "score": 1.0}]
        assert json.loads(reply.output) == reply.data
    assert HAPPENED[-1] == "closed"


def test_dependencies_are_replaced_for_a_test():
    with serving(look_up, replace={open_numbers: lambda: {"two": 22}, find_user: lambda: "me"}) as client:
        found = client.call(word="two")
    assert (found["hits"][0]["score"], found["user"]) == (22.0, "me")
    assert HAPPENED == []


def test_a_stage_answers_text_messages_data_or_a_stream():
    @stage
    def reply(text: str):
        answers = {
            "text": "hello",
            "messages": [Message(role=Role.USER, content="hi")],
            "both": Reply(output="out", data=[Topic(topic="x")]),
            "bug": 7,
        }
        return answers[text]

    with serving(reply) as client:
        assert client.invoke("text").output == "hello"
        assert client.invoke("messages").output[0].content == "hi"
        assert (client.invoke("both").output, client.invoke("both").data) == ("out", [{"topic": "x"}])
        with pytest.raises(ProblemError):
            client.invoke("bug")
    with serving(classify) as client:
        request = StageRequest(input="my money", metadata={"ticket": 7})
        answered = client.invoke(request)
        assert (answered.output, answered.data, answered.metadata) == (
            "my money",
            {"topic": "refund"},
            {"ticket": 7},
        )
        assert client.request("POST", "/", json={}).status_code == 405
    with serving(spell) as client:
        *deltas, final = client.events("ab")
        assert deltas == [Delta("A"), Delta("B")]
        assert isinstance(final, Final)
        assert (final.reply.output, final.reply.data) == ("AB", {"letters": 2})
        assert client.invoke("ab").output == "AB"
        assert client.invoke("").data == {"letters": 0}
        failed = client.events("a!")[-1]
        assert isinstance(failed, Failure)
        assert failed.problem.detail == "no exclamation marks, please"


def test_what_a_function_still_uses_stays_open_when_its_request_ends_early():
    release, closed_while_running = threading.Event(), []

    def open_file() -> Iterator[dict[str, bool]]:
        state = {"open": True}
        yield state
        state["open"] = False

    @tool
    def slow(file: Annotated[dict[str, bool], PerRequest(open_file)]) -> str:
        """Wait."""
        release.wait(30)
        closed_while_running.append(not file["open"])
        return "done"

    with serving(slow, settings=FunctionSettings(deadline_seconds=0.2)) as client:
        with pytest.raises(ProblemError) as failed:
            client.call()
        assert failed.value.problem.status == 504
        release.set()
    assert closed_while_running == [False]


def test_signatures_that_cannot_be_served_are_refused_where_they_are_written():
    def needs_request(call: Call) -> str:
        return call.id

    def two(a: int) -> int:
        return a

    def untyped(a):
        """Doc."""

    def undocumented(a: int):
        return a

    def wrong_lifetime(a: Annotated[str, PerReplica(needs_request)]):
        """Doc."""

    def wrong_provider(a: Annotated[str, PerReplica(two)]):
        """Doc."""

    def variadic(*words: str):
        """Doc."""

    def of_no_schema(a: threading.Thread):
        """Doc."""

    def of_unknown_type(a: "Nothing"):  # noqa: F821
        """Doc."""

    for function, said in (
        (untyped, "parameter 'a' must have a type"),
        (undocumented, "needs a docstring"),
        (wrong_lifetime, "is of one request; use PerRequest"),
        (wrong_provider, "PerReplica(two): parameter 'a' must have a default or be a dependency"),
        (variadic, "cannot be in a JSON object"),
        (of_no_schema, "has no JSON schema"),
        (of_unknown_type, "names 'Nothing', which is not known here"),
    ):
        with pytest.raises(TypeError, match=r"@tool") as refused:
            tool(function)
        assert said in str(refused.value)
    with pytest.raises(TypeError, match=r"letters, digits"):
        tool(name="a b")(look_up.function)

    def yields(text: str):
        yield text

    for function, said in (
        (yields, "must be asynchronous"),
        (lambda a, b: (a, b), "one parameter"),
        (two, "must be a StageRequest or a str"),
    ):
        with pytest.raises(TypeError, match=said):
            stage(function)


def test_a_replica_says_why_it_does_not_start():
    def broken() -> str:
        raise RuntimeError("no such database: kb.sqlite")

    @tool
    def needs_it(value: Annotated[str, PerReplica(broken)]) -> str:
        """Doc."""
        return value

    with pytest.raises(RuntimeError, match=r"no such database: kb\.sqlite"), serving(needs_it):
        pass
    with pytest.raises(RuntimeError, match=r"must be left out"), serving(classify, config={"a": 1}):
        pass
    with (
        pytest.raises(RuntimeError, match=r"maxResults = 'many'"),
        serving(look_up, config={"maxResults": "many"}),
    ):
        pass


MODULE = '''
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from functions.sdk import PerReplica, stage, tool

def made() -> Iterator[float]:
    Path(__file__).with_name("opened").touch()
    yield 2.0
    Path(__file__).with_name("closed").touch()

@tool
def double(value: float, factor: Annotated[float, PerReplica(made)]) -> float:
    """Double a number."""
    if value < 0:
        time.sleep(-value)
    return value * factor

@stage
def shout(text: str) -> str:
    return text.upper()

plain = 1
'''


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    (folder / "numbers_kb.py").write_text(MODULE)
    (folder / "broken_kb.py").write_text("import json\n\nx = json.loads('{')\n")
    (folder / "needing_kb.py").write_text("import no_such_package_at_all\n")
    return folder


async def test_a_replica_serves_a_module_and_closes_what_it_made(modules, tmp_path):
    with stage_process(
        "tool", tmp_path, module="numbers_kb:double", PILOTLIGHT_MODULE_PATH=str(modules), K_SERVICE="double"
    ) as process:
        async with aiohttp.ClientSession() as http:
            await wait_ready(http, process.url)
            assert (modules / "opened").exists()
            async with http.post(process.url, json={"value": 21}) as response:
                assert (response.status, await response.json()) == (200, 42.0)
                assert "Server-Timing" in response.headers
            async with http.get(f"{process.url}/metrics") as response:
                assert 'kind="tool"' in await response.text()
            # SIGTERM while a request is in flight: it is answered, then everything is closed.
            slow = asyncio.create_task(http.post(process.url, json={"value": -1}))

            async def in_flight() -> bool:
                async with http.get(f"{process.url}/healthz/live") as response:
                    return (await response.json())["in_flight"] == 1

            await wait_until(in_flight)
            process.terminate()
            async with await slow as response:
                assert await response.json() == -2.0
        assert await asyncio.to_thread(process.wait) == 0
    assert (modules / "closed").exists()


@pytest.mark.parametrize(
    ("kind", "module", "said"),
    [
        ("tool", "absent_kb:x", "there is no module 'absent_kb' in"),
        ("tool", "numbers_kb:triple", "has no 'triple'; it has double, shout"),
        ("tool", "numbers_kb:plain", "is of type int, must be a function with @tool or @stage"),
        ("tool", "numbers_kb:shout", "is a stage, must be a tool"),
        ("stage", "broken_kb:x", "broken_kb.py, line 3: JSONDecodeError"),
        ("stage", "needing_kb:x", "needing_kb.py, line 1 needs 'no_such_package_at_all', not installed"),
    ],
)
def test_a_module_that_cannot_be_served_is_said(modules, kind, module, said):
    from functions.sdk.host import build
    from functions.sdk.loading import ModuleError

    host = build(FunctionSettings(module_path=modules), kind, module)
    with pytest.raises(ModuleError) as refused:
        host._found()
    assert said in str(refused.value)


def test_arguments_of_the_command(tmp_path):
    for arguments, said in (
        ({"kind": "tool"}, "must be such as kb:search for tool"),
        ({"kind": "tool", "module": "kb"}, "must be such as kb:search for tool"),
        ({"kind": "ingest", "module": "kb:search"}, "must be left out for ingest"),
    ):
        with stage_process(arguments.pop("kind"), tmp_path, **arguments) as process:
            assert process.wait() == 2
            assert said in process.log.read_text()
