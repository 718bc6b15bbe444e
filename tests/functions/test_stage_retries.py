"""Retries of orchestrate: how many there are, what travels with a request, and which failures end it at once."""

import asyncio
import contextlib
import json
import time

import pytest

from functions.calls.failures import CircuitOpenError
from functions.calls.retries import CallPolicy, CallRetries
from functions.contract import Delta, StageReply
from functions.http.app import create_app
from functions.problems import ProblemError, seconds_of
from functions.replica import ReplicaTracker
from functions.settings import FunctionSettings, StageAddress
from functions.stage import RequestContext
from functions.stages.orchestrate import build
from tests.functions.servers import ScriptedStage, echo, scripted, serving
from transport.retry_budget import RetryBudget

QUICK = {"wait_initial": 0.01, "wait_max": 0.05, "wake": False}


@contextlib.asynccontextmanager
async def orchestrate(*urls, **config):
    """The URL of an orchestrate stage in front of model stages at these URLs."""
    names = ["model", "second"]
    settings = FunctionSettings(
        service="front",
        stages=tuple(StageAddress(name, "custom", url) for name, url in zip(names, urls, strict=False)),
        stage_config={**QUICK, **config},
    )
    async with serving(create_app(build(settings), settings)) as url:
        yield url


@contextlib.asynccontextmanager
async def answering(*answers):
    """A server that gives these answers in turn, the last one again and again; its URL and the heads it got.

    An answer is a status, header fields and a body; None hangs.
    """
    heads = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        heads.append(dict(scope["headers"]))
        answer = answers[min(len(heads), len(answers)) - 1]
        if answer is None:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        status, headers, body = answer
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body.encode()})

    async with serving(app) as url:
        yield url, heads


def problem(status, headers=None, **members):
    body = json.dumps({"title": "x", "status": status, **members})
    return status, {"content-type": "application/problem+json", **(headers or {})}, body


OK = (
    200,
    {"content-type": "application/json"},
    StageReply(id="i", stage="model", output="done").model_dump_json(exclude_none=True),
)


async def invoke(http, url, **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.post(f"{url}/invoke", json={"input": "x"}, headers=names) as response:
        return response.status, await response.json(content_type=None), response.headers


@pytest.mark.parametrize("status", [429, 503])
async def test_many_requests_to_an_overloaded_stage_do_not_multiply(http, status):
    def refuse(request, context):
        raise ProblemError(status, "full")

    async with scripted(refuse) as (model, url), orchestrate(url, breaker_seconds=0.3) as front:
        answers = await asyncio.gather(*(invoke(http, front) for _ in range(20)))
        assert {answer[0] for answer in answers} <= {status, 503}
        # A fifth of the requests and the reserve of ten; two for the time that passes.
        assert len(model.seen) <= 20 + 4 + 10 + 2
        for _ in range(5):
            await asyncio.gather(*(invoke(http, front) for _ in range(20)))
        assert len(model.seen) <= 120 + 24 + 10 + 2


@pytest.mark.parametrize(("posts", "attempts"), [(0, 1), (1, 4), (2, 4)])
async def test_an_open_circuit_is_waited_for_by_a_call_under_way_and_not_for_ever(posts, attempts):
    """Three posts are allowed: each wait for the circuit counts as one, and a call without a post never waits."""
    now = time.monotonic()
    context = RequestContext(
        request_id="r", traceparent="t", arrived=now, deadline=now + 60, warmth="hot", retries_left=10
    )
    retries = CallRetries(CallPolicy(attempts=3, wait_initial=0.001), context, RetryBudget())
    made = 0

    async def call():
        nonlocal made
        async for attempt in retries.attempts():
            with attempt:
                made += 1
                if made <= posts:
                    raise ProblemError(503, "down")
                raise CircuitOpenError("model", 5, 0.001)

    with pytest.raises(CircuitOpenError):
        await asyncio.wait_for(call(), 10)
    assert made == attempts


async def test_the_reserve_of_retries_can_be_raised(http):
    def refuse(request, context):
        raise ProblemError(503, "engine died")

    async with (
        scripted(refuse) as (model, url),
        orchestrate(url, retryReserve=100, breaker_failures=1000) as front,
    ):
        await asyncio.gather(*(invoke(http, front) for _ in range(20)))
        assert len(model.seen) == 20 * 4


@pytest.mark.parametrize("status", [429, 503])
async def test_an_overloaded_stage_opens_its_circuit(http, status):
    def refuse(request, context):
        raise ProblemError(status, "full")

    async with (
        scripted(refuse) as (model, url),
        orchestrate(url, attempts=1, breaker_failures=3, breaker_seconds=60) as front,
    ):
        titles = [(await invoke(http, front))[1]["title"] for _ in range(5)]
        assert titles[3:] == ["Circuit open"] * 2
        assert len(model.seen) == 3


@pytest.mark.parametrize(
    ("config", "given", "sent"),
    [
        ({}, None, [6, 5, 4, 3]),
        ({"attempts": 10}, None, [6, 5, 4, 3, 2, 1, 0]),
        ({"attempts": 10, "retries": 2}, None, [2, 1, 0]),
        ({}, "1", [1, 0]),
        ({}, "0", [0]),
        ({"retries": 0}, "5", [0]),
        ({}, "nonsense", [6, 5, 4, 3]),
    ],
)
async def test_what_is_left_of_the_retries_travels_with_the_request(http, config, given, sent):
    async with (
        answering(problem(503, retryable=True, stage="model")) as (url, heads),
        orchestrate(url, breaker_failures=50, **config) as front,
    ):
        headers = {} if given is None else {"X_Pilotlight_Retries": given}
        status, _, answered = await invoke(http, front, **headers)
    assert status == 503
    assert [int(head[b"x-pilotlight-retries"]) for head in heads] == sent
    assert int(answered.get("X-Pilotlight-Retries-Used", "0")) == len(sent) - 1


async def test_retries_of_a_proxy_on_the_way_count(http):
    used = {"X-Pilotlight-Retries-Used": "3"}
    async with (
        answering(problem(503, used, retryable=True), OK) as (url, heads),
        orchestrate(url, breaker_failures=50) as front,
    ):
        status, _, answered = await invoke(http, front)
    assert status == 200
    assert [int(head[b"x-pilotlight-retries"]) for head in heads] == [6, 2]
    assert answered["X-Pilotlight-Retries-Used"] == "4"


async def test_the_stages_of_a_chain_share_the_retries_of_a_request(http):
    flaky = problem(503, retryable=True)
    async with (
        answering(flaky, flaky, OK) as (first, first_heads),
        answering(flaky) as (second, second_heads),
        orchestrate(first, second, retries=3, breaker_failures=50) as front,
    ):
        status, body, _ = await invoke(http, front)
    assert (status, body["stage"]) == (503, "second")
    assert len(first_heads) == 3
    assert len(second_heads) == 2


async def test_a_retry_that_is_granted_to_a_stage_that_recovers_succeeds(http):
    async with (
        answering(problem(503, retryable=True), OK) as (url, _),
        orchestrate(url) as front,
    ):
        status, body, _ = await invoke(http, front)
    assert (status, body["output"], body["timings"][0]["attempts"]) == (200, "done", 2)


CAUSE = "Revision model-00001 failed: weights/training_args.bin: a pickle runs code"


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        # An activator whose Revision has failed for good.
        (problem(503, retryable=False, detail=CAUSE), 503, CAUSE),
        # Knative: a Service that was never ready has no route.
        ((404, {"content-type": "text/plain"}, "404 page not found"), 503, "never been ready"),
        (problem(404, detail="no Service answers at host 'model'"), 503, "never been ready"),
        # A stage's own 404 is for the client.
        (problem(404, detail="model = 'x', must be 'y'", stage="model"), 404, "must be 'y'"),
    ],
)
async def test_a_stage_that_can_never_answer_is_named_with_the_cause_at_once(http, answer, status, said):
    async with answering(answer) as (url, heads), orchestrate(url) as front:
        began = time.monotonic()
        answered, body, _ = await invoke(http, front, X_Pilotlight_Deadline="30")
    assert (answered, body["status"], body["stage"]) == (status, status, "model")
    assert said in body["detail"]
    assert body["retryable"] is False
    assert len(heads) == 1
    assert time.monotonic() - began < 10


async def test_a_failed_replica_says_why(http):
    replica = ReplicaTracker()
    app = create_app(ScriptedStage("model", "generate", echo("model")), FunctionSettings(), replica=replica)
    async with serving(app) as url, orchestrate(url, attempts=1) as front:
        replica.fail("the model has no config.json")
        status, body, _ = await invoke(http, front)
    assert (status, body["stage"]) == (503, "model")
    assert "no config.json" in body["detail"]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((None,), "stage model did not answer before the deadline"),
        ((problem(503, retryable=True, detail=CAUSE), None), f"deadline; before that: {CAUSE}"),
    ],
)
async def test_a_deadline_names_the_stage_that_was_waited_for_and_its_last_problem(http, answers, said):
    async with answering(*answers) as (url, _), orchestrate(url) as front:
        status, body, _ = await invoke(http, front, X_Pilotlight_Deadline="0.5")
    assert (status, body["stage"], body["retryable"]) == (504, "model", True)
    assert said in body["detail"]


async def test_a_stream_that_cannot_begin_is_an_ordinary_problem_with_the_cause(http):
    async with answering(problem(503, retryable=False, detail=CAUSE)) as (url, _):
        settings = FunctionSettings(
            stages=(StageAddress("generate", "generate", url),), stage_config={**QUICK}, service="front"
        )
        async with (
            serving(create_app(build(settings), settings)) as front,
            http.post(f"{front}/invoke", json={"input": "x", "stream": True}) as response,
        ):
            body = await response.json(content_type=None)
    assert (response.status, body["stage"], body["detail"]) == (503, "generate", CAUSE)


async def test_a_stream_in_progress_is_bounded_by_the_deadline_alone(http):
    async def slow(request, context):
        for word in ("a", "b", "c"):
            yield Delta(word)
            await asyncio.sleep(0.05)
        yield Delta("d")
        await asyncio.sleep(60)

    async with scripted(slow) as (_, url):
        settings = FunctionSettings(stages=(StageAddress("g", "generate", url),), stage_config={**QUICK})
        async with (
            serving(create_app(build(settings), settings)) as front,
            http.post(
                f"{front}/invoke",
                json={"input": "x", "stream": True},
                headers={"X-Pilotlight-Deadline": "0.6"},
            ) as response,
        ):
            text = await response.text()
    assert text.count("event: delta") == 4
    assert text.count("event: error") == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("²", None),
        ("9" * 5000, None),
        ("soon", None),
        ("-1", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_anything_else_says_nothing(header, seconds):
    assert seconds_of(header, now=60.0) == seconds
