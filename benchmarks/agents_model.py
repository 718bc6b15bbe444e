"""A scripted model's stage: it names the tool `lookup` at once, and writes the arguments for a while.

`python benchmarks/agents_model.py START_SECONDS WRITE_SECONDS`: what a start and the arguments take. Once the
tool's result is there, it answers.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from functions.contract import Delta, Final, StageEvent, StageReply, StageRequest, ToolStart  # noqa: E402
from functions.dialogue import FunctionCall, Message, Role, ToolCall  # noqa: E402
from functions.http.app import create_app  # noqa: E402
from functions.http.server import serve  # noqa: E402
from functions.lifecycle import State  # noqa: E402
from functions.settings import read_settings  # noqa: E402
from functions.stage import RequestContext, StageRoutes, StageRuntime  # noqa: E402

CALL = ToolCall(id="call_1", function=FunctionCall(name="lookup", arguments=json.dumps({"order": "4711"})))


class Model:
    """The stage."""

    name, kind = "generate", "generate"

    def __init__(self, write_s: float) -> None:
        self._write_s = write_s

    async def start(self, replica: Any) -> None:
        """Hot at once; the start's seconds have passed before."""
        replica.to(State.HOT)

    async def invoke(self, request: StageRequest, _context: RequestContext) -> AsyncIterator[StageEvent]:
        """The events of an answer."""
        return self._say(request)

    async def _say(self, request: StageRequest) -> AsyncIterator[StageEvent]:
        messages = () if isinstance(request.input, str) else request.input
        output: Any = "It is on its way."
        if any(message.role is Role.TOOL for message in messages):
            yield Delta(output)
        else:
            yield ToolStart(0, CALL.id, CALL.function.name)
            await asyncio.sleep(self._write_s)
            output = (Message(role=Role.ASSISTANT, content=None, tool_calls=(CALL,)),)
        reason = "stop" if isinstance(output, str) else "tool_calls"
        yield Final(StageReply(id=request.id, stage="generate", output=output, finish_reason=reason))

    async def close(self) -> None:
        """Nothing is open."""

    def routes(self, runtime: StageRuntime) -> StageRoutes:  # noqa: ARG002 - the protocol
        """None of its own."""
        return StageRoutes()


def main() -> None:
    """Serve."""
    start_s, write_s = map(float, sys.argv[1:])
    time.sleep(start_s)
    settings = read_settings()
    with socket.create_server((settings.host, settings.port), backlog=2048) as listening:
        sys.exit(serve(create_app(Model(write_s), settings), listening))


if __name__ == "__main__":
    main()
