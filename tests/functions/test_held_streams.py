"""A replica that is called before it is hot (`readiness: port`) holds its requests, and its streams speak."""

import asyncio
import dataclasses
import json

import pytest

from functions.contract import Delta, Final, StageReply
from functions.http.app import create_app
from functions.settings import FunctionSettings, StageAddress
from functions.stages import orchestrate
from tests.functions.servers import ScriptedStage, echo, scripted, serving, wait_until

QUICK = FunctionSettings(progress_seconds=0.05)
STREAM = {"input": "x", "stream": True}


async def streaming(request, _context):
    yield Delta("hi")
    yield Final(StageReply(id=request.id, stage="model", output="hi"))


def loading(behave, settings=QUICK) -> tuple[ScriptedStage, object]:
    stage = ScriptedStage("model", "generate", behave)
    stage.starts.clear()
    return stage, create_app(stage, settings)


async def comment_of(response) -> str:
    return (await response.content.readuntil(b"\n\n")).decode().strip()


async def test_a_stream_speaks_until_the_replica_is_hot(http):
    stage, app = loading(streaming)
    async with serving(app) as url, http.post(f"{url}/invoke", json=STREAM) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert (await comment_of(response)).startswith(": warming phase=import elapsed=")
        assert stage.seen == []
        stage.starts.set()
        text = (await response.read()).decode()
    assert ": server-timing warmth;desc=cold" in text
    assert [line for line in text.splitlines() if line.startswith("event")] == [
        "event: delta",
        "event: reply",
    ]
    assert "held;dur=" in text


async def test_whole_answers_are_held_too_and_off_gives_the_own_head(http):
    stage, app = loading(streaming)
    async with serving(app) as url:
        bodies = [({"input": "x"}, {}), (STREAM, {"X-Pilotlight-Progress": "Off"})]
        asking = [
            asyncio.create_task(http.post(f"{url}/invoke", json=body, headers=headers).__aenter__())
            for body, headers in bodies
        ]
        await wait_until(lambda: app.in_flight == 2)
        await asyncio.sleep(0.4)
        assert not any(task.done() for task in asking)
        stage.starts.set()
        for response in await asyncio.gather(*asking):
            assert (response.status, "held" in response.headers["Server-Timing"]) == (200, True)
            response.release()


async def test_a_start_that_fails_is_an_event_of_the_stream_and_a_status_of_the_others(http):
    stage, app = loading(streaming)
    async with serving(app) as url:
        whole = asyncio.create_task(http.post(f"{url}/invoke", json={"input": "x"}).__aenter__())
        async with http.post(f"{url}/invoke", json=STREAM) as response:
            await comment_of(response)
            app.replica.fail("no such model")
            last = (await response.read()).decode().strip().split("\n\n")[-1]
        assert last.startswith("event: error")
        assert "no such model" in last
        assert (await whole).status == 503
        (await whole).release()
        async with http.get(f"{url}/metrics") as response:
            page = await response.text()
        assert 'code="503"' in page
        assert 'pilotlight_requests_total{code="200"' not in page, "an error in a stream counts as one"
    assert stage.seen == []


async def test_waiting_ends_at_the_deadline_and_within_the_queue_limit(http):
    _, app = loading(streaming, dataclasses.replace(QUICK, queue_limit=1, progress_seconds=0))
    async with serving(app) as url:
        late = asyncio.create_task(
            http.post(f"{url}/invoke", json=STREAM, headers={"X-Pilotlight-Deadline": "1"}).__aenter__()
        )
        await wait_until(lambda: app.in_flight == 1)
        async with http.post(f"{url}/invoke", json=STREAM) as response:
            assert response.status == 429
        assert (await late).status == 504
        (await late).release()


async def test_a_client_that_gives_up_frees_its_place(http):
    _, app = loading(streaming)
    async with serving(app) as url:
        async with http.post(f"{url}/invoke", json=STREAM) as response:
            await comment_of(response)
            response.close()
        await wait_until(lambda: app.in_flight == 0)


async def test_a_readiness_probe_says_what_a_start_is_doing(http):
    stage, app = loading(streaming)
    async with serving(app) as url:
        async with http.get(f"{url}/healthz/ready") as response:
            assert (response.status, response.headers["X-Pilotlight-Phase"]) == (503, "import")
            assert (await response.json())["phase"] == "import"
        stage.starts.set()
        await app.replica.wait_for(app.replica.state.HOT)
        async with http.get(f"{url}/healthz/ready") as response:
            assert (response.status, response.headers.get("X-Pilotlight-Phase")) == (200, None)


@pytest.mark.parametrize("fails", [False, True])
async def test_an_orchestrate_stage_says_which_stage_it_waits_for(http, fails):
    let_go = asyncio.Event()

    async def slow(request, _context):
        await let_go.wait()
        if fails:
            raise TimeoutError
        return StageReply(id=request.id, stage="clean", output="done")

    async with scripted(slow, name="clean", kind="postprocess") as (_, clean):
        settings = FunctionSettings(
            stages=(StageAddress("clean", "postprocess", clean),),
            progress_seconds=0.05,
            stage_config={"attempts": 1},
        )
        app = create_app(orchestrate.build(settings), settings)
        async with serving(app) as url, http.post(f"{url}/invoke", json=STREAM) as response:
            assert (await comment_of(response)).startswith(": waiting stage=clean elapsed=")
            let_go.set()
            text = (await response.read()).decode()
    last = text.strip().split("\n\n")[-1]
    name, data = last.split("\n")
    assert name == ("event: error" if fails else "event: reply")
    value = json.loads(data.removeprefix("data: "))
    assert (value["status"] == 504) if fails else (value["output"] == "done")


async def test_a_hot_replica_answers_with_its_own_head(http):
    async with (
        scripted(echo("s"), settings=QUICK) as (_, url),
        http.post(f"{url}/invoke", json=STREAM) as response,
    ):
        assert "Server-Timing" in response.headers
        assert b": warming" not in await response.read()
