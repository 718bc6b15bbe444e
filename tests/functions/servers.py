"""Real servers for the tests of the stages: a stage as its own process, and a scripted stage in this one."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn

from functions.contract import StageReply, StageRequest
from functions.http.app import create_app
from functions.lifecycle import State
from functions.settings import FunctionSettings
from functions.stage import RequestContext, StageRoutes, StageRuntime

PATIENCE = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def stage_environment(**variables: str) -> dict[str, str]:
    """The environment of a stage process: this one's without settings, plus the given."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PILOTLIGHT_", "K_"))}
    return {**ours, "PILOTLIGHT_HOST": "127.0.0.1", **variables}


@dataclass
class StageProcess:
    """`python -m functions KIND`, with its log in a file."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self, patience: float = PATIENCE) -> int:
        return self.process.wait(patience)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextlib.contextmanager
def stage_process(
    kind: str, folder: Path, module: str | None = None, **variables: str
) -> Iterator[StageProcess]:
    port = free_port()
    log = folder / f"{kind}-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "functions", kind, *([module] if module else [])],
            env=stage_environment(PORT=str(port), **variables),
            stdout=out,
            stderr=out,
        )
    try:
        yield StageProcess(process, port, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def wait_until(
    check: Callable[[], Awaitable[bool]] | Callable[[], bool], patience: float = PATIENCE
) -> None:
    """Poll until true; fails after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        result = check()
        if not isinstance(result, bool):
            result = await result
        if result:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {patience} s")
        await asyncio.sleep(0.02)


async def wait_ready(session: aiohttp.ClientSession, url: str) -> None:
    async def ready() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{url}/healthz/ready") as response:
                return response.status == 200
        return False

    await wait_until(ready)


Behaviour = Callable[[StageRequest, RequestContext], Any]


@dataclass
class Seen:
    """A request that a scripted stage got."""

    request: StageRequest
    context: RequestContext
    cancelled: bool = False


@dataclass
class ScriptedStage:
    """A stage that does what the test says: real HTTP around a function."""

    name: str
    kind: str
    behave: Behaviour
    seen: list[Seen] = field(default_factory=list)
    starts: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.starts.set()

    async def start(self, replica: Any) -> None:
        replica.to(State.LOADING)
        await self.starts.wait()
        replica.to(State.HOT)

    async def invoke(self, request: StageRequest, context: RequestContext) -> Any:
        seen = Seen(request, context)
        self.seen.append(seen)
        result = self.behave(request, context)
        try:
            if hasattr(result, "__anext__"):
                return self._watched(result, seen)
            return await result if hasattr(result, "__await__") else result
        except asyncio.CancelledError:
            seen.cancelled = True
            raise

    async def _watched(self, events: Any, seen: Seen) -> AsyncIterator[Any]:
        try:
            async for event in events:
                yield event
        except (asyncio.CancelledError, GeneratorExit):
            seen.cancelled = True
            raise

    async def close(self) -> None:
        pass

    def routes(self, runtime: StageRuntime) -> StageRoutes:  # noqa: ARG002 - the protocol
        return StageRoutes()


def echo(name: str) -> Behaviour:
    return lambda request, _context: StageReply(id=request.id, stage=name, output=request.input)


class QuickServer(uvicorn.Server):
    """uvicorn without its tenths of seconds of polling, for the hundreds of servers that tests start."""

    def __init__(self, app: Any) -> None:
        super().__init__(
            uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1)
        )
        self.up = asyncio.Event()
        self.stop = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The test runner keeps its own."""
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)
        self.up.set()
        await self.stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if self.server_state.tasks:
            await asyncio.wait(set(self.server_state.tasks), timeout=1)
        for task in self.server_state.tasks:
            task.cancel()
        await self.lifespan.shutdown()


@contextlib.asynccontextmanager
async def serving(app: Any, port: int = 0) -> AsyncIterator[str]:
    """An ASGI application on a port of its own, in this event loop; the URL."""
    listening = socket.create_server(("127.0.0.1", port))
    server = QuickServer(app)
    task = asyncio.create_task(server.serve([listening]))
    up = asyncio.create_task(server.up.wait())
    try:
        await asyncio.wait({task, up}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        assert server.up.is_set(), "the server did not start"
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        up.cancel()
        server.stop.set()
        await asyncio.wait_for(task, 10)


@contextlib.asynccontextmanager
async def scripted(
    behave: Behaviour,
    *,
    name: str = "model",
    kind: str = "generate",
    settings: FunctionSettings | None = None,
    port: int = 0,
) -> AsyncIterator[tuple[ScriptedStage, str]]:
    stage = ScriptedStage(name, kind, behave)
    async with serving(create_app(stage, settings or FunctionSettings()), port) as url:
        yield stage, url


async def read_events(response: aiohttp.ClientResponse) -> list[tuple[str, Any]]:
    """All events of a stream: name and parsed data."""
    text = (await response.read()).decode()
    return [
        (lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: ")))
        for block in text.split("\n\n")
        if len(lines := block.split("\n")) >= 2
    ]
