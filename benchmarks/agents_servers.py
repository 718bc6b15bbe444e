"""What the benchmarks of durable runs start: stages as processes, and ports for them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

PATIENCE_S = 60.0


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class StageServer:
    """`python -m functions KIND`."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """SIGTERM, and SIGKILL where that does not help."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


def start_stage(kind: str, folder: Path, port: int | None = None, **variables: str) -> StageServer:
    """Start a stage; its log is in the folder."""
    port = port or free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PILOTLIGHT_", "K_"))}
    own = {"PORT": str(port), "PILOTLIGHT_HOST": "127.0.0.1", "PILOTLIGHT_CACHE": str(folder / "cache")}
    log = folder / f"{kind}-{port}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "functions", kind],
            env={**kept, **own, **variables},
            cwd=Path(__file__).parents[1],
            stdout=out,
            stderr=out,
        )
    return StageServer(process, f"http://127.0.0.1:{port}", log)


@contextlib.contextmanager
def stage(kind: str, folder: Path, **variables: str) -> Iterator[StageServer]:
    """A stage for as long as the context lasts."""
    server = start_stage(kind, folder, **variables)
    try:
        yield server
    finally:
        server.end()


def orchestrate_settings(addresses: list[dict[str, str]], config: dict[str, Any]) -> dict[str, str]:
    """The environment of an orchestrate stage."""
    return {"PILOTLIGHT_STAGES": json.dumps(addresses), "PILOTLIGHT_STAGE_CONFIG": json.dumps(config)}


async def wait_ready(session: aiohttp.ClientSession, server: StageServer) -> None:
    """Return once a stage answers.

    Raises:
        RuntimeError: it ended, or takes too long; with the end of its log.
    """
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends and server.process.poll() is None:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{server.url}/healthz/ready") as response:
                if response.status == 200:
                    return
        await asyncio.sleep(0.02)
    raise RuntimeError(f"{server.url} is not ready: {server.log.read_text()[-2000:]}")
