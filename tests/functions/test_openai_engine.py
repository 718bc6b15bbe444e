"""The engine behind any OpenAI-compatible URL, in a real generate stage against a small OpenAI-like server."""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field

import openai
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from functions.http.app import create_app
from functions.settings import FunctionSettings, SettingsError
from functions.stages.generate import build
from tests.functions.servers import free_port, read_events, serving, stage_process, wait_ready, wait_until

KEY = "local-key-that-no-pattern-knows"


@dataclass
class Api:
    """What the server saw, and what it shall do next."""

    url: str = ""
    bodies: list = field(default_factory=list)
    headers: list = field(default_factory=list)
    fail: list = field(default_factory=list)
    """(status, body, headers) of the next answers."""
    cut: bool = False
    gap: float = 0.0
    slow: bool = False
    closed: asyncio.Event = field(default_factory=asyncio.Event)


@contextlib.asynccontextmanager
async def openai_api():
    api, app = Api(), FastAPI()

    @app.middleware("http")
    async def guard(request: Request, call_next):
        api.headers.append(dict(request.headers))
        if request.headers.get("authorization") not in {f"Bearer {KEY}", None}:
            return JSONResponse({"error": {"message": f"bad key {request.headers['authorization']}"}}, 401)
        return await call_next(request)

    @app.get("/v1/models")
    async def models():
        return {"data": [{"id": "far", "max_model_len": 77}]}

    async def never():
        try:
            yield "{"
            await asyncio.Event().wait()
        finally:
            api.closed.set()

    async def answer(request, piece, done):
        body = await request.json()
        api.bodies.append(body)
        if api.fail:
            status, error, headers = api.fail.pop(0)
            return JSONResponse(error, status, headers)
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        common = {"id": "c-1", "created": 1, "model": body["model"], "object": "any"}
        if not body.get("stream"):
            if api.slow:
                return StreamingResponse(never(), media_type="application/json")
            whole = {**done, **piece("one two three"), "index": 0}
            if "delta" in whole:
                whole["message"] = {"role": "assistant", **piece("one two three")["delta"]}
            return {**common, "choices": [whole], "usage": usage}

        async def stream():
            try:
                for word in ("one ", "two ", "three"):
                    choice = {"index": 0, **piece(word)}
                    yield f"data: {json.dumps({**common, 'choices': [choice]})}\n\n"
                    await asyncio.sleep(api.gap)
                    if api.cut:
                        return
                yield f"data: {json.dumps({**common, 'choices': [{'index': 0, **done}]})}\n\n"
                if body.get("stream_options", {}).get("include_usage"):
                    yield f"data: {json.dumps({**common, 'choices': [], 'usage': usage})}\n\n"
                yield "data: [DONE]\n\n"
            except asyncio.CancelledError:
                api.closed.set()
                raise

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.post("/v1/chat/completions")
    async def chat(request: Request):
        return await answer(
            request, lambda word: {"delta": {"content": word}}, {"delta": {}, "finish_reason": "length"}
        )

    @app.post("/v1/completions")
    async def completions(request: Request):
        return await answer(request, lambda word: {"text": word}, {"text": "", "finish_reason": "eos"})

    @app.post("/v1/embeddings")
    async def embeddings(request: Request):
        inputs = (await request.json())["input"]
        rows = [{"index": at, "embedding": [float(len(text)), 0.5]} for at, text in enumerate(inputs)]
        return {"data": rows[::-1], "usage": {"prompt_tokens": 4}}

    async with serving(app) as url:
        api.url = f"{url}/v1"
        yield api


@contextlib.asynccontextmanager
async def stage(http, api, **args):
    settings = FunctionSettings(
        engine="openai", engine_args={"base-url": api.url, "model": "far", **args}, service="gen"
    )
    async with serving(create_app(build(settings), settings)) as url:
        await wait_ready(http, url)
        yield url


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY_FILE", raising=False)


async def test_load_balancers_and_load_generators_find_it_healthy_as_they_find_vllm(http):
    async with openai_api() as api, stage(http, api) as url:
        for path in ("/health", "/ping"):
            async with http.get(f"{url}{path}") as response:
                assert (response.status, await response.read()) == (200, b"")
        async with http.get(f"{url}/version") as response:
            assert (response.status, set(await response.json())) == (200, {"version"})
        assert api.bodies == [], "the other side is not called"


async def test_a_text_is_completed_with_the_parameters_that_were_given(http):
    async with (
        openai_api() as api,
        stage(http, api) as url,
        http.post(
            f"{url}/invoke", json={"input": "count", "parameters": {"max_tokens": 3, "seed": 1, "stop": "x"}}
        ) as response,
    ):
        reply = await response.json()
    assert reply["output"] == "one two three"
    assert reply["finish_reason"] == "stop"
    assert reply["usage"] == {"prompt_tokens": 5, "completion_tokens": 3}
    assert api.bodies == [
        {
            "model": "far",
            "prompt": "count",
            "max_tokens": 3,
            "seed": 1,
            "stop": ["x"],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert api.headers[-1]["authorization"] == f"Bearer {KEY}"
    assert api.headers[-1]["x-request-id"] == reply["id"]


async def test_a_conversation_streams_token_by_token(http):
    async with openai_api() as api, stage(http, api) as url:
        messages = [{"role": "user", "content": "count"}]
        async with http.post(f"{url}/invoke", json={"input": messages, "stream": True}) as response:
            events = await read_events(response)
    assert [data["text"] for name, data in events if name == "delta"] == ["one ", "two ", "three"]
    assert events[-1][1]["finish_reason"] == "length"
    assert api.bodies[0]["messages"] == messages


async def test_options_of_the_engine_shape_the_request(http):
    args = {"text-as-chat": True, "max-tokens-field": "max_completion_tokens", "extra-body": {"user": "u"}}
    async with (
        openai_api() as api,
        stage(http, api, **args) as url,
        http.post(f"{url}/invoke", json={"input": "hi", "parameters": {"max_tokens": 3}}) as response,
    ):
        assert response.status == 200
    assert api.bodies[0]["messages"] == [{"role": "user", "content": "hi"}]
    assert api.bodies[0]["max_completion_tokens"] == 3
    assert api.bodies[0]["user"] == "u"
    assert "max_tokens" not in api.bodies[0]


@pytest.mark.parametrize(
    ("answer", "status", "retryable", "said"),
    [
        ((400, {"error": {"message": "max_tokens is too big"}}, {}), 400, False, "max_tokens is too big"),
        ((404, {"error": {"message": "?"}}, {}), 502, False, "'far'"),
        ((401, {"error": {"message": f"bad key {KEY}"}}, {}), 502, False, "refused this stage's key"),
        ((429, {"error": {"message": "slow down"}}, {"Retry-After": "7"}), 429, True, "slow down"),
        (
            (500, {"error": {"message": f"saw {KEY} and sk-abcdefghijklmnopqrstuvwx"}}, {}),
            503,
            True,
            "[redacted key]",
        ),
        ((503, {"oops": 1}, {}), 503, True, "no reason given"),
    ],
)
async def test_what_the_other_side_refuses_is_said_without_its_secrets(http, answer, status, retryable, said):
    async with openai_api() as api, stage(http, api) as url:
        api.fail.append(answer)
        async with http.post(f"{url}/invoke", json={"input": "x"}) as response:
            problem = await response.json(content_type=None)
            assert response.status == status, problem
            assert problem["retryable"] is retryable
            assert said in problem["detail"]
            assert KEY not in json.dumps(problem)
            assert "sk-abc" not in json.dumps(problem)
            if status == 429:
                assert response.headers["Retry-After"] == "7"


async def test_a_stream_that_is_cut_off_is_a_retryable_failure(http):
    async with openai_api() as api, stage(http, api) as url:
        api.cut = True
        async with http.post(f"{url}/invoke", json={"input": "x", "stream": True}) as response:
            events = await read_events(response)
    assert [name for name, _ in events] == ["delta", "error"]
    assert events[-1][1]["retryable"] is True


async def test_silence_of_the_other_side_is_a_retryable_failure(http):
    async with openai_api() as api, stage(http, api, **{"silence-seconds": 0.2}) as url:
        api.gap = 30.0
        async with http.post(f"{url}/invoke", json={"input": "x"}) as response:
            problem = await response.json(content_type=None)
            assert response.status == 504
            assert "silent" in problem["detail"]
            assert problem["retryable"] is True


async def test_a_client_that_goes_away_ends_the_generation_on_the_other_side(http):
    async with openai_api() as api, stage(http, api) as url:
        api.gap = 30.0
        response = await http.post(f"{url}/invoke", json={"input": "x", "stream": True})
        await response.content.readany()
        response.close()
        await asyncio.wait_for(api.closed.wait(), 10)


async def test_embeddings_and_models_are_offered_as_openais_clients_call_them(http):
    async with openai_api() as api, stage(http, api) as url:
        async with http.post(
            f"{url}/v1/embeddings", json={"input": ["a", "abc"], "model": "far"}
        ) as response:
            answer = await response.json()
        assert [row["embedding"] for row in answer["data"]] == [[1.0, 0.5], [3.0, 0.5]]
        async with http.get(f"{url}/v1/models") as response:
            (card,) = (await response.json())["data"]
        assert (card["id"], card["max_model_len"]) == ("far", 77)
        async with http.post(f"{url}/v1/embeddings", json={"input": "a", "model": "other"}) as response:
            assert response.status == 404
            assert "'far'" in (await response.json(content_type=None))["detail"]


def official(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="of the client", max_retries=0)


async def test_the_official_client_completes_and_chats_through_the_stage(http):
    async with openai_api() as api, stage(http, api, **{"extra-body": {"user": "u"}}) as url:
        client = official(url)
        text = await client.completions.create(model="far", prompt="count", max_tokens=3)
        assert (text.choices[0].text, text.usage.completion_tokens) == ("one two three", 3)
        messages = [{"role": "user", "content": "count"}]
        said = await client.chat.completions.create(model="far", messages=messages, seed=1)
        assert said.choices[0].message.content == "one two three"
        assert api.bodies[1] == {"user": "u", "model": "far", "messages": messages, "seed": 1}
        assert api.headers[-1]["authorization"] == f"Bearer {KEY}"
        async with http.get(f"{url}/metrics") as response:
            page = await response.text()
    assert 'pilotlight_tokens_total{direction="completion",kind="generate",stage="gen"} 6.0' in page
    assert 'pilotlight_tokens_total{direction="prompt",kind="generate",stage="gen"} 10.0' in page


@pytest.mark.parametrize("usage", [True, False])
async def test_the_official_client_streams_through_the_stage(http, usage):
    more = {"stream_options": {"include_usage": True}} if usage else {}
    async with openai_api() as api, stage(http, api) as url:
        stream = await official(url).chat.completions.create(
            model="far", messages=[{"role": "user", "content": "x"}], stream=True, **more
        )
        chunks = [chunk async for chunk in stream]
        async with http.get(f"{url}/metrics") as response:
            page = await response.text()
    assert [chunk.choices[0].delta.content for chunk in chunks[:3]] == ["one ", "two ", "three"]
    # What the stage asked for itself stays with it.
    assert len(chunks) == (5 if usage else 4)
    assert (chunks[-1].usage is not None) is usage
    assert api.bodies[0]["stream_options"] == {"include_usage": True}
    assert 'pilotlight_tokens_total{direction="completion",kind="generate",stage="gen"} 3.0' in page
    assert 'pilotlight_time_to_first_token_seconds_count{kind="generate",stage="gen"} 1.0' in page
    assert 'pilotlight_answer_tokens_bucket{kind="generate",le="4.0",stage="gen"} 1.0' in page


async def test_the_official_client_sees_the_other_sides_refusals_as_what_they_are(http):
    async with openai_api() as api, stage(http, api) as url:
        client = official(url)
        asked = {"model": "far", "prompt": "x"}
        api.fail.append((400, {"error": {"message": f"too big {KEY}"}}, {}))
        with pytest.raises(openai.BadRequestError, match="too big") as refused:
            await client.completions.create(**asked)
        assert KEY not in str(refused.value)
        api.fail.append((429, {"error": {"message": "slow down"}}, {"Retry-After": "7"}))
        with pytest.raises(openai.RateLimitError) as limited:
            await client.completions.create(**asked)
        assert limited.value.response.headers["Retry-After"] == "7"
        api.fail.append((401, {"error": {"message": f"bad key {KEY}"}}, {}))
        with pytest.raises(openai.InternalServerError, match="refused this stage's key"):
            await client.completions.create(**asked)
        with pytest.raises(openai.NotFoundError, match="must be 'far'"):
            await client.completions.create(model="other", prompt="x")


async def test_a_passed_on_stream_that_is_cut_off_ends_with_an_error(http):
    async with openai_api() as api, stage(http, api) as url:
        api.cut = True
        stream = await official(url).completions.create(model="far", prompt="x", stream=True)
        with pytest.raises(openai.APIError, match="cut off"):
            _ = [chunk async for chunk in stream]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_of_the_openai_api_that_goes_away_ends_the_generation(http, stream):
    async with openai_api() as api, stage(http, api) as url:
        api.gap = 30.0
        api.slow = not stream
        body = {"model": "far", "prompt": "x", "stream": stream}
        asking = asyncio.create_task(http.post(f"{url}/v1/completions", json=body))
        await wait_until(lambda: len(api.bodies) == 1)
        if stream:
            response = await asking
            await response.content.readany()
            response.close()
        else:
            asking.cancel()
        await asyncio.wait_for(api.closed.wait(), 10)


async def test_the_key_comes_from_a_file_and_stands_in_no_log(http, tmp_path):
    secret = tmp_path / "key"
    secret.write_text(KEY + "\n")
    async with openai_api() as api:
        with stage_process(
            "generate",
            tmp_path,
            PILOTLIGHT_ENGINE="openai",
            PILOTLIGHT_MODEL_NAME="far",
            PILOTLIGHT_ENGINE_ARGS=json.dumps({"base-url": api.url}),
            OPENAI_API_KEY="",
            OPENAI_API_KEY_FILE=str(secret),
            PILOTLIGHT_LOG_LEVEL="debug",
        ) as process:
            await wait_ready(http, process.url)
            api.fail.append((500, {"error": {"message": f"oh {KEY}"}}, {}))
            async with http.post(f"{process.url}/invoke", json={"input": "x"}) as response:
                assert response.status == 503
            async with http.post(f"{process.url}/invoke", json={"input": "x"}) as response:
                assert (await response.json())["output"] == "one two three"
            assert api.headers[-1]["authorization"] == f"Bearer {KEY}"
        assert KEY not in process.log.read_text()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("key", "the key was refused (401)"), ("address", "base-url")],
)
async def test_a_wrong_key_or_address_fails_the_start_with_the_cause(http, tmp_path, wrong, said):
    async with openai_api() as api:
        base = api.url if wrong == "key" else f"http://127.0.0.1:{free_port()}/v1"
        with stage_process(
            "generate",
            tmp_path,
            PILOTLIGHT_ENGINE="openai",
            PILOTLIGHT_MODEL_NAME="far",
            PILOTLIGHT_ENGINE_ARGS=json.dumps({"base-url": base, "start-seconds": 0.3}),
            OPENAI_API_KEY="wrong-key",
            PILOTLIGHT_FAILURE_SECONDS="0",
        ) as process:
            assert await asyncio.to_thread(process.wait) == 1
            (failed,) = [line for line in process.lines() if line["message"] == "replica failed"]
            assert said in failed["cause"]
            assert "wrong-key" not in process.log.read_text()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine_args": {}}, "PILOTLIGHT_ENGINE_ARGS.base-url"),
        ({"engine_args": {"base-url": "ftp://x"}}, "https://host/v1"),
        ({"engine_args": {"base-url": "http://user:pw@x/v1"}}, "without credentials"),
        ({"engine_args": {"base-url": "http://x/v1", "temprature": 1}}, "temprature"),
        ({"engine_args": {"base-url": "http://x/v1"}}, "PILOTLIGHT_MODEL_NAME"),
        (
            {"engine_args": {"base-url": "http://x/v1", "model": "m"}, "warmth": "standby"},
            "PILOTLIGHT_WARMTH",
        ),
    ],
)
def test_bad_settings_say_what_would_be_right(settings, said):
    from functions.lifecycle import Warmth

    if "warmth" in settings:
        settings = {**settings, "warmth": Warmth(settings["warmth"])}
    with pytest.raises(SettingsError, match=said):
        build(FunctionSettings(engine="openai", **settings))
