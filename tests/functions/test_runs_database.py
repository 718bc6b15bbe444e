"""The database of durable runs: leases, versions, and what is said and done while it is away, full or slow."""

import asyncio
import json
import sqlite3
import time
from collections import Counter
from dataclasses import replace

import pytest
import sqlalchemy as sa

from functions.contract import StageReply, StageRequest
from functions.orchestration.runs.database import Database
from functions.orchestration.runs.errors import DatabaseError, LeaseLostError
from functions.orchestration.runs.run_ids import new_run_id
from functions.orchestration.runs.schema import runs, version
from functions.orchestration.runs.step_recorder import StepRecorder
from functions.orchestration.runs.store import RunStore
from functions.orchestration.runs.values import Hold, Owner, Run, RunState, Step, StepState
from functions.orchestration.runs.waker import Waker
from tests.functions.run_servers import counting_tool, orchestrate_here, runs_config, submit, until
from tests.functions.servers import free_port, wait_until


async def test_of_two_replicas_one_gets_each_run_and_the_slow_one_changes_nothing_any_more(place):
    first, second = RunStore(Database(place.url)), RunStore(Database(place.url))
    try:
        owner = Owner("key", "ann")
        ids = [new_run_id() for _ in range(40)]
        for run_id in ids:
            run = Run(run_id, owner, RunState.QUEUED, 1.0, 1.0, request="{}")
            await first.create(run, max_unfinished=100, lease_s=30)
        taken = await asyncio.gather(
            *(
                store.claim(ids[part : part + 10], replica=name, lease_s=30)
                for part in range(0, 40, 10)
                for store, name in ((first, "a"), (second, "b"))
            )
        )
        claimed = Counter(run.id for part in taken for run, _ in part)
        assert claimed == dict.fromkeys(ids, 1)

        slow = taken[0][0][0] if taken[0] else taken[1][0][0]
        holder = "a" if taken[0] else "b"

        assert await second.claim([slow.id], replica="c", lease_s=30) == []
        assert [one.id for one in await first.renew(holder, {slow.id: "one"}, lease_s=-1)] == [slow.id]
        assert await second.due(limit=100) == [slow.id]
        ((again, _),) = await second.claim([slow.id], replica="c", lease_s=30)
        assert (again.attempt, again.lost) == (2, 1)
        old, new = Hold(slow.id, holder, 1), Hold(slow.id, "c", again.attempt)
        step = Step("one", StepState.DONE, 1, 1.0, 2.0, result='"new"')
        await first.record_steps(new, [step])
        with pytest.raises(LeaseLostError):
            await first.record_steps(old, [replace(step, result='"old"')])
        with pytest.raises(LeaseLostError):
            await first.end(old, RunState.SUCCEEDED, reply="{}")
        assert await first.renew(holder, {slow.id: None}, lease_s=30) == []
        assert [one.result for one in await first.steps_of(slow.id)] == ['"new"']
        events = await first.events_of(slow.id, after=0)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        await first.end(new, RunState.SUCCEEDED, reply="{}")
        assert await first.purge(older_than=9e12) == 1
        assert await first.get(slow.id) is None
        assert await first.steps_of(slow.id) == []
    finally:
        await first.database.close()
        await second.database.close()


async def test_requests_are_held_and_then_refused_while_the_database_is_away(http, tmp_path):
    path = tmp_path / "runs.sqlite"
    with counting_tool(tmp_path / "tool") as tool:
        async with orchestrate_here(tool, runs_config(path, patienceSeconds=20)) as url:
            first = await submit(http, url, "first", wait=10)
            assert first[0] == 200
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")
            held = asyncio.create_task(submit(http, url, "held", wait=20))
            async with http.post(f"{url}/invoke", json={"input": "plain"}) as plain:
                assert plain.status == 200
            assert not held.done()
            other.execute("ROLLBACK")
            assert (await held)[1]["output"] == "held one two three four five"
        async with orchestrate_here(tool, runs_config(path, patienceSeconds=0)) as url:
            await submit(http, url, "warm", wait=10)
            other.execute("BEGIN EXCLUSIVE")
            calls = tool.calls()["one"]
            status, problem, headers = await submit(http, url, "refused")
            assert (status, problem["title"], problem["retryable"]) == (503, "Run store unavailable", True)
            assert "locked" in problem["detail"]
            assert int(headers["Retry-After"]) > 0
            other.execute("ROLLBACK")
            assert tool.calls()["one"] == calls, "a refused request is not begun"
        other.close()


async def test_what_is_wrong_with_the_database_is_said(http, tmp_path):
    with counting_tool(tmp_path / "tool") as tool:
        (tmp_path / "notes.txt").write_text("these are some notes, and no database at all, " * 100)
        newer = tmp_path / "newer.sqlite"
        store = RunStore(Database(f"sqlite:///{newer}"))
        await store.database.write(
            lambda connection: connection.execute(sa.update(version).values(version=99))
        )
        await store.database.close()
        (tmp_path / "folder").mkdir()
        for path, words in (
            (tmp_path / "notes.txt", "is no SQLite database"),
            (newer, "have version 99, this program knows 2"),
            (tmp_path / "folder", "cannot be opened"),
        ):
            async with orchestrate_here(tool, runs_config(path, patienceSeconds=0)) as url:
                status, problem, _ = await submit(http, url)
                assert status == 503
                assert words in problem["detail"]
                assert str(path) in problem["detail"]
                async with http.post(f"{url}/invoke", json={"input": "plain"}) as plain:
                    assert plain.status == 200
        refused = Database(f"postgresql://nobody:hidden@127.0.0.1:{free_port()}/none")
        with pytest.raises(DatabaseError, match="cannot be reached") as raised:
            await refused.open()
        assert raised.value.cause == "away"
        assert "hidden" not in str(raised.value)
        await refused.close()


async def test_a_full_disk_refuses_what_is_new_and_holds_what_is_under_way(http, tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'runs.sqlite'}")
    store = RunStore(database)

    def pages(number):
        return lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count={number}").scalar()

    try:
        run = Run(new_run_id(), Owner("key", "ann"), RunState.RUNNING, 1.0, 1.0, attempt=1, lease_owner="a")
        await store.create(run, max_unfinished=10, lease_s=30)
        assert await database.write(pages(1)) > 1  # as many as there are
        large = Run(new_run_id(), Owner("key", "ann"), RunState.QUEUED, 1.0, 1.0, request="x" * 100_000)
        with pytest.raises(DatabaseError, match="the disk is full") as raised:
            await store.create(large, max_unfinished=10, lease_s=30)
        assert (raised.value.cause, raised.value.passing) == ("full", True)
        assert await store.get(large.id) is None
        # The connection was replaced, and with it the limit: there is room again.
        await store.record_steps(
            Hold(run.id, "a", 1), [Step("one", StepState.DONE, 1, 1.0, 2.0, result="x" * 100_000)]
        )
        assert (await store.get(run.id)).steps == 1
    finally:
        await database.close()


async def test_a_database_of_an_older_version_is_brought_to_this_one_with_its_runs(http, tmp_path):
    path = tmp_path / "runs.sqlite"
    store = RunStore(Database(f"sqlite:///{path}"))
    request = StageRequest(input="old").model_dump_json(exclude_none=True)
    origin = json.dumps({"request_id": "r", "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"})
    run = Run(new_run_id(), Owner("anyone", ""), RunState.QUEUED, 1.0, 1.0, request=request, origin=origin)
    await store.create(run, max_unfinished=10, lease_s=30)

    def back_to_version_1(connection):
        connection.exec_driver_sql("DROP INDEX pilotlight_runs_unfinished_of")
        connection.execute(sa.update(version).values(version=1))

    await store.database.write(back_to_version_1)
    await store.database.close()
    with counting_tool(tmp_path / "tool") as tool:
        async with (
            orchestrate_here(tool, runs_config(path)) as url,
            orchestrate_here(tool, runs_config(path)),  # both migrate; one comes second
        ):
            assert (await until(http, url, run.id))["reply"]["output"] == "old one two three four five"
    store = RunStore(Database(f"sqlite:///{path}"))
    try:
        plan = "EXPLAIN QUERY PLAN " + store._sql.count_unfinished._sql  # with LIMIT and OFFSET
        used = await store.database.read(
            lambda connection: connection.exec_driver_sql(plan, ("anyone", "", 5, 0)).all()
        )
        assert any("pilotlight_runs_unfinished_of" in row[-1] for row in used), used
        assert await store.database.read(lambda one: one.scalar(sa.select(version.c.version))) == 2
    finally:
        await store.database.close()


async def test_a_step_is_recorded_soon_though_nothing_follows_it_and_with_the_end_if_that_follows(place):
    store = RunStore(Database(place.url))
    try:
        run = Run(new_run_id(), Owner("key", "ann"), RunState.RUNNING, 1.0, 1.0, attempt=1, lease_owner="a")
        await store.create(run, max_unfinished=10, lease_s=30)
        recorded = asyncio.Event()
        recorder = StepRecorder(store, Hold(run.id, "a", 1), recorded.set)
        recorder.keep(Step("one", StepState.DONE, 1, 1.0, 2.0))
        await recorded.wait()
        assert [step.name for step in await store.steps_of(run.id)] == ["one"]
        recorder.keep(Step("two", StepState.DONE, 1, 2.0, 3.0))
        ended = await recorder.settle()
        assert [step.name for step in ended] == ["two"]
        assert (await store.get(run.id)).steps == 1
        await store.end(Hold(run.id, "a", 1), RunState.SUCCEEDED, reply="{}", ended=ended)
        assert [event.kind for event in await store.events_of(run.id, after=0)] == [
            "state",
            "step",
            "step",
            "state",
        ]
        recorder.keep(Step("three", StepState.DONE, 1, 3.0, 4.0))
        for _ in range(2):  # the run's end has taken the lease, and whoever asks hears of it
            with pytest.raises(LeaseLostError):
                await recorder.flush()
    finally:
        await store.database.close()


async def test_two_replicas_at_one_run_while_the_database_is_slower_than_the_lease(http, tmp_path):
    path = tmp_path / "runs.sqlite"
    config = runs_config(path, patienceSeconds=30)  # the lease is one second
    with counting_tool(tmp_path / "tool") as tool:
        async with orchestrate_here(tool, config) as first, orchestrate_here(tool, config) as second:
            tool.hold("three")
            ids = [(await submit(http, url, f"text {url}"))[1]["id"] for url in (first, second)]
            await wait_until(lambda: tool.calls()["three"] == 2)
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")
            (until_when,) = other.execute("SELECT max(lease_until) FROM pilotlight_runs").fetchone()
            tool.let_go("three")
            await wait_until(lambda: time.time() > until_when)
            assert tool.calls()["four"] == 0, "the result of the third step is not recorded"
            other.execute("ROLLBACK")
            other.close()
            for run_id, url in zip(ids, (first, second), strict=True):
                run = await until(http, second, run_id)
                assert run["reply"]["output"] == f"text {url} one two three four five"
    assert set(tool.effects().values()) == {1}


async def test_a_server_that_is_killed_under_a_replica_holds_its_runs_and_its_requests(
    http, tmp_path, postgres, monkeypatch
):
    monkeypatch.setenv("PILOTLIGHT_RUNS_URL", postgres.url)
    with counting_tool(tmp_path / "tool") as tool:
        async with orchestrate_here(tool, runs_config(None, patienceSeconds=60)) as url:
            tool.hold("three")
            _, run, _ = await submit(http, url)
            await wait_until(lambda: tool.calls()["three"] == 1)
            postgres.kill()
            tool.let_go("three")
            held = asyncio.create_task(submit(http, url, "held", wait=60))
            async with http.post(f"{url}/invoke", json={"input": "plain"}) as plain:
                assert plain.status == 200
            assert not held.done()
            await asyncio.to_thread(postgres.start)
            assert (await until(http, url, run["id"]))["reply"]["output"] == "hello one two three four five"
            assert (await held)[1]["output"] == "held one two three four five"
    assert set(tool.effects().values()) == {1}


async def test_a_thousand_runs_that_wait_are_all_resumed_by_one_replica(http, tmp_path):
    path = tmp_path / "runs.sqlite"
    store = RunStore(Database(f"sqlite:///{path}"))
    request = StageRequest(input="old").model_dump_json(exclude_none=True)
    origin = json.dumps({"request_id": "r", "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"})
    result = StageReply(id="1", stage="one", output="old one").model_dump_json(exclude_none=True)
    owner, due = Owner("anyone", ""), time.time() + 1.0

    async def wait_for_the_timer():
        run = Run(new_run_id(), owner, RunState.RUNNING, 1.0, 1.0, 1, lease_owner="a", request=request)
        await store.create(replace(run, origin=origin), max_unfinished=10_000, lease_s=30)
        hold = Hold(run.id, "a", 1)
        await store.record_steps(hold, [Step("one", StepState.DONE, 1, 1.0, 2.0, result=result)])
        await store.wait(hold, waiting_for="timer two", wake_at=due)

    async def count(state):
        found = await store.database.read(
            lambda connection: connection.scalar(
                sa.select(sa.func.count()).where(runs.c.state == state.value)
            )
        )
        return found or 0

    await asyncio.gather(*(wait_for_the_timer() for _ in range(1000)))
    assert await count(RunState.WAITING) == 1000
    with counting_tool(tmp_path / "tool") as tool:
        port = free_port()
        waking = asyncio.create_task(Waker(store, f"http://127.0.0.1:{port}", look_s=0.1).run())
        try:
            # The step before the timer is recorded, so nothing is called.
            async with orchestrate_here(tool, runs_config(path), ("one",), port=port):

                async def all_resumed():
                    return await count(RunState.SUCCEEDED) == 1000

                await wait_until(all_resumed, 120)
        finally:
            waking.cancel()
            await asyncio.gather(waking, return_exceptions=True)
            await store.database.close()
        assert tool.calls() == {}
