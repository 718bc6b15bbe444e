"""Stages in orchestrate's own process answer what the same stages behind HTTP answer."""

import asyncio
import contextlib
import json

import pytest
from tokenizers import Tokenizer

from functions.contract import Delta, Final, StageReply, Usage
from functions.http.app import create_app
from functions.settings import Colocated, FunctionSettings, SettingsError, StageAddress
from functions.stages.ingest import build as build_ingest
from functions.stages.orchestrate import build
from functions.stages.postprocess import build as build_postprocess
from tests.functions.run_servers import get, runs_config, submit
from tests.functions.servers import read_events, scripted, serving, wait_ready, wait_until
from tests.functions.test_keys import bearer, make_key

INGEST = {"maxCharacters": 60}
POSTPROCESS = {"stop": ["###"], "jsonOutput": "flag"}
ANSWER = [
    "Ask jo.d",
    "oe@exam",
    "ple.org",
    " or pay with 4111 1111 ",
    "1111 1111.",
    " Bye.",
    " ### never said",
]

REDACTED = "Ask [redacted email] or pay with [redacted card]. Bye."


def model(gap=0.001, answer=ANSWER):
    async def behave(request, _context):
        if "fail" in request.text:
            raise RuntimeError("a bug")
        for piece in answer:
            yield Delta(piece)
            await asyncio.sleep(gap)
        usage = Usage(prompt_tokens=3, completion_tokens=len(answer))
        yield Final(StageReply(id=request.id, stage="model", output="".join(answer), usage=usage))

    return behave


def front(stages, **settings):
    config = {"wait_initial": 0.02, "attempts": 2, **settings.pop("stage_config", {})}
    told = FunctionSettings(service="front", stages=tuple(stages), stage_config=config, **settings)
    return serving(create_app(build(told), told))


@contextlib.asynccontextmanager
async def chains(behave, *, ingest=INGEST, postprocess=POSTPROCESS, **settings):
    """The same chain twice: with Services of their own, and in one process."""
    of_its_own = FunctionSettings(stage_config=ingest)
    behind = FunctionSettings(stage_config=postprocess)
    async with (
        scripted(behave) as (stage, model_url),
        serving(create_app(build_ingest(of_its_own), of_its_own)) as ingest_url,
        serving(create_app(build_postprocess(behind), behind)) as postprocess_url,
        front(
            [
                StageAddress("ingest", "ingest", ingest_url),
                StageAddress("model", "generate", model_url),
                StageAddress("post", "postprocess", postprocess_url),
            ],
            **settings,
        ) as separate,
        front(
            [
                StageAddress("ingest", "ingest", "", Colocated(ingest)),
                StageAddress("model", "generate", model_url),
                StageAddress("post", "postprocess", "", Colocated(postprocess)),
            ],
            **settings,
        ) as colocated,
    ):
        yield stage, separate, colocated


def without_times(reply):
    """What does not differ from one time to the next."""
    return {**reply, "timings": [timing["stage"] for timing in reply.pop("timings", [])]}


async def asked(http, url, body):
    async with http.post(f"{url}/invoke", json={"id": "r1", **body}) as response:
        if response.content_type != "text/event-stream":
            return response.status, without_times(await response.json(content_type=None))
        events = await read_events(response)
    # Where a stream is cut is up to the moment; what it says is not.
    text = "".join(data["text"] for name, data in events if name == "delta")
    return text, events[-1][0], without_times(events[-1][1])


async def test_replies_events_and_refusals_are_the_same(http):
    conversation = [{"role": "user", "content": "  hello  "}]
    async with chains(model()) as (_, separate, colocated):
        for body in (
            {"input": "  hello  "},
            {"input": conversation, "metadata": {"tenant": "x"}, "parameters": {"stop": ["Bye"]}},
            {"input": "", "parameters": {}},
            {"input": " ", "parameters": {}},
            {"input": "x" * 61},
            {"input": "fail"},
            {"input": [{"role": "user", "content": ""}]},
        ):
            for stream in (False, True):
                request = {**body, "stream": stream}
                expected = await asked(http, separate, request)
                told = await asked(http, colocated, request)
                assert told == expected
        async with http.get(f"{colocated}/metrics") as page:
            text = await page.text()
        assert 'pilotlight_stage_calls_total{outcome="ok",target="post"}' in text
        assert 'pilotlight_stage_calls_total{outcome="refused",target="ingest"}' in text


async def test_a_secret_across_deltas_is_redacted_and_json_is_checked(http):
    answer = ['{"mail": "jo', ".doe@exam", "ple.o", 'rg", "n": ', "4}"]
    async with chains(model(0.03, answer), postprocess={"jsonOutput": "flag"}) as (_, separate, colocated):
        expected = await asked(http, separate, {"input": "x", "stream": True})
        assert await asked(http, colocated, {"input": "x", "stream": True}) == expected
        assert expected[0] == '{"mail": "[redacted email]", "n": 4}'
        assert expected[2]["data"]["post"]["json"] == {"mail": "[redacted email]", "n": 4}


async def test_a_client_that_leaves_ends_the_model_and_a_deadline_is_kept(http):
    async def endless(request, _context):
        for number in range(10**9):
            yield Delta(f"{number} ")
            await asyncio.sleep(0.005)

    async with chains(endless) as (stage, _, colocated):
        async with http.post(f"{colocated}/invoke", json={"input": "x", "stream": True}) as response:
            await response.content.readuntil(b"\n\n")
        await wait_until(lambda: stage.seen[0].cancelled)
        late = {"X-Pilotlight-Deadline": "3"}
        async with http.post(
            f"{colocated}/invoke", json={"input": "x", "stream": True}, headers=late
        ) as response:
            name, problem = (await read_events(response))[-1]
        assert (name, problem["status"]) == ("error", 504)
        await wait_until(lambda: stage.seen[1].cancelled)


async def test_the_tokenizer_of_a_colocated_ingest_is_loaded_with_the_replica(http, made_model):
    told = [
        StageAddress("ingest", "ingest", "", Colocated({"maxModelLen": 64}, str(made_model.path))),
        StageAddress("post", "postprocess", "", Colocated()),
    ]
    async with front(told) as url:
        await wait_ready(http, url)
        status, reply = await asked(http, url, {"input": "Where is\nmy order?"})
        assert (status, reply["output"]) == (200, "Where is\nmy order?")
        tokens = len(Tokenizer.from_file(str(made_model.path / "tokenizer.json")).encode(reply["output"]).ids)
        assert reply["usage"]["prompt_tokens"] == tokens
        async with http.get(f"{url}/healthz/ready") as response:
            assert "weights" in (await response.json())["phases"]
        status, problem = await asked(http, url, {"input": "a b c d e f g h " * 20})
        assert (status, problem["stage"], problem["unit"]) == (413, "ingest", "tokens")


async def test_runs_record_colocated_stages_and_keys_guard_the_one_door(http, tmp_path):
    keys = tmp_path / "keys"
    keys.mkdir()
    key = make_key(keys, "ci")
    guarded = {"auth": "keys", "keys_dir": keys, "agent": "support"}
    config = {"runs": runs_config(tmp_path / "runs.sqlite")["runs"]}
    told = [StageAddress(kind, kind, "", Colocated()) for kind in ("ingest", "postprocess")]
    async with scripted(model()) as (_, model_url):
        told.insert(1, StageAddress("model", "generate", model_url))
        async with front(told, stage_config=config, **guarded) as url:
            async with http.post(f"{url}/invoke", json={"input": "x"}) as response:
                assert response.status == 401
            status, run, _ = await submit(http, url, "hello", **bearer(key))
            assert status == 202, run

            async def ended():
                return (await get(http, url, f"runs/{run['id']}", **bearer(key)))[1]["state"] == "succeeded"

            await wait_until(ended)
            run = (await get(http, url, f"runs/{run['id']}", **bearer(key)))[1]
    assert run["reply"]["output"] == f"{REDACTED} ### never said"
    assert [step["name"] for step in run["steps"]] == ["ingest", "model", "postprocess"]


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"kind": "generate", "colocated": {}}, "[0].kind = 'generate', must be ingest or postprocess"),
        ({"kind": "ingest", "colocated": {"x": 1}}, "[0].colocated must be an object of config and modelUri"),
        (
            {"kind": "ingest", "colocated": {}, "url": "http://a"},
            "[0] must be an object of name, kind and url, or of",
        ),
        ({"kind": "ingest", "colocated": {"modelUri": "ftp://x"}}, "[0].colocated.modelUri = 'ftp://x'"),
    ],
)
def test_a_bad_variable_is_named(stage, said):
    stages = json.dumps([{"name": "one", **stage}])
    with pytest.raises(SettingsError, match="PILOTLIGHT_STAGES") as refused:
        FunctionSettings.parse({"PILOTLIGHT_STAGES": stages})
    assert said in str(refused.value)


def test_a_bad_config_names_its_stage():
    bad = StageAddress("post", "postprocess", "", Colocated({"stop": 3}))
    with pytest.raises(SettingsError, match=r"stage post: PILOTLIGHT_STAGE_CONFIG.stop"):
        build(FunctionSettings(stages=(bad,)))
