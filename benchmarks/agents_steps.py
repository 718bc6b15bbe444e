"""Recorded no-op steps a second, as JSON: `python benchmarks/agents_steps.py FILE RUNS AT_ONCE STEPS`.

Runs as an orchestrate stage accepts them, without HTTP: stored, worked on, waited for.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from functions.contract import StageReply, StageRequest  # noqa: E402 - see above
from functions.orchestration.runs.config import RunsConfig  # noqa: E402
from functions.orchestration.runs.database import Database  # noqa: E402
from functions.orchestration.runs.durable_steps import DurableSteps  # noqa: E402
from functions.orchestration.runs.execution import RunExecution  # noqa: E402
from functions.orchestration.runs.runner import RunRunner  # noqa: E402
from functions.orchestration.runs.service import RunService  # noqa: E402
from functions.orchestration.runs.store import RunStore  # noqa: E402
from functions.orchestration.runs.values import RunState  # noqa: E402
from functions.stage import RequestContext  # noqa: E402

RESULT = "x" * 200


async def measured(one: Callable[[], Awaitable[None]], runs: int, at_once: int, steps: int) -> float:
    """Steps a second."""
    for _ in range(3):
        await one()
    gate = asyncio.Semaphore(at_once)

    async def gated() -> None:
        async with gate:
            await one()

    began = time.perf_counter()
    await asyncio.gather(*(gated() for _ in range(runs)))
    return runs * steps / (time.perf_counter() - began)


async def ours(file: str, runs: int, at_once: int, steps: int) -> float:
    class Plain:
        def dump(self, result: object) -> str:
            return json.dumps(result)

        def load(self, text: str) -> object:
            return json.loads(text)

        def usage(self, result: object) -> dict[str, int]:  # noqa: ARG002 - the port
            return {}

    async def no_op(key: str) -> str:  # noqa: ARG001 - the port
        return RESULT

    async def body(request: StageRequest, context: RequestContext, recorded: DurableSteps) -> StageReply:  # noqa: ARG001 - the port
        for number in range(steps):
            await recorded.run(f"step/{number}", no_op)
        return StageReply(id=request.id, stage="front", output="done")

    config = RunsConfig(store="sqlite", max_unfinished=1_000_000)
    store = RunStore(Database(f"sqlite:///{file}"))
    await store.database.open()
    runner = RunRunner(config, store, RunExecution(store, config, body, Plain(), stage="front"))
    runner.start()
    service = RunService(runner)

    async def one() -> None:
        context = RequestContext(
            request_id="r",
            traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
            arrived=time.monotonic(),
            deadline=None,
            deadline_given=False,
            warmth="hot",
        )
        run, _ = await service.submit(StageRequest(input="hello"), context, key=None, fingerprint="f")
        ended = await service.wait_for_end(run.id, 60.0)
        assert ended.state is RunState.SUCCEEDED

    try:
        return await measured(one, runs, at_once, steps)
    finally:
        await runner.close(1.0)


def main() -> None:
    runs, at_once, steps = map(int, sys.argv[2:])
    print(json.dumps({"steps_per_s": round(asyncio.run(ours(sys.argv[1], runs, at_once, steps)), 1)}))


if __name__ == "__main__":
    main()
