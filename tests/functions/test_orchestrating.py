"""Orchestrate calling scripted stages and a real postprocess over real HTTP."""

import asyncio
import contextlib
import json
import time
from types import SimpleNamespace

import pytest

from functions.contract import Delta, Failure, Final, Problem, StageReply, Usage
from functions.http.app import create_app
from functions.problems import ProblemError
from functions.settings import Colocated, FunctionSettings, StageAddress
from functions.stages.orchestrate import build as build_orchestrate
from functions.stages.postprocess import build as build_postprocess
from tests.functions.servers import (
    ScriptedStage,
    echo,
    free_port,
    read_events,
    scripted,
    serving,
    stage_process,
    wait_until,
)

QUICK = {"wait_initial": 0.02, "wait_max": 0.1, "attempts": 5, "breaker_failures": 50}


def words(text, gap=0.0):
    """A model that says these words."""

    async def behave(request, context):
        for word in text:
            yield Delta(word)
            await asyncio.sleep(gap)
        yield Final(
            StageReply(
                id=request.id,
                stage="model",
                output="".join(text),
                finish_reason="length",
                usage=Usage(prompt_tokens=3, completion_tokens=len(text)),
            )
        )

    return behave


def whole(text):
    return lambda request, _context: StageReply(
        id=request.id, stage="model", output=text, usage=Usage(prompt_tokens=3, completion_tokens=4)
    )


class Here(SimpleNamespace):
    """Orchestrate in this process, behind the same real HTTP."""


@contextlib.asynccontextmanager
async def orchestrate(stages, *, config=None, gateway=None):
    settings = FunctionSettings(
        service="front",
        stages=tuple(address(*stage) for stage in stages),
        stage_config={**QUICK, **(config or {})},
        gateway=gateway,
    )
    async with serving(create_app(build_orchestrate(settings), settings)) as url:
        yield Here(url=url)


class Config(dict):
    """Stands for the URL of a stage in orchestrate's process."""


def address(name, kind, url):
    if isinstance(url, Config):
        return StageAddress(name, kind, "", Colocated(url))
    return StageAddress(name, kind, url)


@pytest.fixture(params=["of its own", "colocated"])
def postprocess(request):
    @contextlib.asynccontextmanager
    async def started(**config):
        if request.param == "colocated":
            yield Config(config)
            return
        async with serving(
            create_app(build_postprocess(FunctionSettings(stage_config=config)), FunctionSettings())
        ) as url:
            yield url

    return started


async def test_a_whole_request_runs_through_every_stage_in_order(http, postprocess):
    async with (
        scripted(echo("first"), name="first", kind="ingest") as (first, first_url),
        scripted(whole("write to a@b.com "), name="model") as (model, model_url),
        postprocess() as post_url,
        orchestrate(
            [
                ("first", "ingest", first_url),
                ("model", "generate", model_url),
                ("post", "postprocess", post_url),
            ],
        ) as process,
        http.post(
            f"{process.url}/invoke",
            json={"input": "hello", "parameters": {"max_tokens": 4}, "metadata": {"tenant": "x"}},
            headers={
                "X-Request-Id": "req-1",
                "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
                "X-Pilotlight-Deadline": "20",
            },
        ) as response,
    ):
        reply = await response.json()
        assert response.status == 200, reply
        assert reply["id"] == "req-1"
        assert reply["stage"] == "front"
        assert reply["output"] == "write to [redacted email]"
        assert reply["usage"] == {"prompt_tokens": 3, "completion_tokens": 4}
        assert reply["metadata"] == {"tenant": "x"}
        assert reply["data"]["post"]["redactions"] == {"email": 1}
        assert [timing["stage"] for timing in reply["timings"]] == ["first", "model", "post", "front"]
        assert all(timing["seconds"] > 0 for timing in reply["timings"])
        assert {"first", "model", "post"} <= {
            part.split(";")[0].strip() for part in response.headers["Server-Timing"].split(",")
        }
        for stage in (first, model):
            context = stage.seen[0].context
            assert context.request_id == "req-1"
            assert context.traceparent.split("-")[1] == "a" * 32
            assert 0 < context.deadline - context.arrived <= 20
            assert stage.seen[0].request.parameters.max_tokens == 4


async def test_a_stream_reaches_the_client_redacted_while_the_model_still_generates(http, postprocess):
    text = [
        "Dear ",
        "reader, ",
        "ask j",
        "o@exa",
        "mple.c",
        "om or",
        " pay with 4111 1111",
        " 1111 1111",
        ". Bye",
        ". ",
    ]
    release = asyncio.Event()

    async def behave(request, context):
        for index, word in enumerate(text):
            if index == 8:
                await release.wait()
            yield Delta(word)
        yield Final(StageReply(id=request.id, stage="model", output="".join(text), finish_reason="stop"))

    async with (
        scripted(behave) as (_, model_url),
        postprocess() as post_url,
        orchestrate([("model", "generate", model_url), ("post", "postprocess", post_url)]) as process,
        http.post(f"{process.url}/invoke", json={"input": "hello", "stream": True}) as response,
    ):
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        early = await response.content.readuntil(b"\n\n")
        assert b"Dear" in early
        release.set()
        events = await read_events(response)
    deltas = json.loads(early.split(b"data: ")[1])["text"] + "".join(
        d["text"] for n, d in events if n == "delta"
    )
    assert deltas == "Dear reader, ask [redacted email] or pay with [redacted card]. Bye."
    name, reply = events[-1]
    assert name == "reply"
    assert reply["output"] == deltas
    assert reply["finish_reason"] == "stop"
    assert reply["data"]["post"]["redactions"] == {"email": 1, "card": 1}
    assert [timing["stage"] for timing in reply["timings"]] == ["model", "post", "front"]
    assert reply["timings"][0]["ttft"] > 0


async def test_a_stop_sequence_of_postprocess_ends_the_generation(http, postprocess):
    async def endless(request, context):
        for number in range(10**9):
            yield Delta(f"{number} ")
            await asyncio.sleep(0.005)

    async with (
        scripted(endless) as (model, model_url),
        postprocess(stop=["12 "]) as post_url,
        orchestrate([("model", "generate", model_url), ("post", "postprocess", post_url)]) as process,
        http.post(f"{process.url}/invoke", json={"input": "count", "stream": True}) as response,
    ):
        events = await read_events(response)
        assert events[-1][0] == "reply"
        assert events[-1][1]["output"] == "0 1 2 3 4 5 6 7 8 9 10 11"
        assert events[-1][1]["finish_reason"] == "stop"
        model_timing, post_timing, _ = events[-1][1]["timings"]
        assert (model_timing["stage"], post_timing["stage"]) == ("model", "post")
        assert 0 < model_timing["ttft"] < model_timing["seconds"]
        await wait_until(lambda: model.seen[0].cancelled)


async def test_a_stage_that_does_not_stream_takes_the_whole_text_and_gives_one_piece(http):
    def upper(request, context):
        return StageReply(id=request.id, stage="upper", output=request.text.upper())

    async with (
        scripted(words(["a", "b", "c"])) as (_, model_url),
        scripted(upper, name="upper", kind="custom") as (_, upper_url),
        orchestrate([("model", "generate", model_url), ("upper", "custom", upper_url)]) as process,
        http.post(f"{process.url}/invoke", json={"input": "x", "stream": True}) as response,
    ):
        events = await read_events(response)
        assert [data["text"] for name, data in events if name == "delta"] == ["ABC"]
        assert events[-1][1]["output"] == "ABC"
        assert events[-1][1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 3}


@pytest.mark.parametrize("stream", [False, True])
async def test_retryable_failures_are_retried_and_counted(http, stream):
    failures = [503, 502, 429]

    def flaky(request, context):
        if failures:
            raise ProblemError(failures.pop(0), "not yet")
        return words(["fine"])(request, context)

    async with (
        scripted(flaky) as (model, url),
        orchestrate([("model", "generate", url)]) as process,
        http.post(f"{process.url}/invoke", json={"input": "x", "stream": stream}) as response,
    ):
        assert response.status == 200
        reply = (await read_events(response))[-1][1] if stream else await response.json()
        assert reply["output"] == "fine"
        assert reply["timings"][0]["attempts"] == 4
        async with http.get(f"{process.url}/metrics") as page:
            text = await page.text()
        for outcome, count in (("ok", 1), ("failed", 2), ("refused", 1)):
            assert f'pilotlight_stage_calls_total{{outcome="{outcome}",target="model"}} {count}.0' in text
        assert 'pilotlight_stage_call_seconds_count{target="model"} 4.0' in text
        assert len({seen.request.id for seen in model.seen}) == 1


@pytest.mark.parametrize("status", [400, 413, 422, 500, 501])
async def test_a_failure_that_is_not_retryable_is_not_retried_and_names_its_stage(http, status):
    def refuse(request, context):
        raise ProblemError(status, "no way", retryable=False, extra={"over": 3})

    async with (
        scripted(refuse) as (model, url),
        orchestrate([("model", "generate", url)]) as process,
        http.post(f"{process.url}/invoke", json={"input": "x"}) as response,
    ):
        problem = await response.json(content_type="application/problem+json")
        assert response.status == status
        assert (problem["detail"], problem["stage"], problem["over"]) == ("no way", "model", 3)
        assert len(model.seen) == 1


async def test_retry_after_is_honoured(http):
    instants = []

    def busy(request, context):
        instants.append(time.monotonic())
        if len(instants) == 1:
            raise ProblemError(429, "full", retry_after=1.0)
        return whole("done")(request, context)

    async with (
        scripted(busy) as (_, url),
        orchestrate([("model", "generate", url)]) as process,
        http.post(f"{process.url}/invoke", json={"input": "x"}) as response,
    ):
        assert response.status == 200
        assert instants[1] - instants[0] >= 1.0


async def test_a_stream_that_has_begun_is_never_retried(http):
    async def breaks(request, context):
        yield Delta("half")
        raise ProblemError(503, "engine gone")

    async with (
        scripted(breaks) as (model, url),
        orchestrate([("model", "generate", url)]) as process,
        http.post(f"{process.url}/invoke", json={"input": "x", "stream": True}) as response,
    ):
        events = await read_events(response)
        assert events[0] == ("delta", {"text": "half"})
        assert events[-1][0] == "error"
        assert events[-1][1]["status"] == 503
        assert events[-1][1]["retryable"] is True
        assert events[-1][1]["stage"] == "model"
        assert len(model.seen) == 1


async def test_a_stream_that_is_cut_off_ends_in_an_error_event(http):
    async def cut(scope, receive, send):
        assert scope["type"] == "http"
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        await send(
            {
                "type": "http.response.body",
                "body": b'event: delta\ndata: {"text": "x"}\n\n',
                "more_body": True,
            }
        )
        raise ConnectionError

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["path"] == "/invoke":
            await cut(scope, receive, send)

    async with (
        serving(app) as url,
        orchestrate([("model", "generate", url)], config={"wake": False}) as process,
        http.post(f"{process.url}/invoke", json={"input": "x", "stream": True}) as response,
    ):
        events = await read_events(response)
        assert [name for name, _ in events] == ["delta", "error"]
        assert events[-1][1]["title"] == "Stream cut off"
        assert events[-1][1]["retryable"] is True


async def test_a_stage_that_is_not_there_yet_is_waited_for(http):
    port = free_port()
    async with orchestrate(
        [("model", "generate", f"http://127.0.0.1:{port}")], config={"attempts": 2}
    ) as process:
        request = asyncio.create_task(
            http.post(f"{process.url}/invoke", json={"input": "x"}, headers={"X-Pilotlight-Deadline": "20"})
        )
        done, _ = await asyncio.wait({request}, timeout=0.3)
        assert not done
        async with scripted(whole("late but here"), port=port), await request as response:
            assert response.status == 200
            assert (await response.json())["output"] == "late but here"


async def test_all_stages_behind_the_first_are_woken_at_once(http):
    probed = []
    gate = asyncio.Event()

    async def held(request, context):
        await gate.wait()
        return StageReply(id=request.id, stage="first", output=request.input)

    def watched(app):
        async def wrapped(scope, receive, send):
            if scope["type"] == "http" and scope["path"] == "/healthz/ready":
                probed.append((scope["server"][1], dict(scope["headers"]).get(b"traceparent")))
            await app(scope, receive, send)

        return wrapped

    model = ScriptedStage("model", "generate", whole("y"))
    last = ScriptedStage("last", "custom", echo("last"))
    async with (
        scripted(held, name="first", kind="ingest") as (_, first_url),
        serving(watched(create_app(model, FunctionSettings()))) as model_url,
        serving(watched(create_app(last, FunctionSettings()))) as last_url,
        orchestrate(
            [("first", "ingest", first_url), ("model", "generate", model_url), ("last", "custom", last_url)],
        ) as process,
    ):
        request = asyncio.create_task(http.post(f"{process.url}/invoke", json={"input": "x"}))
        await wait_until(lambda: len(probed) == 2)
        assert model.seen == []
        gate.set()
        async with await request as response:
            assert response.status == 200
        async with http.post(f"{process.url}/invoke", json={"input": "x"}) as response:
            assert response.status == 200
        assert len(probed) == 2, "stages that just answered are not woken again"


async def test_stage_calls_go_to_the_gateway_with_the_stages_host(http):
    hosts = []
    stage_app = create_app(
        ScriptedStage("m", "generate", whole("via")),
        FunctionSettings(),
    )

    async def gateway(scope, receive, send):
        if scope["type"] == "http":
            hosts.append(dict(scope["headers"])[b"host"])
        await stage_app(scope, receive, send)

    async with (
        serving(gateway) as gateway_url,
        orchestrate(
            [("m", "generate", "http://generate-support.default.svc.cluster.local")],
            gateway=gateway_url,
        ) as process,
        http.post(f"{process.url}/invoke", json={"input": "x"}) as response,
    ):
        assert (await response.json())["output"] == "via"
        assert set(hosts) == {b"generate-support.default.svc.cluster.local"}


async def test_the_circuit_opens_refuses_at_once_and_closes_again(http):
    broken = True

    def behave(request, context):
        if broken:
            raise ProblemError(503, "down")
        return whole("up")(request, context)

    async with (
        scripted(behave) as (model, url),
        orchestrate(
            [("model", "generate", url)],
            config={"attempts": 1, "breaker_failures": 3, "breaker_seconds": 0.5},
        ) as process,
    ):
        for _ in range(3):
            async with http.post(f"{process.url}/invoke", json={"input": "x"}) as response:
                assert (await response.json(content_type=None))["detail"] == "down"
        async with http.post(f"{process.url}/invoke", json={"input": "x"}) as response:
            problem = await response.json(content_type=None)
            assert response.status == 503
            assert problem["title"] == "Circuit open"
            assert problem["retryable"] is True
            assert int(response.headers["Retry-After"]) >= 1
        assert len(model.seen) == 3
        broken = False

        async def closed():
            async with http.post(f"{process.url}/invoke", json={"input": "x"}) as response:
                return response.status == 200

        await wait_until(closed)


async def test_bad_requests_do_not_open_the_circuit(http):
    def refuse(request, context):
        raise ProblemError(422, "no")

    async with (
        scripted(refuse) as (model, url),
        orchestrate([("model", "generate", url)], config={"breaker_failures": 2}) as process,
    ):
        for _ in range(5):
            async with http.post(f"{process.url}/invoke", json={"input": "x"}) as response:
                assert response.status == 422
        assert len(model.seen) == 5


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_disconnects_cancels_the_stages(http, stream):
    async def slow(request, context):
        await asyncio.sleep(60)

    async def behave(request, context):
        yield Delta("x")
        await asyncio.sleep(60)

    async with (
        scripted(behave if stream else slow) as (model, url),
        orchestrate([("model", "generate", url)]) as process,
    ):
        request = asyncio.create_task(
            http.post(f"{process.url}/invoke", json={"input": "x", "stream": stream})
        )
        await wait_until(lambda: bool(model.seen))
        if stream:
            (await request).close()
        else:
            request.cancel()
        await wait_until(lambda: model.seen[0].cancelled)


async def test_the_deadline_ends_a_request_and_the_stages_work(http):
    async def slow(request, context):
        await asyncio.sleep(60)

    async with (
        scripted(slow) as (model, url),
        orchestrate([("model", "generate", url)]) as process,
        http.post(
            f"{process.url}/invoke", json={"input": "x"}, headers={"X-Pilotlight-Deadline": "0.4"}
        ) as response,
    ):
        assert response.status == 504
        assert (await response.json(content_type=None))["retryable"] is True
        await wait_until(lambda: model.seen[0].cancelled)


async def test_a_response_outside_the_contract_is_a_502_that_says_so(http):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]}
        )
        await send({"type": "http.response.body", "body": b"<p>secret-internal</p>"})

    async with (
        serving(app) as url,
        orchestrate([("model", "generate", url)]) as process,
        http.post(f"{process.url}/invoke", json={"input": "x"}) as response,
    ):
        problem = await response.json(content_type=None)
        assert response.status == 502
        assert "not a StageReply" in problem["detail"]
        assert "secret-internal" not in json.dumps(problem)


async def test_a_failure_of_the_model_comes_after_the_text_before_it(http, postprocess):
    async def fails(request, context):
        yield Delta("some words ")
        yield Failure(Problem(title="Engine died", status=503, detail="gone", retryable=True))

    async with (
        scripted(fails) as (_, model_url),
        postprocess() as post_url,
        orchestrate([("model", "generate", model_url), ("post", "postprocess", post_url)]) as process,
        http.post(f"{process.url}/invoke", json={"input": "x", "stream": True}) as response,
    ):
        events = await read_events(response)
        assert events[0] == ("delta", {"text": "some words"})
        assert events[-1][0] == "error"
        assert events[-1][1]["title"] == "Engine died"
        assert events[-1][1]["retryable"] is True


async def test_segments_are_posted_as_fast_as_the_network_allows_not_per_token(http):
    posts = []

    async def slow_filter(request, context):
        posts.append(request.input)
        await asyncio.sleep(0.05)
        return StageReply(id=request.id, stage="post", output=request.input, carry={"n": len(posts)})

    async with (
        scripted(words([f"{n} " for n in range(200)], gap=0.001)) as (_, model_url),
        scripted(slow_filter, name="post", kind="postprocess") as (stage, post_url),
        orchestrate([("model", "generate", model_url), ("post", "postprocess", post_url)]) as process,
        http.post(f"{process.url}/invoke", json={"input": "x", "stream": True}) as response,
    ):
        events = await read_events(response)
        assert events[-1][1]["output"] == "".join(f"{n} " for n in range(200))
        assert len(posts) < 50
        carries = [seen.request.segment.carry for seen in stage.seen]
        assert carries[0] is None
        assert carries[1:] == [{"n": n + 1} for n in range(len(carries) - 1)]


def test_orchestrate_without_stages_says_what_is_missing(tmp_path):
    with stage_process("orchestrate", tmp_path) as process:
        assert process.wait() == 2
        assert "PILOTLIGHT_STAGES" in process.log.read_text()
        assert "Traceback" not in process.log.read_text()


async def test_server_timing_of_proxies_on_the_way_is_in_the_stages_phases(http):
    stage = create_app(ScriptedStage("model", "generate", whole("x")), FunctionSettings())

    async def held_by_an_activator(scope, receive, send):
        async def stamped(message):
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"server-timing", b"queue;dur=1500, schedule;dur=20"),
                ]
            await send(message)

        await stage(scope, receive, stamped)

    async with (
        serving(held_by_an_activator) as url,
        orchestrate([("model", "generate", url)]) as process,
        http.post(f"{process.url}/invoke", json={"input": "x"}) as response,
    ):
        phases = (await response.json())["timings"][0]["phases"]
        assert phases["queue"] == pytest.approx(1.5)
        assert phases["schedule"] == pytest.approx(0.02)
