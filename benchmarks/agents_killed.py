"""Runs of five steps whose orchestrate replica, tool or database (Postgres) is killed at random moments."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.agents_servers import (
    PATIENCE_S,
    StageServer,
    free_port,
    orchestrate_settings,
    start_stage,
    wait_ready,
)

STEPS = ("one", "two", "three", "four", "five")
STEP_S = 0.04
"""Seconds of the tool's work."""
AT_ONCE = 5
"""Runs that are under way when something is killed."""
VICTIMS = ("orchestrate", "tool", "database")
_TOOL = Path(__file__).with_name("agents_tool.py")


@dataclass
class Program:
    """A process that is killed and started again."""

    command: list[str]
    port: int
    user: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return once it takes connections."""
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends:
            # Children of a Postgres that was killed end a moment later; until then the next one refuses.
            if self.process is None or self.process.poll() is not None:
                self.process = subprocess.Popen(
                    self.command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self.user
                )
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise RuntimeError(f"{self.command[0]} does not start")

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def postgres_programs() -> Path | None:
    """Where `postgres` and `initdb` are; None: not on this machine."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    on_path = shutil.which("postgres")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextlib.contextmanager
def postgres(programs: Path) -> Iterator[tuple[Program, str]]:
    """A Postgres server of its own, and its address."""
    folder = Path(tempfile.mkdtemp(prefix="agents-postgres-"))
    user: dict[str, Any] = {}
    if os.getuid() == 0:  # which the server refuses to be
        user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        shutil.chown(folder, "nobody", "nogroup")
    data = str(folder / "data")
    init = [str(programs / "initdb"), "-D", data, "-U", "pilotlight", "-A", "trust", "-N", "-E", "UTF8"]
    subprocess.run(init, check=True, cwd="/", stdout=subprocess.DEVNULL, env={"LC_ALL": "C"}, **user)
    port = free_port()
    command = [str(programs / "postgres"), "-D", data, "-p", str(port), "-k", str(folder)]
    server = Program([*command, "-c", "listen_addresses=127.0.0.1"], port, user)
    server.start()
    try:
        yield server, f"postgresql://pilotlight@127.0.0.1:{port}/postgres"
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


class Arena:
    """Orchestrate, its tool and its database."""

    def __init__(self, folder: Path, database: Program | None, url: str | None) -> None:
        port = free_port()
        self.effects = folder / "effects.sqlite"
        tool = [str(_TOOL), str(port), str(self.effects), str(STEP_S)]
        self.tool = Program([sys.executable, "-S", *tool], port)
        self.database = database
        addresses = [
            {"name": step, "kind": "container", "url": f"http://127.0.0.1:{port}/{step}"} for step in STEPS
        ]
        place: dict[str, Any] = {"store": "postgres"}
        if url is None:
            place = {"store": "sqlite", "path": str(folder / "runs.sqlite")}
        runs = {**place, "leaseSeconds": 1, "patienceSeconds": 60, "retrySeconds": 0.2, "stepAttempts": 50}
        config = {"wake": False, "breakerFailures": 1000, "attempts": 4, "waitInitial": 0.05, "runs": runs}
        self._folder = folder
        self._port = free_port()
        self._variables = orchestrate_settings(addresses, config)
        if url is not None:
            self._variables["PILOTLIGHT_RUNS_URL"] = url
        self.front: StageServer | None = None

    @property
    def url(self) -> str:
        """Of orchestrate, whichever replica answers."""
        return f"http://127.0.0.1:{self._port}"

    def start_front(self) -> None:
        """Start an orchestrate replica."""
        self.front = start_stage("orchestrate", self._folder, self._port, **self._variables)

    def kill(self, victim: str) -> None:
        """Kill one of the three and start it again."""
        if victim == "orchestrate":
            assert self.front is not None
            self.front.kill()
            self.start_front()
            return
        program = self.tool if victim == "tool" else self.database
        assert program is not None
        program.kill()
        program.start()

    def end(self) -> None:
        """End what was started here."""
        if self.front is not None:
            self.front.end()
        if self.tool.process is not None:
            self.tool.kill()


async def killed(
    folder: Path, wanted: int, seed: int, tell: Callable[[str], None], victims: tuple[str, ...] = VICTIMS
) -> dict[str, Any]:
    """Runs that were under way when one of the three was killed, until there were so many of them.

    Returns:
        `killed`: their number by victim; `lost`: runs that did not end rightly; `twice`: effects of a step
        of a run that were there more than once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    programs = postgres_programs()
    with contextlib.ExitStack() as stack:
        server, url = stack.enter_context(postgres(programs)) if programs is not None else (None, None)
        if server is None:
            victims = tuple(victim for victim in victims if victim != "database")
        arena = Arena(folder, server, url)
        stack.callback(arena.end)
        arena.tool.start()
        arena.start_front()
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S))
        async with session:
            assert arena.front is not None
            await wait_ready(session, arena.front)
            return await _rounds(session, arena, wanted, random.Random(seed), tell, victims)


async def _rounds(  # noqa: PLR0917 - of one measurement
    session: aiohttp.ClientSession,
    arena: Arena,
    wanted: int,
    chance: random.Random,
    tell: Callable[[str], None],
    victims: tuple[str, ...],
) -> dict[str, Any]:
    hit: Counter[str] = Counter()
    moments: Counter[str] = Counter()
    ids: dict[str, str] = {}
    while sum(hit.values()) < wanted:
        victim = min(victims, key=lambda name: hit[name])
        texts = [f"text{len(ids) + number}" for number in range(AT_ONCE)]
        for text in texts:
            async with session.post(
                f"{arena.url}/invoke",
                json={"input": text},
                headers={"Prefer": "respond-async", "Idempotency-Key": text},
            ) as response:
                assert response.status == 202, await response.text()
                ids[text] = (await response.json())["id"]
            await asyncio.sleep(chance.uniform(0, STEP_S))
        await asyncio.sleep(chance.uniform(0, STEP_S * len(STEPS)))
        done = _effects(arena)
        await asyncio.to_thread(arena.kill, victim)
        for text in texts:
            if done[text] < len(STEPS):
                hit[victim] += 1
                moments[f"{done[text]} done"] += 1
        for text in texts:
            await _ended(session, arena, ids[text])
        tell(f"killed {victim:11} {sum(hit.values()):>4} of {wanted} runs were under way")
    lost = []
    for text, run_id in ids.items():
        run = await _ended(session, arena, run_id)
        if run.get("state") != "succeeded" or run["reply"]["output"] != " ".join((text, *STEPS)):
            lost.append(run)
    with contextlib.closing(sqlite3.connect(arena.effects)) as effects:
        query = "SELECT step, text, count(*) FROM effects GROUP BY step, text HAVING count(*) > 1"
        twice = effects.execute(query).fetchall()
    for run in lost:
        tell(f"lost: {run}")
    return {
        "killed": dict(hit),
        "steps_done_when_killed": dict(sorted(moments.items())),
        "runs": len(ids),
        "lost": len(lost),
        "twice": len(twice),
    }


def _effects(arena: Arena) -> Counter[str]:
    """Steps that have acted, by run."""
    with contextlib.closing(sqlite3.connect(arena.effects)) as effects:
        return Counter(row[0].split(" ")[0] for row in effects.execute("SELECT text FROM effects"))


async def _ended(session: aiohttp.ClientSession, arena: Arena, run_id: str) -> dict[str, Any]:
    """The run once it has ended, or as it is after a long time."""
    ends = time.monotonic() + PATIENCE_S
    run: dict[str, Any] = {}
    while time.monotonic() < ends:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with session.get(f"{arena.url}/runs/{run_id}") as response:
                if response.status == 200:
                    run = await response.json()
                    if run["state"] in {"succeeded", "failed", "cancelled"}:
                        return run
        await asyncio.sleep(0.05)
    return run
