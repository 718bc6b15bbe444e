"""What every stage's HTTP surface promises, whatever the stage: errors, headers, limits, streams."""

import asyncio
import json

import aiohttp
import pytest

from functions.contract import MAX_BODY_BYTES, Delta, Failure, Final, Problem, StageReply
from functions.engine import EngineError
from functions.http.app import context_of, create_app
from functions.problems import ProblemError
from functions.settings import FunctionSettings
from functions.stage import StageRoutes
from functions.timing import parse_server_timing
from tests.functions.servers import ScriptedStage, echo, read_events, scripted, serving, wait_until


@pytest.mark.parametrize(
    ("method", "path", "body", "content_type", "status", "said"),
    [
        ("GET", "/nowhere", None, None, 404, "/nowhere"),
        ("GET", "/invoke", None, None, 405, "POST"),
        ("POST", "/healthz/live", b"{}", "application/json", 405, "GET"),
        ("POST", "/invoke", b"", "application/json", 400, "not JSON"),
        ("POST", "/invoke", b"{", "application/json", 400, "not JSON"),
        ("POST", "/invoke", b"\xff\xfe", "application/json", 400, "not JSON"),
        ("POST", "/invoke", b"[]", "application/json", 422, "object"),
        ("POST", "/invoke", b"{}", "application/json", 422, "input"),
        ("POST", "/invoke", b'{"input": 3}', "application/json", 422, "input"),
        ("POST", "/invoke", b'{"input": []}', "application/json", 422, "input"),
        ("POST", "/invoke", b'{"input": ""}', "application/json", 422, "input is empty"),
        ("POST", "/invoke", b'{"input": "x", "prompt": "y"}', "application/json", 422, "prompt"),
        ("POST", "/invoke", b'{"input": "x", "stream": "yes"}', "application/json", 422, "stream"),
        ("POST", "/invoke", b'{"input": "x", "id": "a b"}', "application/json", 422, "id"),
        (
            "POST",
            "/invoke",
            b'{"input": "x", "parameters": {"max_tokens": 0}}',
            "application/json",
            422,
            "max_tokens",
        ),
        (
            "POST",
            "/invoke",
            b'{"input": "x", "parameters": {"temperature": NaN}}',
            "application/json",
            422,
            "temperature",
        ),
        (
            "POST",
            "/invoke",
            b'{"input": "x", "parameters": {"temperature": "1"}}',
            "application/json",
            422,
            "temperature",
        ),
        (
            "POST",
            "/invoke",
            b'{"input": [{"role": "robot", "content": "x"}]}',
            "application/json",
            422,
            "role",
        ),
        ("POST", "/invoke", b'{"input": "\\ud800"}', "application/json", 400, "JSON"),
        ("POST", "/invoke", b"input=x", "application/x-www-form-urlencoded", 415, "application/json"),
    ],
)
async def test_every_bad_request_is_a_problem_that_says_what_would_be_right(  # noqa: PLR0917 - one table row
    http, method, path, body, content_type, status, said
):
    headers = {"Content-Type": content_type} if content_type else {}
    async with (
        scripted(echo("s")) as (stage, url),
        http.request(method, f"{url}{path}", data=body, headers=headers) as response,
    ):
        assert response.content_type == "application/problem+json"
        problem = await response.json(content_type=None)
        assert response.status == problem["status"] == status, problem
        assert said in json.dumps(problem)
        assert problem["retryable"] is False
        assert problem["stage"] == "model"
        assert response.headers["X-Request-Id"]
        assert parse_server_timing(response.headers["Server-Timing"])[-1].name == "total"
        assert stage.seen == []


async def test_a_value_in_a_problem_is_cut_short(http):
    async with (
        scripted(echo("s")) as (_, url),
        http.post(f"{url}/invoke", json={"input": "x", "metadata": "private " * 1000}) as response,
    ):
        body = await response.text()
        assert response.status == 422
        assert len(body) < 1000


async def test_a_body_past_the_limit_is_refused_declared_or_not(http):
    async def chunks():
        for _ in range(MAX_BODY_BYTES // 2**16 + 2):
            yield b" " * 2**16

    async with scripted(echo("s")) as (_, url):
        big = b" " * (MAX_BODY_BYTES + 1)
        for data in (big, chunks()):
            async with http.post(
                f"{url}/invoke", data=data, headers={"Content-Type": "application/json"}
            ) as response:
                assert response.status == 413
                assert str(MAX_BODY_BYTES) in (await response.json(content_type=None))["detail"]


async def test_request_id_and_trace_are_kept_or_made(http):
    async with scripted(echo("s")) as (stage, url):
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
        async with http.post(
            f"{url}/invoke", json={"input": "x"}, headers={"X-Request-Id": "mine", "traceparent": trace}
        ) as response:
            assert response.headers["X-Request-Id"] == "mine"
            assert (await response.json())["id"] == "mine"
        async with http.post(
            f"{url}/invoke",
            json={"input": "x", "id": "body"},
            headers={"X-Request-Id": "has space", "traceparent": "no"},
        ) as response:
            made = response.headers["X-Request-Id"]
            assert len(made) == 32
            assert (await response.json())["id"] == "body"
        first, second = (seen.context for seen in stage.seen)
        assert first.traceparent.startswith("00-0af7651916cd43dd8448eb211c80319c-")
        assert not first.traceparent.startswith(trace[:52])
        assert first.traceparent.endswith("-00")
        assert len(second.traceparent) == 55
        assert second.traceparent.split("-")[1] != first.traceparent.split("-")[1]


@pytest.mark.parametrize(
    ("deadline", "status", "said"),
    [
        ("0", 504, "deadline"),
        ("-1.5", 504, "deadline"),
        ("soon", 400, "X-Pilotlight-Deadline"),
        ("nan", 400, "decimal"),
    ],
)
async def test_a_deadline_that_has_passed_or_is_not_a_number_is_answered_without_work(
    http, deadline, status, said
):
    async with (
        scripted(echo("s")) as (stage, url),
        http.post(
            f"{url}/invoke", json={"input": "x"}, headers={"X-Pilotlight-Deadline": deadline}
        ) as response,
    ):
        assert response.status == status
        assert said in (await response.json(content_type=None))["detail"]
        assert stage.seen == []


async def test_a_deadline_that_passes_during_the_work_is_504_and_cancels_it(http):
    async def slow(request, context):
        await asyncio.sleep(60)

    async with (
        scripted(slow) as (stage, url),
        http.post(f"{url}/invoke", json={"input": "x"}, headers={"X-Pilotlight-Deadline": "0.2"}) as response,
    ):
        problem = await response.json(content_type=None)
        assert response.status == 504
        assert problem["retryable"] is True
        assert stage.seen[0].cancelled


async def test_a_deadline_that_passes_during_a_stream_ends_it_with_an_error_event(http):
    async def slow(request, context):
        yield Delta("x")
        await asyncio.sleep(60)

    async with (
        scripted(slow) as (stage, url),
        http.post(
            f"{url}/invoke", json={"input": "x", "stream": True}, headers={"X-Pilotlight-Deadline": "0.3"}
        ) as response,
    ):
        assert response.status == 200
        events = await read_events(response)
        assert [name for name, _ in events] == ["delta", "error"]
        assert events[-1][1]["status"] == 504
        await wait_until(lambda: stage.seen[0].cancelled)


async def test_past_the_queue_limit_it_is_429_with_retry_after(http):
    gate = asyncio.Event()

    async def held(request, context):
        await gate.wait()
        return StageReply(id=request.id, stage="s", output="ok")

    async with scripted(held, settings=FunctionSettings(queue_limit=2)) as (stage, url):
        running = [asyncio.create_task(http.post(f"{url}/invoke", json={"input": "x"})) for _ in range(2)]
        await wait_until(lambda: len(stage.seen) == 2)
        async with http.post(f"{url}/invoke", json={"input": "x"}) as response:
            problem = await response.json(content_type=None)
            assert response.status == 429
            assert int(response.headers["Retry-After"]) >= 1
            assert problem["retryable"] is True
        async with http.get(f"{url}/healthz/ready") as response:
            assert response.status == 200
            assert (await response.json())["in_flight"] == 2
        async with http.get(f"{url}/metrics") as response:
            page = await response.text()
            assert 'pilotlight_queue_depth{kind="generate",stage="model"} 2.0' in page
        gate.set()
        for task in running:
            async with await task as response:
                assert response.status == 200
        async with http.get(f"{url}/metrics") as response:
            page = await response.text()
            assert 'pilotlight_requests_total{code="200",kind="generate",stage="model"} 2.0' in page
            assert 'pilotlight_requests_total{code="429",kind="generate",stage="model"} 1.0' in page


async def test_a_client_that_disconnects_cancels_the_work(http):
    async def slow(request, context):
        await asyncio.sleep(60)

    async with scripted(slow) as (stage, url):
        task = asyncio.create_task(http.post(f"{url}/invoke", json={"input": "x"}))
        await wait_until(lambda: bool(stage.seen))
        task.cancel()
        await wait_until(lambda: stage.seen[0].cancelled)


async def test_a_client_that_disconnects_from_a_stream_closes_the_stages_events(http):
    async def endless(request, context):
        while True:
            yield Delta("x")
            await asyncio.sleep(0.01)

    async with scripted(endless) as (stage, url):
        response = await http.post(f"{url}/invoke", json={"input": "x", "stream": True})
        await response.content.readany()
        response.close()
        await wait_until(lambda: stage.seen[0].cancelled)


@pytest.mark.parametrize(
    ("error", "status", "retryable", "said"),
    [
        (ProblemError(409, "conflict here"), 409, False, "conflict here"),
        (EngineError("engine is gone", retryable=True, retry_after=2), 503, True, "engine is gone"),
        (EngineError("bad option", retryable=False, status=400), 400, False, "bad option"),
        (TimeoutError(), 504, True, "deadline"),
        (RuntimeError("secret in a bug"), 500, False, "RuntimeError"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_every_exception_of_a_stage_becomes_a_problem(  # noqa: PLR0917 - one table row
    http, error, status, retryable, said, stream
):
    def fails(request, context):
        raise error

    async with (
        scripted(fails) as (_, url),
        http.post(f"{url}/invoke", json={"input": "x", "stream": stream}) as response,
    ):
        problem = await response.json(content_type="application/problem+json")
        assert response.status == problem["status"] == status
        assert problem["retryable"] is retryable
        assert said in problem["detail"]
        assert "secret in a bug" not in json.dumps(problem)
        if status == 503:
            assert response.headers["Retry-After"] == "2"


@pytest.mark.parametrize("how", ["raises", "event", "ends"])
async def test_a_stream_that_fails_after_its_start_ends_with_an_error_event(http, how):
    async def fails(request, context):
        yield Delta("half")
        if how == "raises":
            raise EngineError("gone", retryable=True)
        if how == "event":
            yield Failure(Problem(title="Gone", status=503, detail="gone", retryable=True))

    async with (
        scripted(fails) as (_, url),
        http.post(f"{url}/invoke", json={"input": "x", "stream": True}) as response,
    ):
        events = await read_events(response)
        assert [name for name, _ in events] == ["delta", "error"]
        assert events[-1][1]["status"] == (500 if how == "ends" else 503)


async def test_a_whole_reply_is_made_from_a_stages_events_and_counted(http):
    async def tokens(request, context):
        for text in "abc":
            yield Delta(text)
            await asyncio.sleep(0.005)
        yield Final(
            StageReply(
                id=request.id, stage="s", output="abc", usage={"prompt_tokens": 2, "completion_tokens": 3}
            )
        )

    async with scripted(tokens) as (_, url):
        async with http.post(f"{url}/invoke", json={"input": "x"}) as response:
            reply = await response.json()
            assert reply["output"] == "abc"
            (timing,) = reply["timings"]
            assert 0 < timing["ttft"] <= timing["seconds"]
        async with http.get(f"{url}/metrics") as response:
            page = await response.text()
        for line in (
            'pilotlight_tokens_total{direction="completion",kind="generate",stage="model"} 3.0',
            'pilotlight_tokens_total{direction="prompt",kind="generate",stage="model"} 2.0',
            'pilotlight_time_to_first_token_seconds_count{kind="generate",stage="model"} 1.0',
            'pilotlight_inter_token_seconds_count{kind="generate",stage="model"} 2.0',
            'pilotlight_time_per_output_token_seconds_count{kind="generate",stage="model"} 1.0',
        ):
            assert line in page


async def test_a_stages_own_routes_have_context_server_timing_and_problems_too(http):
    class WithRoutes(ScriptedStage):
        def routes(self, runtime):  # noqa: ARG002 - the protocol
            from fastapi import APIRouter, Request

            router = APIRouter()

            @router.get("/v1/models")
            async def models(request: Request):
                context_of(request).record("lookup", 0.25)
                return {"id": context_of(request).request_id}

            @router.get("/v1/bug")
            async def bug():
                raise KeyError("secret")

            @router.get("/v1/typed")
            async def typed(n: int):
                return n

            return StageRoutes(router)

    stage = WithRoutes("m", "generate", echo("m"))
    async with serving(create_app(stage, FunctionSettings())) as url:
        async with http.get(f"{url}/v1/models", headers={"X-Request-Id": "r"}) as response:
            assert (await response.json()) == {"id": "r"}
            assert "lookup;dur=250.000" in response.headers["Server-Timing"]
        async with http.get(f"{url}/v1/bug") as response:
            assert response.status == 500
            assert response.content_type == "application/problem+json"
            assert "secret" not in await response.text()
            assert "Server-Timing" in response.headers
        async with http.get(f"{url}/v1/typed", params={"n": "x"}) as response:
            problem = await response.json(content_type=None)
            assert response.status == 422
            assert problem["errors"][0]["field"] == "n"


async def test_readiness_follows_the_start_and_liveness_does_not_wait_for_it(http):
    stage = ScriptedStage("m", "generate", echo("m"))
    stage.starts.clear()
    async with serving(create_app(stage, FunctionSettings())) as url:
        async with http.get(f"{url}/healthz/ready") as response:
            assert response.status == 503
            assert (await response.json())["state"] in {"starting", "loading"}
        async with http.get(f"{url}/healthz/live") as response:
            assert response.status == 200
        stage.starts.set()

        async def ready():
            async with http.get(f"{url}/healthz/ready") as response:
                return response.status == 200

        await wait_until(ready)


async def test_a_thousand_small_requests_at_once_are_all_answered(http):
    async with (
        scripted(echo("s"), settings=FunctionSettings(queue_limit=10_000)) as (_, url),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200)) as many,
    ):

        async def one(n):
            async with many.post(f"{url}/invoke", json={"input": str(n)}) as response:
                return (await response.json())["output"]

        assert await asyncio.gather(*(one(n) for n in range(1000))) == [str(n) for n in range(1000)]
