"""How much slower recorded steps are: a request of three stages, and no-op steps beside bare DBOS."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.agents_servers import orchestrate_settings, stage, wait_ready

STAGES = ("ingest", "retrieve", "postprocess")
"""Names; each is an `ingest` stage, which does next to nothing."""
_OURS = Path(__file__).with_name("agents_steps.py")
_DBOS = Path(__file__).with_name("agents_dbos.py")
TURN = 25
"""Requests of one kind before the other has its turn."""


async def durable_vs_plain(folder: Path, requests: int, at_once: int = 1) -> dict[str, Any]:
    """Milliseconds of a request of three stages, plain and as a durable run that its client waits for.

    Args:
        folder: for the database and logs.
        requests: of each kind.
        at_once: requests that are under way at the same time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        servers = [stack.enter_context(stage("ingest", folder)) for _ in STAGES]
        addresses = [
            {"name": name, "kind": "ingest", "url": server.url}
            for name, server in zip(STAGES, servers, strict=True)
        ]
        config = {"runs": {"store": "sqlite", "path": str(folder / "runs.sqlite")}}
        front = stack.enter_context(stage("orchestrate", folder, **orchestrate_settings(addresses, config)))
        for server in (*servers, front):
            await wait_ready(session, server)

        async def one(headers: dict[str, str], times: list[float]) -> None:
            began = time.perf_counter()
            async with session.post(
                f"{front.url}/invoke", json={"input": "where is my order 4711?"}, headers=headers
            ) as response:
                body = await response.read()
                assert response.status == 200, body
            times.append(1e3 * (time.perf_counter() - began))

        async def turn(headers: dict[str, str], times: list[float]) -> None:
            gate = asyncio.Semaphore(at_once)

            async def gated() -> None:
                async with gate:
                    await one(headers, times)

            await asyncio.gather(*(gated() for _ in range(TURN)))

        plain: list[float] = []
        durable: list[float] = []
        kinds = (({}, plain), ({"Prefer": "respond-async, wait=60"}, durable))
        for headers, _ in kinds:  # connects, imports what is imported late
            for _ in range(2):
                await turn(headers, [])
        while len(durable) < requests:
            for headers, times in kinds:
                await turn(headers, times)
    return {
        "plain_ms": round(statistics.median(plain), 3),
        "durable_ms": round(statistics.median(durable), 3),
        "ratio": round(statistics.median(durable) / statistics.median(plain), 3),
    }


def steps_vs_dbos(folder: Path, runs: int, tell: Callable[[str], None], rounds: int = 3) -> dict[str, Any]:
    """Recorded no-op steps a second, five a run, over those of bare DBOS on an SQLite file of its own.

    Args:
        folder: for the databases.
        runs: in each round.
        tell: gets a line for each measurement.
        rounds: in turns; the median counts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("dbos") is None:
        return {"skipped": "dbos is not installed (pip install 'pilotlight[bench]')"}
    found: dict[str, Any] = {}
    for at_once in (1, 16):
        rates: dict[str, list[float]] = {kind: [] for kind in ("ours", "dbos", "dbos-wal")}
        for number in range(rounds):
            for kind, times in rates.items():
                file = folder / f"{kind}-{at_once}-{number}.sqlite"
                program = [str(_OURS)] if kind == "ours" else [str(_DBOS), kind]
                command = [sys.executable, *program, str(file), str(runs), str(at_once), "5"]
                out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                times.append(json.loads(out.stdout.splitlines()[-1])["steps_per_s"])
                tell(f"{kind:9} {at_once:>2} at once: {times[-1]:8.0f} steps/s")
        middle = {kind: statistics.median(times) for kind, times in rates.items()}
        found[f"at_once_{at_once}"] = {
            **middle,
            "vs_dbos": round(middle["ours"] / middle["dbos"], 2),
            "vs_dbos_wal": round(middle["ours"] / middle["dbos-wal"], 2),
        }
    # Of like settings, and where it is the least.
    found["ratio"] = min(entry["vs_dbos_wal"] for entry in found.values())
    return found
