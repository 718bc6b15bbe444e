"""Durable runs whose orchestrate replica, tool or database is lost: each ends once, rightly, no effect twice."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from functions.contract import StageRequest
from functions.orchestration.runs.database import Database
from functions.orchestration.runs.errors import DatabaseError, LeaseLostError
from functions.orchestration.runs.run_ids import new_run_id
from functions.orchestration.runs.schema import version
from functions.orchestration.runs.store import RunStore
from functions.orchestration.runs.values import Hold, Owner, Run, RunState, Step, StepState
from functions.orchestration.runs.waker import Waker
from tests.functions.run_servers import (
    FIVE,
    counting_tool,
    get,
    kill,
    orchestrate_here,
    orchestrate_process,
    runs_config,
    submit,
    until,
)
from tests.functions.servers import free_port, wait_ready, wait_until

RUNS = 12


def postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    on_path = shutil.which("postgres")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Postgres:
    """A Postgres server of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"postgresql://pilotlight@127.0.0.1:{self.port}/postgres"
        self.process: subprocess.Popen[bytes] | None = None
        programs = postgres_programs()
        assert programs is not None
        self._programs = programs
        # The server refuses to be root.
        self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
        if self._user:
            shutil.chown(folder, "nobody", "nogroup")
        self._run("initdb", "-D", str(folder / "data"), "-U", "pilotlight", "-A", "trust", "-N", "-E", "UTF8")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
            **self._user,
        )

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                self._programs / "postgres",
                "-D",
                str(self.folder / "data"),
                "-p",
                str(self.port),
                "-k",
                str(self.folder),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "shared_buffers=16MB",
            ],
            cwd="/",
            stderr=(self.folder / "log").open("ab"),
            **self._user,
        )

    def kill(self) -> None:
        """SIGKILL of the server and of its children, which end with it."""
        assert self.process is not None
        self.process.send_signal(
            signal.SIGQUIT
        )  # "immediate shutdown": no clean end, recovery at the next start
        self.process.wait()


@pytest.fixture(scope="module")
def postgres():
    if postgres_programs() is None:
        pytest.skip("there is no Postgres server on this machine")
    # Not below pytest's folder, which no other user may enter.
    folder = Path(tempfile.mkdtemp(prefix="pilotlight-postgres-"))
    server = Postgres(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    """A fresh database of each kind: configuration, variables, address, and its server, if it has one."""
    if request.param == "sqlite":
        path = tmp_path / "runs.sqlite"
        yield runs_config(path), {}, f"sqlite:///{path}", None
        return
    server = request.getfixturevalue("postgres")
    name = f"test_{new_run_id()}"
    engine = sa.create_engine(
        server.url.replace("postgresql", "postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    url = server.url.replace("/postgres", f"/{name}")
    yield runs_config(None), {"PILOTLIGHT_RUNS_URL": url}, url, server


async def test_killed_at_every_step_each_run_ends_once_and_no_effect_is_there_twice(http, tmp_path, place):
    config, variables, _, server = place
    runs: list[str] = []
    with contextlib.ExitStack() as stack, counting_tool(tmp_path / "tool") as tool:

        def another():
            return stack.enter_context(orchestrate_process(tmp_path, tool, config, **variables))

        process = another()
        await wait_ready(http, process.url)
        for step, moment in zip(FIVE, ("after", "before", "after", "before", "after"), strict=True):
            tool.hold(step, moment)
        for number in range(RUNS):
            status, run, _ = await submit(http, process.url, f"text{number}", Idempotency_Key=f"k{number}")
            assert status == 202
            runs.append(run["id"])
        for position, step in enumerate(FIVE):
            # Every run is at this step; its tool has acted already, or not yet.
            await wait_until(lambda step=step: len(callers(tool, step)) == RUNS, 60)
            if moment_of(tool, step) == "after":
                await wait_until(lambda step=step: effects_of(tool, step) == RUNS, 60)
            if position == 2:  # the tool, too
                tool.kill()
            if position == 3 and server is not None:
                server.kill()
            kill(process)
            tool.let_go(step)
            if position == 2:
                tool.start()
            if position == 3 and server is not None:
                server.start()
            process = another()
        await wait_ready(http, process.url)
        for number, run_id in enumerate(runs):
            run = await until(http, process.url, run_id)
            assert run["state"] == "succeeded", run
            assert run["reply"]["output"] == f"text{number} one two three four five"
            assert run["attempt"] > len(FIVE)
        assert set(tool.effects().values()) == {1}
        assert len(tool.effects()) == RUNS * len(FIVE)
        calls = tool.calls()
        assert all(calls[step] >= 2 * RUNS for step in FIVE), "each was called again, with the same key"
        again = await submit(http, process.url, "text0", wait=5, Idempotency_Key="k0")
        assert (again[0], again[1]["output"]) == (200, "text0 one two three four five")
        ids = [run["id"] for run in (await get(http, process.url, "runs"))[1]["runs"]]
        assert sorted(ids) == sorted(runs)


def callers(tool, step):
    return {line[1] for line in tool.lines("calls") if line[0] == step}


def effects_of(tool, step):
    return sum(line[1] == step for line in tool.lines("effects"))


def moment_of(tool, step):
    return (tool.folder / f"hold-{step}").read_text()


async def test_a_replica_that_is_told_to_stop_gives_its_runs_back_at_once(http, tmp_path):
    config = runs_config(tmp_path / "runs.sqlite", leaseSeconds=600)
    with contextlib.ExitStack() as stack, counting_tool(tmp_path / "tool") as tool:
        first = stack.enter_context(orchestrate_process(tmp_path, tool, config, PILOTLIGHT_DRAIN_SECONDS="5"))
        await wait_ready(http, first.url)
        tool.hold("two")
        ids = [(await submit(http, first.url, f"text{number}"))[1]["id"] for number in range(3)]
        await wait_until(lambda: tool.calls()["two"] == 3)
        first.terminate()
        await wait_until(lambda: b"draining" in first.log.read_bytes())
        tool.let_go("two")
        assert first.wait() == 0
        second = stack.enter_context(orchestrate_process(tmp_path, tool, config))
        for run_id in ids:
            await wait_ready(http, second.url)
            assert (await until(http, second.url, run_id))["state"] == "succeeded"
        assert set(tool.calls().values()) == {3}, "the step that was under way was finished and recorded"


async def test_of_two_replicas_one_gets_each_run_and_the_slow_one_changes_nothing_any_more(place):
    _, _, url, _ = place
    first, second = RunStore(Database(url)), RunStore(Database(url))
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
        await first.record_step(new, step)
        with pytest.raises(LeaseLostError):
            await first.record_step(old, Step("one", StepState.DONE, 1, 1.0, 2.0, result='"old"'))
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
            (newer, "have version 99, this program knows 1"),
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
        await store.record_step(
            Hold(run.id, "a", 1), Step("one", StepState.DONE, 1, 1.0, 2.0, result="x" * 100_000)
        )
        assert (await store.get(run.id)).steps == 1
    finally:
        await database.close()


async def test_what_is_due_is_woken_and_a_request_is_open_for_as_long_as_a_run_works(http, tmp_path):
    path = tmp_path / "runs.sqlite"
    config = runs_config(path, leaseSeconds=3600)  # a replica looks by itself every twenty minutes
    with counting_tool(tmp_path / "tool") as tool:
        store = RunStore(Database(f"sqlite:///{path}"))
        port = free_port()
        waking = asyncio.create_task(Waker(store, f"http://127.0.0.1:{port}", look_s=0.05).run())
        try:
            tool.hold("three")
            async with orchestrate_here(tool, config, port=port) as url:
                await submit(http, url, "warm")  # the first look is over
                await wait_until(lambda: tool.calls()["three"] == 1)
                ids = [new_run_id() for _ in range(3)]
                for run_id, state in zip(
                    ids, (RunState.QUEUED, RunState.RUNNING, RunState.RUNNING), strict=True
                ):
                    running = state is RunState.RUNNING
                    run = Run(
                        run_id,
                        Owner("anyone", ""),
                        state,
                        1.0,
                        1.0,
                        attempt=int(running),
                        lease_owner="gone" if running else None,
                        request=StageRequest(input=f"text {run_id[-4:]}").model_dump_json(exclude_none=True),
                        origin=json.dumps(
                            {"request_id": "r", "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
                        ),
                    )
                    await store.create(run, max_unfinished=100, lease_s=-1)
                await store.renew("gone", {ids[2]: None}, lease_s=60)
                await store.wait(Hold(ids[2], "gone", 1), waiting_for="timer one", wake_at=time.time() + 0.5)
                await wait_until(lambda: tool.calls()["three"] == 4)

                async def open_requests():
                    return (await get(http, url, "healthz/ready"))[1]["in_flight"] >= 4

                await wait_until(open_requests)
                tool.let_go("three")
                for run_id in ids:
                    assert (await until(http, url, run_id))["state"] == "succeeded"

                async def none_open():
                    return (await get(http, url, "healthz/ready"))[1]["in_flight"] == 0

                await wait_until(none_open)
        finally:
            waking.cancel()
            await asyncio.gather(waking, return_exceptions=True)
            await store.database.close()
    assert set(tool.effects().values()) == {1}
