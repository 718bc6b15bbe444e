"""Durable runs whose orchestrate replica, tool or database is lost: each ends once, rightly, no effect twice."""

import asyncio
import contextlib
import json
import time

from functions.contract import StageRequest
from functions.orchestration.runs.database import Database
from functions.orchestration.runs.run_ids import new_run_id
from functions.orchestration.runs.store import RunStore
from functions.orchestration.runs.values import Hold, Owner, Run, RunState
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
