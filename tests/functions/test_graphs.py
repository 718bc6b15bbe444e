"""A request's way through a graph of stages: real orchestrate, scripted stages, over real HTTP."""

import asyncio
import contextlib
import re

import pytest

from functions.contract import Delta, Final, StageReply, Usage
from functions.graph.conditions import Condition, ExpressionError
from functions.graph.progress import Ended, Outcome, certain, results, sources
from functions.graph.settings import graph_of
from functions.http.app import create_app
from functions.orchestration.expressions import Expressions
from functions.orchestration.settings import parse_settings
from functions.problems import ProblemError
from functions.settings import FunctionSettings, SettingsError, StageAddress
from functions.stages.orchestrate import build
from tests.functions.servers import read_events, scripted, serving

QUICK = {"wait_initial": 0.01, "wait_max": 0.02, "attempts": 2, "breaker_failures": 50}


class Stages:
    """Scripted stages, and in which order they were called with what."""

    def __init__(self) -> None:
        self.calls = []
        self.open = contextlib.AsyncExitStack()
        self.addresses = []
        self.served = {}

    async def add(self, name, answer, kind="container"):
        async def behave(request, context):
            self.calls.append((name, request.input))
            result = answer(request) if callable(answer) else answer
            if asyncio.iscoroutine(result):
                result = await result
            if isinstance(result, Exception):
                raise result
            if isinstance(result, StageReply):
                return result
            return StageReply(
                id=request.id,
                stage=name,
                output=result,
                usage=Usage(prompt_tokens=2, completion_tokens=3) if kind == "generate" else Usage(),
            )

        stage, url = await self.open.enter_async_context(scripted(behave, name=name, kind=kind))
        self.served[name] = stage
        self.addresses.append(StageAddress(name, kind, url))

    async def add_model(self, name, words):
        async def behave(request, context):
            self.calls.append((name, request.input))
            for word in words:
                yield Delta(word)
            usage = Usage(prompt_tokens=2, completion_tokens=len(words))
            yield Final(StageReply(id=request.id, stage=name, output="".join(words), usage=usage))

        stage, url = await self.open.enter_async_context(scripted(behave, kind="generate"))
        self.served[name] = stage
        self.addresses.append(StageAddress(name, "generate", url))

    async def agent(self, nodes, **more):
        settings = FunctionSettings(
            service="front",
            stages=tuple(self.addresses),
            graph={"nodes": nodes, **more},
            stage_config=QUICK,
        )
        return await self.open.enter_async_context(serving(create_app(build(settings), settings)))

    def called(self, name):
        return [value for other, value in self.calls if other == name]


@pytest.fixture
async def stages():
    made = Stages()
    async with made.open:
        yield made


async def ask(http, url, text="hello", **more):
    async with http.post(f"{url}/invoke", json={"input": text, **more}) as response:
        return response.status, await response.json(content_type=None)


async def test_a_switch_by_key_lets_one_way_run_and_a_join_gets_its_output(http, stages):
    await stages.add("classify", lambda request: " Billing\n" if "bill" in request.text else "other")
    await stages.add("billing", "about your bill", kind="generate")
    await stages.add("general", "in general", kind="generate")
    await stages.add("polish", lambda request: f"<{request.text}>")
    url = await stages.agent(
        [
            {
                "name": "classify",
                "switch": {
                    "key": "stages.classify.text.trim().lowerAscii()",
                    "cases": {"billing": ["billing"]},
                    "default": ["general"],
                },
            },
            {"name": "billing", "after": ["classify"], "input": "request.input"},
            {"name": "general", "after": ["classify"], "input": "request.input"},
            {"name": "polish", "after": ["billing", "general"]},
        ]
    )
    status, reply = await ask(http, url, "my bill")
    assert (status, reply["output"]) == (200, "<about your bill>")
    assert stages.called("general") == []
    assert stages.called("billing") == ["my bill"]
    assert [timing["stage"] for timing in reply["timings"]] == ["classify", "billing", "polish", "front"]
    assert reply["usage"] == {"prompt_tokens": 2, "completion_tokens": 3}
    assert (await ask(http, url, "my dog"))[1]["output"] == "<in general>"


async def test_stages_run_side_by_side_and_their_texts_are_joined(http, stages):
    both = asyncio.Barrier(2)

    async def meet(request):
        await both.wait()
        return f"{request.text}!"

    await stages.add("split", lambda request: request.text.upper())
    await stages.add("left", meet, kind="generate")
    await stages.add("right", meet, kind="generate")
    await stages.add("join", lambda request: request.text)
    url = await stages.agent(
        [
            {"name": "split"},
            {"name": "left", "after": ["split"]},
            {"name": "right", "after": ["split"]},
            {"name": "join", "after": ["left", "right"]},
        ]
    )
    status, reply = await ask(http, url, "go")
    assert (status, reply["output"]) == (200, "GO!\n\nGO!")
    assert reply["usage"] == {"prompt_tokens": 4, "completion_tokens": 6}, "of both models"


@pytest.mark.parametrize(
    ("otherwise", "language", "output"),
    [
        ("pass", "de", "[hallo -> de]"),
        ("pass", "en", "[hallo]"),
        ("skip", "de", "[hallo -> de]"),
        ("skip", "en", "hallo"),
    ],
)
async def test_where_a_condition_does_not_hold_a_stage_is_passed_or_the_way_not_taken(
    http, stages, otherwise, language, output
):
    await stages.add("first", lambda request: request.text)
    await stages.add("translate", lambda request: f"{request.text} -> de")
    await stages.add("last", lambda request: f"[{request.text}]")
    when = 'request.metadata.language == "de"'
    url = await stages.agent(
        [{"name": "first"}, {"name": "translate", "when": when, "otherwise": otherwise}, {"name": "last"}]
    )
    assert (await ask(http, url, "hallo", metadata={"language": language}))[1]["output"] == output
    status, problem = await ask(http, url, "hallo")
    assert (status, problem["stage"], problem["retryable"]) == (500, "translate", False)
    assert "there is no member 'language'" in problem["detail"]


async def test_map_calls_a_stage_for_each_item_with_bounded_concurrency(http, stages):
    most = now = 0

    async def work(request):
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        return request.text[::-1]

    await stages.add("list", lambda request: request.text)
    await stages.add("each", work, kind="generate")
    await stages.add("sum", lambda request: request.text)
    url = await stages.agent(
        [
            {"name": "list"},
            {"name": "each", "map": {"items": 'stages.list.text.split(",")', "concurrency": 2}},
            {"name": "sum", "input": "stages.each.items"},
        ]
    )
    status, reply = await ask(http, url, "ab,cd,ef,gh")
    assert (status, reply["output"]) == (200, '["ba", "dc", "fe", "hg"]')
    assert most == 2
    assert reply["usage"] == {"prompt_tokens": 8, "completion_tokens": 12}
    each = next(timing for timing in reply["timings"] if timing["stage"] == "each")
    assert each["attempts"] == 4
    status, problem = await ask(http, url, ",".join("x" * 300))
    assert status == 500
    assert "gives 300 items, must give at most 256" in problem["detail"]


@pytest.mark.parametrize("fallback", [{"stage": "spare"}, {"text": "come back later"}])
@pytest.mark.parametrize("fails", [ProblemError(422, "no"), ProblemError(503, "away"), "slow"])
async def test_a_fallback_stands_in_for_a_stage_that_fails_or_is_slow(http, stages, fallback, fails):
    async def answer(_request):
        if fails == "slow":
            await asyncio.sleep(30)
        raise fails

    await stages.add("main", answer, kind="generate")
    await stages.add("spare", "from the spare", kind="generate")
    await stages.add("last", lambda request: f"[{request.text}]")
    url = await stages.agent(
        [{"name": "main", "fallback": fallback, "callSeconds": 0.5}, {"name": "last", "after": ["main"]}]
    )
    status, reply = await ask(http, url)
    assert (status, reply["output"]) == (
        200,
        f"[{'from the spare' if 'stage' in fallback else 'come back later'}]",
    )
    told = reply["data"]["main"]
    assert told["fallback"] == fallback.get("stage", "text")
    assert told["because"] == (
        "stage main did not answer within 0.5 s (callSeconds)" if fails == "slow" else fails.problem.detail
    )


async def test_the_first_failure_ends_the_stages_beside_it(http, stages):
    async def hang(_request):
        await asyncio.sleep(60)

    await stages.add("start", "x")
    await stages.add("hangs", hang)
    await stages.add("fails", ProblemError(422, "cannot be done"))
    url = await stages.agent(
        [{"name": "start"}, {"name": "hangs", "after": ["start"]}, {"name": "fails", "after": ["start"]}]
    )
    status, problem = await ask(http, url)
    assert (status, problem["stage"], problem["detail"]) == (422, "fails", "cannot be done")
    async with asyncio.timeout(10):
        while not all(seen.cancelled for seen in stages.served["hangs"].seen):
            await asyncio.sleep(0.01)


async def test_results_name_whose_outputs_are_the_answer(http, stages):
    await stages.add("answer", "the answer")
    await stages.add("audit", "noted")
    nodes = [{"name": "answer"}, {"name": "audit", "after": ["answer"]}]
    url = await stages.agent(nodes)
    assert (await ask(http, url))[1]["output"] == "noted"
    url = await stages.agent(nodes, results=["answer"])
    assert (await ask(http, url))[1]["output"] == "the answer"
    assert len(stages.called("audit")) == 2


async def test_weights_share_requests_and_a_request_takes_the_same_way_again(http, stages):
    await stages.add("start", lambda request: request.text)
    await stages.add("small", "small")
    await stages.add("large", "large")
    url = await stages.agent(
        [
            {"name": "start", "switch": {"weights": {"small": 3, "large": 1}}},
            {"name": "small", "after": ["start"]},
            {"name": "large", "after": ["start"]},
        ]
    )
    first = [(await ask(http, url, id=f"r-{at}"))[1]["output"] for at in range(60)]
    again = [(await ask(http, url, id=f"r-{at}"))[1]["output"] for at in range(60)]
    assert first == again
    assert 5 <= first.count("large") <= 27, "15 are expected"


async def test_the_chosen_model_streams_through_what_is_behind_the_join(http, stages):
    await stages.add("classify", lambda request: "hard" if "why" in request.text else "easy")
    await stages.add_model("small", ["sm", "all"])
    await stages.add_model("large", ["lar", "ge"])
    await stages.add("last", lambda request: f"[{request.text}]")
    nodes = [
        {
            "name": "classify",
            "switch": {"key": "stages.classify.text", "cases": {"hard": ["large"]}, "default": ["small"]},
        },
        {"name": "small", "after": ["classify"], "input": "request.input"},
        {"name": "large", "after": ["classify"], "input": "request.input"},
    ]
    for behind, events in (
        ([], ["lar", "ge"]),
        ([{"name": "last", "after": ["small", "large"]}], ["[large]"]),
    ):
        url = await stages.agent([*nodes, *behind])
        async with http.post(f"{url}/invoke", json={"input": "why", "stream": True}) as response:
            told = await read_events(response)
        assert [data["text"] for name, data in told if name == "delta"] == events
        reply = told[-1][1]
        assert reply["output"] == "".join(events)
        assert reply["usage"] == {"prompt_tokens": 2, "completion_tokens": 2}
        assert [timing["stage"] for timing in reply["timings"]][:2] == ["classify", "large"]
    assert stages.called("small") == []


async def test_a_stream_that_takes_longer_than_call_seconds_ends_with_the_stages_error(http, stages):
    async def behave(request, context):
        yield Delta("begun")
        await asyncio.sleep(60)

    stage, url = await stages.open.enter_async_context(scripted(behave, kind="generate"))
    stages.addresses.append(StageAddress("model", "generate", url))
    url = await stages.agent([{"name": "model", "callSeconds": 0.5}])
    async with http.post(f"{url}/invoke", json={"input": "x", "stream": True}) as response:
        told = await read_events(response)
    assert [name for name, _ in told] == ["delta", "error"]
    assert (told[-1][1]["stage"], told[-1][1]["status"]) == ("model", 504)
    assert "within 0.5 s (callSeconds)" in told[-1][1]["detail"]
    async with asyncio.timeout(10):
        while not stage.seen[0].cancelled:
            await asyncio.sleep(0.01)


async def test_only_stages_that_are_certain_to_run_are_woken_ahead(http, stages):
    gate = asyncio.Event()

    async def wait(_request):
        await gate.wait()
        return "b"

    await stages.add("first", wait)
    for name in ("a", "b", "behind"):
        await stages.add(name, name)
    url = await stages.agent(
        [
            {"name": "first", "switch": {"key": "stages.first.text", "cases": {"a": ["a"], "b": ["b"]}}},
            {"name": "a", "after": ["first"]},
            {"name": "b", "after": ["first"]},
            {"name": "behind", "after": ["b"]},
        ]
    )
    asked = asyncio.create_task(ask(http, url))
    async with asyncio.timeout(10):
        while not stages.called("first"):
            await asyncio.sleep(0.01)
    gate.set()
    assert (await asked)[1]["output"] == "behind"


BASE = {"a": "container", "b": "generate", "c": "container"}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            [{"name": "a", "after": ["b"]}, {"name": "b", "after": ["a"]}],
            "a.after: goes in a circle: a -> b -> a",
        ),
        ([{"name": "a", "after": ["a"]}], "a.after: 'a' is the stage itself, must be another"),
        (
            [{"name": "a"}, {"name": "b", "after": ["x"]}],
            "b.after: there is no stage 'x' in the graph (there: a, b)",
        ),
        ([{"name": "z"}], "nodes: there is no stage 'z' (there: a, b, c)"),
        ([{"name": "a", "when": "1 +"}], "a.when: is not a CEL expression"),
        ([{"name": "a", "when": "foo == 1"}], "a.when: 'foo' is not known, must be one of request, stages"),
        (
            [{"name": "a", "when": "request.body == 1"}],
            "a.when: request has no 'body', must be one of id, text",
        ),
        (
            [{"name": "a", "when": "stages.b.text == ''"}, {"name": "b"}],
            "a.when: stage 'b' may not have ended by then",
        ),
        (
            [{"name": "a"}, {"name": "b", "when": "stages.x.ran"}],
            "b.when: there is no stage 'x' in the graph",
        ),
        ([{"name": "a"}, {"name": "b", "when": "stages.a.texts"}], "b.when: a stage has no 'texts'"),
        ([{"name": "a", "switch": {"key": "1"}}], "cases must be given with key"),
        (
            [{"name": "a", "switch": {"weights": {"c": 1}}}, {"name": "b"}],
            "a.switch: 'c' must be a stage with after: [a]",
        ),
        (
            [{"name": "a", "switch": {"weights": {"b": 1}}}, {"name": "b"}, {"name": "c", "after": ["a"]}],
            "c.after: is not a target of the switch of 'a'",
        ),
        ([{"name": "a", "fallback": {}}], "must have either stage or text"),
        (
            [{"name": "a", "map": {"items": "request.text", "concurrency": 0}}],
            "must be greater than or equal to 1",
        ),
        ([{"name": "a", "wenn": "true"}], "nodes[0].wenn = 'true': is not known here"),
        ([], "must have at least 1 item"),
    ],
)
def test_a_graph_that_cannot_work_is_refused_at_the_start(nodes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        graph_of(BASE, parse_settings({"nodes": nodes}))
    settings = FunctionSettings(
        stages=tuple(StageAddress(name, kind, "http://x") for name, kind in BASE.items()),
        graph={"nodes": nodes},
    )
    with pytest.raises(SettingsError, match="PILOTLIGHT_GRAPH"):
        build(settings)


@pytest.mark.parametrize(
    ("nodes", "progress", "expected"),
    [
        ([{"name": "a"}, {"name": "b"}, {"name": "c"}], {}, "abc"),
        ([{"name": "a"}, {"name": "b", "when": "request.text == ''"}, {"name": "c"}], {}, "ac"),
        (
            [{"name": "a"}, {"name": "b", "when": "request.text == ''", "otherwise": "skip"}, {"name": "c"}],
            {},
            "a",
        ),
        ([{"name": "a"}, {"name": "b", "map": {"items": "[1]"}}, {"name": "c"}], {}, "ac"),
        (
            [{"name": "a", "switch": {"weights": {"b": 1}}}, {"name": "b"}, {"name": "c", "after": []}],
            {},
            "ac",
        ),
        (
            [{"name": "a", "switch": {"weights": {"b": 1}}}, {"name": "b"}, {"name": "c"}],
            {"a": Ended(Outcome.RAN, frozenset("b"))},
            "bc",
        ),
        (
            [{"name": "a", "switch": {"key": "'x'", "cases": {"x": ["b"]}}}, {"name": "b"}, {"name": "c"}],
            {"a": Ended(Outcome.RAN, frozenset())},
            "",
        ),
    ],
)
def test_what_is_certain_to_run(nodes, progress, expected):
    graph = graph_of(BASE, parse_settings({"nodes": nodes}))
    assert "".join(sorted(certain(graph, progress))) == expected


def test_many_ways_through_stages_that_are_passed_over_lead_to_one_input():
    layers = [[f"n{layer}-{at}" for at in range(8)] for layer in range(12)]
    nodes = [{"name": "begin"}]
    for before, layer in zip([["begin"], *layers], layers, strict=False):
        nodes += [{"name": name, "after": before, "when": "request.text == ''"} for name in layer]
    graph = graph_of({node["name"]: "container" for node in nodes}, parse_settings({"nodes": nodes}))
    done = {node.name: Ended(Outcome.PASSED) for node in graph.nodes} | {"begin": Ended(Outcome.RAN)}
    assert sources(graph, done, "n11-7") == ("begin",)
    assert results(graph, done) == ("begin",)


async def test_an_expression_over_a_long_list_keeps_nobody_waiting_and_is_ended():
    expressions = Expressions(limit_s=2.0)
    slow = Condition('request.text.split(" ").filter(x, x != "a").size()')
    quick = Condition("[1, 2].map(x, x * 2)")
    given = {"request": {"text": "b " * 200_000}, "stages": {}}
    try:
        assert await expressions.value(quick, {}, characters=0) == [2, 4]
        asked = asyncio.create_task(expressions.value(slow, given, characters=400_000))
        turns = 0
        while not asked.done():
            await asyncio.sleep(0.01)
            turns += 1
        with pytest.raises(ExpressionError, match="takes longer than 2 s"):
            await asked
        assert turns > 3, "the event loop went on"
        cancelled = asyncio.create_task(expressions.value(slow, given, characters=400_000))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        assert await expressions.value(quick, {}, characters=0) == [2, 4], "no answer of another"
        with pytest.raises(ExpressionError, match="there is no member"):
            await expressions.value(Condition("[1].map(x, request.nothing)".replace("nothing", "metadata.x")),
                                    {"request": {"metadata": {}}}, characters=0)  # fmt: skip
    finally:
        await expressions.close()
