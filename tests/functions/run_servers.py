"""What the tests of durable runs start: orchestrate as a process or here, and a tool that counts its effects."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from functions.http.app import create_app
from functions.settings import FunctionSettings, StageAddress
from functions.stages.orchestrate import build
from tests.functions.servers import StageProcess, free_port, serving, stage_process, wait_until

FIVE = ("one", "two", "three", "four", "five")
QUICK = {"waitInitial": 0.02, "waitMax": 0.1, "attempts": 4, "breakerFailures": 1000, "wake": False}
ENDED = {"succeeded", "failed", "cancelled"}


@dataclass
class Tool:
    """The counting tool's process."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        script = Path(__file__).with_name("counting_tool.py")
        self.process = subprocess.Popen([sys.executable, "-S", str(script), str(self.port), str(self.folder)])
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.process.poll() is None

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def lines(self, name: str) -> list[list[str]]:
        path = self.folder / name
        return [line.split(" ", 2) for line in path.read_text().splitlines()] if path.exists() else []

    def calls(self) -> Counter[str]:
        return Counter(line[0] for line in self.lines("calls"))

    def effects(self) -> Counter[tuple[str, str]]:
        """How often each step had its effect for each input."""
        return Counter((step, text) for _key, step, text in self.lines("effects"))

    def hold(self, step: str, moment: str = "after") -> None:
        (self.folder / f"hold-{step}").write_text(moment)

    def let_go(self, step: str) -> None:
        (self.folder / f"hold-{step}").unlink(missing_ok=True)

    def fail(self, step: str, **problem: Any) -> None:
        (self.folder / f"fail-{step}").write_text(json.dumps({"title": "no", **problem}))

    def mend(self, step: str) -> None:
        (self.folder / f"fail-{step}").unlink()

    def addresses(self, steps: tuple[str, ...] = FIVE) -> list[dict[str, str]]:
        return [{"name": step, "kind": "container", "url": f"{self.url}/{step}"} for step in steps]


@contextlib.contextmanager
def counting_tool(folder: Path) -> Iterator[Tool]:
    folder.mkdir(parents=True, exist_ok=True)
    tool = Tool(folder, free_port())
    tool.start()
    try:
        yield tool
    finally:
        for path in folder.glob("hold-*"):
            path.unlink()
        tool.kill()


def runs_config(database: Path | None, **more: Any) -> dict[str, Any]:
    store = {"store": "postgres"} if database is None else {"store": "sqlite", "path": str(database)}
    return {**QUICK, "runs": {**store, "leaseSeconds": 1, **more}}


@contextlib.contextmanager
def orchestrate_process(
    folder: Path, tool: Tool, config: dict[str, Any], **variables: str
) -> Iterator[StageProcess]:
    with stage_process(
        "orchestrate",
        folder,
        PILOTLIGHT_STAGES=json.dumps(tool.addresses()),
        PILOTLIGHT_STAGE_CONFIG=json.dumps(config),
        **variables,
    ) as process:
        yield process


def kill(process: StageProcess) -> None:
    os.kill(process.process.pid, signal.SIGKILL)
    process.process.wait()


@contextlib.asynccontextmanager
async def orchestrate_here(
    tool: Tool, config: dict[str, Any], steps: tuple[str, ...] = FIVE, *, port: int = 0, **settings: Any
) -> AsyncIterator[str]:
    """Orchestrate in this process, behind real HTTP."""
    known = FunctionSettings(
        service="front",
        stages=tuple(StageAddress(**address) for address in tool.addresses(steps)),
        stage_config=config,
        **settings,
    )
    async with serving(create_app(build(known), known), port) as url:
        yield url


async def submit(
    http: aiohttp.ClientSession, url: str, text: str = "hello", *, wait: int | None = None, **headers: str
) -> tuple[int, dict[str, Any], dict[str, str]]:
    prefer = "respond-async" if wait is None else f"respond-async, wait={wait}"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.post(
        f"{url}/invoke", json={"input": text}, headers={"Prefer": prefer, **named}
    ) as response:
        return response.status, await response.json(), dict(response.headers)


async def get(http: aiohttp.ClientSession, url: str, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
    async with http.get(f"{url}/{path}", headers=headers) as response:
        return response.status, await response.json()


async def post(
    http: aiohttp.ClientSession, url: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    async with http.post(f"{url}/{path}", json=body or {}, headers=headers) as response:
        return response.status, await response.json()


async def until(
    http: aiohttp.ClientSession,
    url: str,
    run_id: str,
    states: set[str] = ENDED,
    patience: float = 60.0,
    *,
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The run once it is in one of the states."""
    last: dict[str, Any] = {}

    async def there() -> bool:
        nonlocal last
        with contextlib.suppress(aiohttp.ClientError):
            status, last = await get(http, url, f"runs/{run_id}", **(headers or {}))
            return status == 200 and last["state"] in states
        return False

    try:
        await wait_until(there, patience)
    except AssertionError:
        raise AssertionError(f"not {states} in time: {last}") from None
    return last
