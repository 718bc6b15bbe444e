"""Call a function URL as a user does, and measure what the user sees."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import aiohttp


class InvokeError(RuntimeError):
    """The call did not end in a reply; the text has status, title and detail of the problem."""


@dataclass(frozen=True)
class Call:
    """One call of a stage's `/invoke`."""

    url: str
    prompt: str
    parameters: dict[str, Any] = field(default_factory=dict)
    timeout_s: float = 300.0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came back; instants are seconds after the call was made.

    Attributes:
        text: the whole output.
        ttft_s: until the first piece of output.
        e2e_s: until the last.
        reply: the final StageReply as JSON.
        server_timing: the response's `Server-Timing` header.
    """

    text: str
    ttft_s: float
    e2e_s: float
    reply: dict[str, Any]
    server_timing: str


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A session without limits of its own: the platform's limits are the ones to meet."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=2**20) as session:
        yield session


async def stream(
    session: aiohttp.ClientSession, call: Call, *, on_text: Callable[[str], None] | None = None
) -> Answer:
    """Make the call with `stream: true` and collect the events.

    Raises:
        InvokeError: an error answer, an `error` event, a cut stream, or no answer in time.
    """
    start = perf_counter()
    body = {"input": call.prompt, "parameters": call.parameters, "stream": True}
    first: float | None = None
    pieces: list[str] = []
    try:
        async with session.post(
            call.url, json=body, headers=call.headers, timeout=aiohttp.ClientTimeout(total=call.timeout_s)
        ) as response:
            if response.status != 200:
                raise InvokeError(_problem(response.status, await response.text()))
            async for event, data in _events(response):
                match event:
                    case "delta":
                        if first is None:
                            first = perf_counter() - start
                        pieces.append(data["text"])
                        if on_text is not None:
                            on_text(data["text"])
                    case "reply":
                        end = perf_counter() - start
                        return Answer(
                            text="".join(pieces),
                            ttft_s=end if first is None else first,
                            e2e_s=end,
                            reply=data,
                            server_timing=response.headers.get("Server-Timing", ""),
                        )
                    case "error":
                        raise InvokeError(_problem(int(data.get("status", 500)), json.dumps(data)))
    except TimeoutError as error:
        raise InvokeError(f"{call.url}: no answer within {call.timeout_s:g} s") from error
    except aiohttp.ClientError as error:
        raise InvokeError(f"{call.url}: {error}") from error
    raise InvokeError(f"{call.url}: the stream ended without a reply")


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Server-sent events (HTML Standard, 9.2) as (event, JSON data)."""
    event = "message"
    data: list[str] = []
    async for raw in response.content:
        line = raw.decode().rstrip("\r\n")
        if not line:
            if data:
                yield event, json.loads("\n".join(data))
            event, data = "message", []
        elif line.startswith("event:"):
            event = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))


def _problem(status: int, body: str) -> str:
    try:
        problem = json.loads(body)
        return f"{status} {problem.get('title', '')}: {problem.get('detail', '')}"
    except (ValueError, AttributeError):
        return f"{status}: {body[:300]}"
