"""Durable runs over HTTP: accepted, looked at, waited for, cancelled, resumed, approved, each by its caller."""

import asyncio
import json

import pytest

from functions.settings import FunctionSettings, SettingsError, StageAddress
from functions.stages.orchestrate import build
from tests.functions.run_servers import (
    FIVE,
    counting_tool,
    get,
    orchestrate_here,
    post,
    runs_config,
    submit,
    until,
)
from tests.functions.servers import wait_until

ALL = "hello one two three four five"


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    with counting_tool(tmp_path_factory.mktemp("tool")) as tool:
        yield tool


@pytest.fixture
def tool(tools):
    yield tools
    for path in tools.folder.iterdir():
        path.unlink()


async def test_a_run_is_accepted_seen_and_its_events_are_given_again_from_any_point(http, tmp_path, tool):
    async with orchestrate_here(tool, runs_config(tmp_path / "r.sqlite")) as url:
        tool.hold("three")
        status, run, headers = await submit(http, url, Idempotency_Key="k1")
        assert status == 202
        assert run["state"] == "running"
        assert headers["Location"] == f"runs/{run['id']}"
        assert headers["preference-applied"] == "respond-async"
        again = await submit(http, url, Idempotency_Key="k1")
        assert (again[0], again[1]["id"]) == (202, run["id"])
        assert "replayed" in again[2]["Server-Timing"]
        other = await submit(http, url, "another request", Idempotency_Key="k1")
        assert other[0] == 422
        assert "another request" in other[1]["detail"]

        watched = asyncio.create_task(events_of(http, url, run["id"]))
        await wait_until(lambda: tool.calls()["three"] == 1)
        tool.let_go("three")
        events = await watched
        ended = await until(http, url, run["id"])

        assert ended["state"] == "succeeded"
        assert ended["reply"]["output"] == ALL
        assert [step["name"] for step in ended["steps"]] == list(FIVE)
        assert all(step["attempts"] == 1 and step["seconds"] > 0 for step in ended["steps"])
        assert ended["usage"] == {"prompt_tokens": 10, "completion_tokens": 5}
        assert "request" not in ended
        content = (await get(http, url, f"runs/{run['id']}?content=true"))[1]
        assert content["request"]["input"] == "hello"
        assert content["steps"][1]["result"]["output"] == "hello one two"

        assert [(name, data.get("name")) for _, name, data in events[1:6]] == [
            ("step", step) for step in FIVE
        ]
        assert events[-1][1] == "reply"
        assert events[-1][2]["output"] == ALL
        middle = await events_of(http, url, run["id"], after=events[3][0])
        assert middle == events[4:]
        async with http.get(
            f"{url}/runs/{run['id']}/events", headers={"Last-Event-ID": str(events[-1][0])}
        ) as response:
            assert response.status == 204
        async with http.get(f"{url}/runs/{run['id']}/events", headers={"Last-Event-ID": "x"}) as response:
            assert response.status == 400
        keys = [line[1] for line in tool.lines("calls")]
        assert len(set(keys)) == 5
        assert all(len(key) == 64 for key in keys)

        first = await submit(http, url, wait=30)
        assert first[0] == 200
        assert first[1]["output"] == ALL
        assert (await get(http, url, f"runs/{first[2]['x-pilotlight-run']}"))[1]["state"] == "succeeded"
        plain = await post(http, url, "invoke", {"input": "hello"})
        assert plain[1]["output"] == ALL
        listed = (await get(http, url, "runs?limit=1"))[1]
        assert [one["id"] for one in listed["runs"]] == [first[2]["x-pilotlight-run"]]
        rest = (await get(http, url, f"runs?limit=1&before={listed['next']}"))[1]
        assert [one["id"] for one in rest["runs"]] == [run["id"]]
        assert (await get(http, url, "runs?state=failed"))[1] == {"runs": [], "next": None}
        assert (await get(http, url, "runs?limit=201"))[0] == 422
        streamed = await http.post(
            f"{url}/invoke", json={"input": "x", "stream": True}, headers={"Prefer": "respond-async"}
        )
        assert streamed.status == 422
        assert "events" in (await streamed.json())["detail"]


async def test_cancel_ends_what_is_under_way_and_resume_goes_on_from_the_last_finished_step(
    http, tmp_path, tool
):
    async with orchestrate_here(tool, runs_config(tmp_path / "r.sqlite")) as url:
        tool.hold("three")
        _, run, _ = await submit(http, url)
        await wait_until(lambda: tool.calls()["three"] == 1)
        status, cancelled = await post(http, url, f"runs/{run['id']}/cancel")
        assert (status, cancelled["state"]) == (200, "cancelled")
        assert (await post(http, url, f"runs/{run['id']}/cancel"))[1]["state"] == "cancelled"
        tool.let_go("three")
        status, _ = await post(http, url, f"runs/{run['id']}/resume")
        assert status == 202
        ended = await until(http, url, run["id"], {"succeeded"})
        assert ended["reply"]["output"] == ALL
        assert tool.calls()["two"] == 1
        assert set(tool.effects().values()) == {1}
        assert (await post(http, url, f"runs/{run['id']}/resume"))[0] == 409
        assert (await get(http, url, "runs/run_none"))[0] == 404

        tool.fail("four", status=400, detail="the amount is negative")
        status, problem, headers = await submit(http, url, "again", wait=30)
        assert status == 400
        assert problem["detail"] == "the amount is negative"
        failed = (await get(http, url, f"runs/{headers['x-pilotlight-run']}"))[1]
        assert failed["state"] == "failed"
        assert failed["error"]["stage"] == "four"
        tool.mend("four")
        await post(http, url, f"runs/{failed['id']}/resume")
        ended = await until(http, url, failed["id"], {"succeeded"})
        assert ended["reply"]["output"] == "again one two three four five"
        assert set(tool.effects().values()) == {1}


async def test_a_step_waits_for_a_person_and_a_failing_one_for_a_timer_and_nobody_holds_them(
    http, tmp_path, tool
):
    config = runs_config(tmp_path / "r.sqlite", approve=["two"], retrySeconds=0.2, stepAttempts=3)
    async with orchestrate_here(tool, {**config, "attempts": 1}) as url:
        ids = [(await submit(http, url, f"text {number}"))[1]["id"] for number in range(60)]
        for run_id in ids:
            waiting = await until(http, url, run_id, {"waiting"})
            assert waiting["waiting_for"]["kind"] == "approval"
            assert waiting["waiting_for"]["step"] == "two"
        assert tool.calls() == {"one": 60}
        metrics = await (await http.get(f"{url}/healthz/ready")).json()
        assert metrics["in_flight"] == 0
        stream = await events_of(http, url, ids[0])
        assert stream[-1][2]["state"] == "waiting"
        assert (await post(http, url, f"runs/{ids[0]}/approve", {"step": "three"}))[0] == 409
        assert (await post(http, url, f"runs/{ids[0]}/approve", {"approved": "yes"}))[0] == 422
        assert (await post(http, url, f"runs/{ids[0]}/approve"))[0] == 202
        assert (await until(http, url, ids[0]))["reply"]["output"] == "text 0 one two three four five"
        refused = {"approved": False, "comment": "too dear"}
        assert (await post(http, url, f"runs/{ids[1]}/approve", refused))[0] == 202
        failed = await until(http, url, ids[1])
        assert (failed["state"], failed["error"]["status"]) == ("failed", 403)
        assert "too dear" in failed["error"]["detail"]
        await post(http, url, f"runs/{ids[1]}/resume")
        assert (await until(http, url, ids[1], {"waiting"}))["waiting_for"]["step"] == "two"
        assert (await post(http, url, f"runs/{ids[2]}/cancel"))[1]["state"] == "cancelled"

        tool.fail("three", status=503, detail="busy", retryable=True)
        await post(http, url, f"runs/{ids[3]}/approve")
        waiting = await until(http, url, ids[3], {"waiting"})
        if waiting["waiting_for"]["kind"] == "approval":  # not taken up yet
            await wait_until(lambda: tool.calls()["three"] > 1)
        tool.mend("three")
        ended = await until(http, url, ids[3], {"succeeded", "failed"})
        assert ended["state"] == "succeeded", ended
        assert next(step for step in ended["steps"] if step["name"] == "three")["attempts"] > 1
        assert set(tool.effects().values()) == {1}

        tool.fail("five", status=503, detail="busy", retryable=True)
        await post(http, url, f"runs/{ids[4]}/approve")
        gone = await until(http, url, ids[4], {"failed"})
        assert gone["error"]["detail"] == "busy"
        assert tool.calls()["five"] == 2 + 3, "stepAttempts"


async def test_a_call_that_an_open_circuit_refuses_is_no_attempt(http, tmp_path, tool):
    config = runs_config(tmp_path / "r.sqlite", retrySeconds=0.2, stepAttempts=2)
    tool.fail("three", status=503, detail="busy", retryable=True)
    async with orchestrate_here(
        tool, {**config, "attempts": 1, "breakerFailures": 1, "breakerSeconds": 2}
    ) as url:
        _, run, _ = await submit(http, url, "text")
        await wait_until(lambda: tool.calls()["three"] == 1)
        tool.mend("three")
        # The next ones come while the circuit is still open.
        ended = await until(http, url, run["id"], {"succeeded", "failed"})
    assert ended["state"] == "succeeded", ended
    assert next(step for step in ended["steps"] if step["name"] == "three")["attempts"] == 2
    assert tool.calls()["three"] == 2


async def test_content_that_is_not_stored_is_nowhere_in_the_database(http, tmp_path, tool):
    database = tmp_path / "r.sqlite"
    config = runs_config(database, content="metadata")
    async with orchestrate_here(tool, config) as url:
        status, reply, headers = await submit(http, url, "a secret text", wait=30)
        assert (status, reply["output"]) == (200, "a secret text one two three four five")
        run = (await get(http, url, f"runs/{headers['x-pilotlight-run']}?content=true"))[1]
        assert run["state"] == "succeeded"
        assert all("result" not in step for step in run["steps"])
        written = b"".join(path.read_bytes() for path in tmp_path.glob("r.sqlite*"))
        assert b"secret" not in written
        assert run["id"].encode() in written
    with pytest.raises(SettingsError, match="approve cannot be used with content metadata"):
        front(tmp_path, {"runs": {"store": "sqlite", "path": "x", "content": "metadata", "approve": ["one"]}})


def front(tmp_path, config):
    return build(
        FunctionSettings(
            stages=(StageAddress("one", "ingest", "http://127.0.0.1:1"),),
            stage_config=config,
            cache_dir=tmp_path,
        )
    )


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ({"store": "oracle"}, "runs.store = 'oracle': must be 'sqlite' or 'postgres'"),
        ({"store": "sqlite"}, "runs.path is not set"),
        ({"store": "postgres"}, "PILOTLIGHT_RUNS_URL is not set"),
        ({"store": "postgres", "path": "x"}, "path is for store sqlite"),
        ({"store": "sqlite", "path": "x", "leaseSeconds": 0}, "runs.leaseSeconds = 0"),
    ],
)
def test_bad_settings_are_refused_when_the_stage_is_made(tmp_path, runs, expected):
    with pytest.raises(SettingsError) as raised:
        front(tmp_path, {"runs": runs})
    assert expected in str(raised.value)


async def events_of(http, url, run_id, after=None):
    """The events as (id, name, data)."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    async with http.get(f"{url}/runs/{run_id}/events", headers=headers) as response:
        assert response.status == 200
        text = (await response.read()).decode()
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found
