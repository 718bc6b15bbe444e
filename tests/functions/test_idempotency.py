"""A request with an Idempotency-Key is worked on once: its answer is given again, also by another replica."""

import asyncio
import stat

import pytest

from functions.http.app import create_app
from functions.idempotency import AnswerStore, parse_key
from functions.problems import ProblemError
from functions.settings import FunctionSettings, StageAddress
from functions.stages.orchestrate import build
from tests.functions.servers import echo, scripted, serving


def front(tmp_path, url, **config):
    settings = FunctionSettings(
        service="front",
        stages=(StageAddress("first", "ingest", url),),
        stage_config=config,
        cache_dir=tmp_path,
    )
    return serving(create_app(build(settings), settings))


async def post(http, url, key, text="hello", **more):
    headers = {} if key is None else {"Idempotency-Key": key}
    async with http.post(f"{url}/invoke", json={"input": text, **more}, headers=headers) as response:
        body = await response.text() if more.get("stream") else await response.json()
        return response.status, body, "replayed" in response.headers.get("Server-Timing", "")


async def test_the_first_answer_is_given_again_also_by_another_replica(http, tmp_path):
    async with scripted(echo("first"), name="first", kind="ingest") as (stage, stage_url):
        async with front(tmp_path, stage_url) as url:
            first = await post(http, url, '"k-1"')
            again = await post(http, url, "k-1")
        async with front(tmp_path, stage_url) as url:
            elsewhere = await post(http, url, '"k-1"')
            other = await post(http, url, '"k-2"')
        assert len(stage.seen) == 2, "k-1 and k-2"
    assert [answer[0] for answer in (first, again, elsewhere, other)] == [200] * 4
    assert first[1]["id"] == again[1]["id"] == elsewhere[1]["id"] != other[1]["id"]
    assert first[1]["output"] == again[1]["output"] == elsewhere[1]["output"]
    assert [answer[2] for answer in (first, again, elsewhere, other)] == [False, True, True, False]


async def test_two_at_the_same_time_are_computed_once(http, tmp_path):
    async with (
        scripted(slow, name="first", kind="ingest") as (stage, stage_url),
        front(tmp_path, stage_url) as url,
    ):
        answers = await asyncio.gather(*(post(http, url, "same") for _ in range(5)))
        assert len(stage.seen) == 1
    assert {answer[1]["id"] for answer in answers} == {answers[0][1]["id"]}
    assert sorted(answer[2] for answer in answers) == [False, True, True, True, True]


async def slow(request, context):
    await asyncio.sleep(0.3)
    return echo("first")(request, context)


async def test_a_failure_is_not_kept(http, tmp_path):
    calls = []

    def once_bad(request, context):
        calls.append(request)
        if len(calls) == 1:
            raise ProblemError(422, "not this time")
        return echo("first")(request, context)

    async with (
        scripted(once_bad, name="first", kind="ingest") as (_, stage_url),
        front(tmp_path, stage_url) as url,
    ):
        assert (await post(http, url, "k"))[0] == 422
        assert (await post(http, url, "k"))[0] == 200


async def test_a_key_of_another_request_is_refused_and_streams_are_computed_each_time(http, tmp_path):
    async with (
        scripted(echo("first"), name="first", kind="ingest") as (stage, stage_url),
        front(tmp_path, stage_url) as url,
    ):
        await post(http, url, "k")
        status, problem, _ = await post(http, url, "k", text="another")
        assert (status, "another request" in problem["detail"]) == (422, True)
        for _ in range(2):
            assert (await post(http, url, "k", stream=True))[0] == 200
        assert len(stage.seen) == 3


async def test_it_can_be_switched_off(http, tmp_path):
    async with (
        scripted(echo("first"), name="first", kind="ingest") as (stage, stage_url),
        front(tmp_path, stage_url, idempotency_seconds=0) as url,
    ):
        await post(http, url, "k")
        await post(http, url, "k")
        assert len(stage.seen) == 2
    assert not (tmp_path / "answers").exists()


async def answered(store, key, body="x"):
    async def work():
        return body

    return await store.answer(key, "f", work)


async def test_answers_end_with_their_time(tmp_path):
    now = [1000.0]
    store = AnswerStore(tmp_path / "a", keep_s=60, max_bytes=1000, clock=lambda: now[0])
    await answered(store, "k", "one")
    now[0] += 59
    assert await answered(store, "k", "two") == ("one", True)
    now[0] += 2
    assert await answered(store, "k", "two") == ("two", False)


async def test_memory_and_folder_are_bounded_and_private(tmp_path):
    store = AnswerStore(tmp_path / "a", keep_s=60, max_bytes=5_000)
    for number in range(130):
        await answered(store, f"k-{number}", "x" * 100)
    assert sum(len(answer.body) for answer in store._kept.values()) <= 5_000
    files = list((tmp_path / "a").iterdir())
    assert sum(file.stat().st_size for file in files) <= 5_000 + 64 * 400
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


async def test_a_folder_that_cannot_be_written_leaves_the_memory(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    store = AnswerStore(tmp_path / "file" / "a", keep_s=60, max_bytes=5_000)
    await answered(store, "k", "one")
    await answered(store, "l", "one")
    assert await answered(store, "k", "two") == ("one", True)
    assert caplog.text.count("kept in memory only") == 1


async def test_who_waits_for_one_that_is_cancelled_works_itself(tmp_path):
    store = AnswerStore(tmp_path / "a", keep_s=60, max_bytes=5_000)
    began = asyncio.Event()

    async def never():
        began.set()
        await asyncio.Event().wait()
        return ""

    first = asyncio.create_task(store.answer("k", "f", never))
    await began.wait()
    second = asyncio.create_task(answered(store, "k", "second"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == ("second", False)


@pytest.mark.parametrize(
    ("value", "key"), [(None, None), ("a", "a"), ('"a b"', "a b"), (' "a" ', "a"), ('"', '"')]
)
def test_a_key_may_be_quoted(value, key):
    assert parse_key(value) == key


@pytest.mark.parametrize("value", ["", '""', "x" * 257])
def test_a_key_has_a_length(value):
    with pytest.raises(ProblemError):
        parse_key(value)
