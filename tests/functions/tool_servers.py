"""What the tests of tools call: functions over real HTTP, and a tool server made with MCP's official SDK."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from functions.calls.client import open_session
from functions.calls.retries import CallPolicy
from functions.dialogue import FunctionCall, ToolCall
from functions.orchestration.tools.config import ToolConfig
from functions.orchestration.tools.http_calls import Caller
from functions.orchestration.tools.toolbox import Toolbox, open_toolbox
from functions.stage import RequestContext
from tests.functions.servers import free_port
from transport.trace_context import continue_trace


def asked(name: str, arguments: Any = None, call_id: str = "call-1") -> ToolCall:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    return ToolCall(id=call_id, function=FunctionCall(name=name, arguments=text))


def context(seconds: float | None = 120.0, retries: int = 6) -> RequestContext:
    now = time.monotonic()
    return RequestContext(
        request_id="request-1",
        traceparent=continue_trace(None),
        arrived=now,
        deadline=None if seconds is None else now + seconds,
        warmth="hot",
        retries_left=retries,
    )


@dataclass
class Box:
    toolbox: Toolbox
    session: aiohttp.ClientSession
    outcomes: list[tuple[str, str]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def opened(
    tools: dict[str, ToolConfig], *, gateway: str | None = None, **more: Any
) -> AsyncIterator[Box]:
    session = open_session()
    outcomes: list[tuple[str, str]] = []
    policy = CallPolicy(wait_initial=0.01, wait_max=0.05, attempts=4)
    caller = Caller(
        session, gateway, policy, lambda name, outcome, _seconds: outcomes.append((name, outcome)), **more
    )
    toolbox = open_toolbox(tools, caller)
    try:
        yield Box(toolbox, session, outcomes)
    finally:
        await toolbox.close()
        await session.close()


@dataclass
class FunctionServer:
    """Functions at `/NAME`; each is a coroutine of the request that gives a response."""

    url: str
    seen: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def functions(**handlers: Any) -> AsyncIterator[FunctionServer]:
    async def handle(request: web.Request) -> web.StreamResponse:
        name = request.path.strip("/")
        body = await request.json() if request.method == "POST" else None
        server.seen.append((name, dict(request.headers), body))
        return (
            await handlers[name](request) if name in handlers else web.Response(status=404, text="no route")
        )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = FunctionServer(f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        yield server
    finally:
        await runner.cleanup()


@dataclass
class McpProcess:
    """The tool server's process."""

    folder: Path
    revision: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def start(self) -> None:
        script = Path(__file__).with_name("mcp_tool_server.py")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script), str(self.port), str(self.folder), self.revision],
                stdout=log,
                stderr=log,
            )
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def forget(self) -> None:
        for name in ("seen", "effects", "hold"):
            (self.folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def mcp_process(folder: Path, revision: str) -> Iterator[McpProcess]:
    folder.mkdir(parents=True, exist_ok=True)
    server = McpProcess(folder, revision, free_port())
    server.start()
    try:
        yield server
    finally:
        (server.folder / "hold").unlink(missing_ok=True)
        server.kill()
