"""Call a function URL as a user does, and measure what the user sees."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import aiohttp

from transport.sse import EventParser

_TIMING = "server-timing "


class InvokeError(RuntimeError):
    """The call did not end in a reply; the message has status, title and detail of the problem."""


@dataclass(frozen=True)
class Call:
    """One call of a stage's `/invoke`."""

    url: str
    prompt: str
    parameters: dict[str, Any] = field(default_factory=dict)
    timeout_s: float = 300.0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class InvokeResult:
    """What came back.

    Attributes:
        text: the whole output; of a conversation, the contents of its messages, one a line.
        ttft_s: seconds from the call to the first piece of output.
        e2e_s: seconds from the call to the end.
        reply: the final StageReply as JSON.
        server_timing: the response's `Server-Timing`, which a held stream has in a comment.
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
    session: aiohttp.ClientSession,
    call: Call,
    *,
    on_text: Callable[[str], None] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> InvokeResult:
    """Make the call with `stream: true` and collect the events.

    Args:
        session: from `client`.
        call: what to ask.
        on_text: gets each piece of output as it comes, or the reply's output if it comes in one piece.
        on_progress: gets what the stream says while it waits for a start.

    Raises:
        InvokeError: an error answer, an `error` event, a cut stream, or no answer in time.
    """
    answer = _Answer(on_text, on_progress)
    body = {"input": call.prompt, "parameters": call.parameters, "stream": True}
    try:
        async with session.post(
            call.url, json=body, headers=call.headers, timeout=aiohttp.ClientTimeout(total=call.timeout_s)
        ) as response:
            if response.status != 200:
                raise InvokeError(_problem(response.status, await response.text()))
            answer.server_timing = response.headers.get("Server-Timing", "")
            async for event, data in _events(response):
                match event:
                    case "comment":
                        answer.comment(str(data["text"]))
                    case "delta":
                        answer.add(str(data.get("text", "")))
                    case "reply":
                        return answer.end(data)
                    case "error":
                        raise InvokeError(_problem(int(data.get("status", 500)), json.dumps(data)))
    except TimeoutError as error:
        raise InvokeError(f"{call.url}: no answer within {call.timeout_s:g} s") from error
    except aiohttp.ClientError as error:
        raise InvokeError(f"{call.url}: {error}") from error
    raise InvokeError(f"{call.url}: the stream ended without a reply")


class _Answer:
    """The output so far, and when it came."""

    def __init__(
        self, on_text: Callable[[str], None] | None, on_progress: Callable[[str], None] | None
    ) -> None:
        self._on_progress = on_progress
        self.server_timing = ""
        self._on_text = on_text
        self._start = perf_counter()
        self._first: float | None = None
        self._pieces: list[str] = []

    def add(self, text: str) -> None:
        """A piece of output has come."""
        if self._first is None:
            self._first = perf_counter() - self._start
        self._pieces.append(text)
        if self._on_text is not None:
            self._on_text(text)

    def comment(self, text: str) -> None:
        """The stream has said something beside its events."""
        if text.startswith(_TIMING):
            self.server_timing = text.removeprefix(_TIMING)
        elif self._on_progress is not None:
            self._on_progress(text)

    def end(self, reply: dict[str, Any]) -> InvokeResult:
        """The reply has come. A stage that generates nothing has sent no pieces before it."""
        if not self._pieces:
            self.add(_text_of(reply.get("output")))
        end = perf_counter() - self._start
        assert self._first is not None
        return InvokeResult("".join(self._pieces), self._first, end, reply, self.server_timing)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The events of a stream: name and JSON object; a comment is the event `comment` with its `text`.

    Raises:
        InvokeError: something else than the stages' events.
    """
    parser = EventParser(with_comments=True)
    try:
        async for piece in response.content.iter_any():
            for event in parser.feed(piece):
                if not event.data:
                    yield "comment", {"text": event.raw.decode().strip().removeprefix(":").strip()}
                    continue
                data = json.loads(event.data)
                if not isinstance(data, dict):
                    raise InvokeError(f"{response.url}: event {event.name!r} is no JSON object")
                yield event.name, data
    except ValueError as error:
        raise InvokeError(f"{response.url}: not a stage's stream of events ({error})") from error


def _text_of(output: Any) -> str:
    """A reply's `output` as text."""
    if isinstance(output, str):
        return output
    if isinstance(output, list):
        return "\n".join(str(message.get("content", "")) for message in output if isinstance(message, dict))
    return ""


def _problem(status: int, body: str) -> str:
    try:
        problem = json.loads(body)
        return f"{status} {problem.get('title', '')}: {problem.get('detail', '')}"
    except (ValueError, AttributeError):
        return f"{status}: {body[:300]}"
