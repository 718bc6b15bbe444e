"""The whole agent with the real model: ingest, generate, postprocess, orchestrate, each its own process."""

import asyncio
import contextlib
import json

import aiohttp
import pytest

from tests.functions.servers import read_events, stage_process, wait_ready, wait_until
from tests.functions.vllm_replica import kill

pytestmark = pytest.mark.vllm

PROMPT = "Where is my order? It was to arrive last week."


@contextlib.asynccontextmanager
async def chain(http, tmp_path, replica, made_model, **config):
    with (
        stage_process(
            "ingest", tmp_path, PILOTLIGHT_MODEL_URI=str(made_model.path), K_SERVICE="ingest"
        ) as ingest,
        stage_process("postprocess", tmp_path, K_SERVICE="postprocess") as postprocess,
    ):
        stages = [
            {"name": "ingest", "kind": "ingest", "url": ingest.url},
            {"name": "generate", "kind": "generate", "url": replica.url},
            {"name": "postprocess", "kind": "postprocess", "url": postprocess.url},
        ]
        with stage_process(
            "orchestrate",
            tmp_path,
            PILOTLIGHT_STAGES=json.dumps(stages),
            PILOTLIGHT_STAGE_CONFIG=json.dumps(config),
            K_SERVICE="front",
        ) as front:
            for stage in (ingest, postprocess, front):
                await wait_ready(http, stage.url)
            yield front


def body(prompt=PROMPT, *, stream=False, max_tokens=32, **parameters):
    return {
        "input": prompt,
        "stream": stream,
        "parameters": {"max_tokens": max_tokens, "temperature": 0, **parameters},
    }


async def test_the_chain_gives_the_models_own_tokens_whole_and_streamed(
    http, tmp_path, warm_replica, made_model
):
    status, plain, _ = await warm_replica.complete(http, PROMPT, max_tokens=32)
    assert status == 200
    text = plain["choices"][0]["text"]
    async with chain(http, tmp_path, warm_replica, made_model) as front:
        async with http.post(f"{front.url}/invoke", json=body()) as response:
            whole = await response.json()
            assert response.status == 200, whole
        async with http.post(f"{front.url}/invoke", json=body(stream=True)) as response:
            events = await read_events(response)
    name, streamed = events[-1]
    assert name == "reply", streamed
    assert whole["output"] == text.strip()
    assert streamed["output"] == whole["output"]
    assert "".join(data["text"] for kind, data in events if kind == "delta") == whole["output"]
    for reply in (whole, streamed):
        assert reply["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
        assert reply["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]
        assert reply["finish_reason"] == plain["choices"][0]["finish_reason"]
        assert [timing["stage"] for timing in reply["timings"]] == [
            "ingest",
            "generate",
            "postprocess",
            "front",
        ]
        assert reply["timings"][1]["ttft"] > 0
    counted = whole["data"]["ingest"]["prompt_tokens"]
    assert abs(counted - plain["usage"]["prompt_tokens"]) <= 1, (
        "the start token at most is not counted by ingest"
    )


async def test_a_conversation_is_answered_and_bounded_above_by_what_ingest_counts(
    http, tmp_path, warm_replica, made_model
):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    async with (
        chain(http, tmp_path, warm_replica, made_model) as front,
        http.post(f"{front.url}/invoke", json={**body(), "input": messages}) as response,
    ):
        reply = await response.json()
    assert response.status == 200, reply
    assert reply["data"]["ingest"]["prompt_tokens"] >= reply["usage"]["prompt_tokens"]


async def test_thirty_two_streams_at_once_lose_nothing(http, tmp_path, warm_replica, made_model):
    async with chain(http, tmp_path, warm_replica, made_model) as front:

        async def one(number, *, stream):
            async with http.post(
                f"{front.url}/invoke", json=body(f"{PROMPT} {number}", stream=stream, max_tokens=24)
            ) as response:
                assert response.status == 200
                reply = (await read_events(response))[-1][1] if stream else await response.json()
                return reply["output"]

        streamed = await asyncio.gather(*(one(number, stream=True) for number in range(32)))
        assert len(streamed) == 32
        assert all(isinstance(text, str) for text in streamed)


async def test_a_client_that_leaves_the_chain_frees_the_model(http, tmp_path, warm_replica, made_model):
    async with chain(http, tmp_path, warm_replica, made_model) as front:
        response = await http.post(
            f"{front.url}/invoke", json=body(stream=True, max_tokens=900, ignore_eos=True)
        )
        await response.content.readany()
        assert await warm_replica.metric(http, "vllm:num_requests_running") == 1
        response.close()

        async def free():
            return await warm_replica.metric(http, "vllm:num_requests_running") == 0

        await wait_until(free)


async def test_what_cannot_fit_never_reaches_the_model(http, tmp_path, warm_replica, made_model):
    before = await warm_replica.metric(http, "pilotlight_requests_total")
    async with (
        chain(http, tmp_path, warm_replica, made_model) as front,
        http.post(f"{front.url}/invoke", json=body(max_tokens=100_000)) as response,
    ):
        problem = await response.json(content_type=None)
    assert response.status == 413
    assert problem["stage"] == "ingest"
    assert problem["over"] > 0
    assert await warm_replica.metric(http, "pilotlight_requests_total") == before


async def test_engines_that_are_killed_under_load_cost_no_whole_request_and_leave_no_stream_hanging(
    tmp_path, warm_replica, made_model
):
    """Whole requests are retried by orchestrate; a stream that has begun ends with a retryable error event."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as http:
        replica = warm_replica
        await replica.order(http, "hot")
        # The stage is one replica: neither its circuit nor its retry budget must refuse what a retry can answer.
        patient = {"attempts": 30, "retries": 30, "retryReserve": 1000, "breakerFailures": 10_000}
        async with chain(http, tmp_path, replica, made_model, **patient) as front:

            async def one(number, *, stream):
                asked = body(f"{PROMPT} {number}", stream=stream, max_tokens=64, ignore_eos=True)
                async with http.post(f"{front.url}/invoke", json=asked) as response:
                    if stream and response.status == 200:
                        return (await read_events(response))[-1]
                    return str(response.status), await response.json(content_type=None)

            async def load(number):
                await asyncio.sleep(number * 0.05)
                return await one(number, stream=number % 3 == 0)

            tasks = [asyncio.create_task(load(number)) for number in range(100)]
            for _ in range(2):
                await asyncio.sleep(1.5)
                await replica.wait_for(http, "hot")
                kill(replica.core)
            answers = await asyncio.gather(*tasks)
    whole = [answer for number, answer in enumerate(answers) if number % 3]
    streams = [answer for number, answer in enumerate(answers) if number % 3 == 0]
    assert {status for status, _ in whole} == {"200"}
    assert all(reply["usage"]["completion_tokens"] == 64 for _, reply in whole)
    assert any(reply["timings"][1]["attempts"] > 1 for _, reply in whole), "no request met a dead engine"
    for name, data in streams:
        assert name == "reply" or (name in {"error", "503"} and data["retryable"] is True), (name, data)
