"""As `agents_steps.py`, by DBOS: `python benchmarks/agents_dbos.py dbos|dbos-wal FILE RUNS AT_ONCE STEPS`.

`dbos`: as it comes, which has SQLite sync every commit with a rollback journal. `dbos-wal`: with this
project's settings of SQLite (WAL, synchronous=NORMAL).
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from pathlib import Path

import sqlalchemy as sa
from dbos import DBOS

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.agents_steps import RESULT, measured  # noqa: E402 - see above


async def dbos(file: str, runs: int, at_once: int, steps: int, *, wal: bool) -> float:
    if wal:

        @sa.event.listens_for(sa.engine.Engine, "connect")
        def _(connection: sqlite3.Connection, _record: object) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{file}", "log_level": "ERROR"})

    @DBOS.step()
    async def no_op(number: int) -> str:  # noqa: ARG001 - part of what is recorded
        return RESULT

    @DBOS.workflow()
    async def workflow() -> str:
        for number in range(steps):
            await no_op(number)
        return "done"

    DBOS.launch()

    async def one() -> None:
        assert await workflow() == "done"

    try:
        return await measured(one, runs, at_once, steps)
    finally:
        DBOS.destroy()


def main() -> None:
    kind, file = sys.argv[1:3]
    runs, at_once, steps = map(int, sys.argv[3:])
    found = asyncio.run(dbos(file, runs, at_once, steps, wal=kind == "dbos-wal"))
    print(json.dumps({"steps_per_s": round(found, 1)}))


if __name__ == "__main__":
    main()
