"""Passing a request on to another server, and its response back as it arrives.

A plain ASGI application, because it is on the path of every token. Request bodies go up whole (they are
bounded) and response bodies come down piece by piece. The head of a stream is held until its first bytes, so
that `Server-Timing` can say how long the prefill took; the client waits for the first token anyway.
"""

from __future__ import annotations

import asyncio
import json
from typing import Protocol

from pydantic import JsonValue

from functions.contract import MAX_BODY_BYTES, Problem
from functions.engine import EngineError
from functions.http.invocation import ClientDisconnectedError
from functions.http.middleware import Receive, Scope, Send, send_problem
from functions.http.problems import ProblemError, problem_of
from functions.stage import RequestContext

_EVENT = b"data: "
_DONE = b"data: [DONE]"


class ProxyHandler(Protocol):
    """Gets a request answered by the server behind the proxy."""

    async def __call__(
        self, scope: Scope, body: bytes, context: RequestContext, downstream: ProxyResponse
    ) -> None:
        """Answer through `downstream`; cancelled when the client disconnects.

        Raises:
            ProblemError, EngineError, TimeoutError: becomes the response, or the end of a started stream.
        """
        ...


class ReverseProxy:
    """ASGI application around a `ProxyHandler`: body, deadline, disconnects, errors.

    Args:
        handler: gets each request answered.
        stage: name for problems.
    """

    def __init__(self, handler: ProxyHandler, stage: str) -> None:
        self._handler = handler
        self._stage = stage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        context: RequestContext = scope["state"]["context"]
        downstream = ProxyResponse(send)
        try:
            body = await _body(receive)
            await self._in_time(scope, body, context, receive, downstream)
        except ClientDisconnectedError:
            return
        except (ProblemError, EngineError, TimeoutError) as error:
            await downstream.send_problem(problem_of(error, stage=self._stage))

    async def _in_time(
        self, scope: Scope, body: bytes, context: RequestContext, receive: Receive, downstream: ProxyResponse
    ) -> None:
        """Run the handler until it has answered, the deadline passes or the client disconnects.

        In this task, not in one of its own: every switch between tasks is time before the first token.
        """
        watch = None
        try:
            async with asyncio.timeout(context.remaining()) as limit:
                watch = asyncio.create_task(_until_gone(receive, limit))
                try:
                    await self._handler(scope, body, context, downstream)
                finally:
                    watch.cancel()
        except TimeoutError:
            # A client that is gone aborts the generation: closing the connection to the engine does it.
            if watch is not None and watch.done() and not watch.cancelled():
                raise ClientDisconnectedError from None
            raise


class ProxyResponse:
    """The response to the client: whether it has started, and how it ends if something goes wrong."""

    __slots__ = ("_send", "_started")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False

    @property
    def started(self) -> bool:
        """Whether the head is sent."""
        return self._started

    async def send_whole(self, status: int, head: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Head and body at once."""
        self._started = True
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def start(self, status: int, head: list[tuple[bytes, bytes]]) -> None:
        """The head of a stream."""
        self._started = True
        await self._send({"type": "http.response.start", "status": status, "headers": head})

    async def send(self, data: bytes) -> None:
        """A piece of it."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """Its end."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send_problem(self, problem: Problem) -> None:
        """A problem; within a stream as OpenAI's clients expect it, an event with an `error` member."""
        error: dict[str, JsonValue] = {
            "message": problem.detail,
            "type": problem.title,
            "code": problem.status,
            "retryable": problem.retryable,
        }
        if not self._started:
            # Beside the problem's own members, the one in which clients of this API look for the reason.
            await send_problem(self._send, problem.model_copy(update={"error": error}))
            return
        await self.send(b"data: " + json.dumps({"error": error}).encode() + b"\n\n")
        await self.end()


def tokens_in(data: bytes) -> int:
    """Tokens whose events begin in these bytes of a stream: engines send an event for each."""
    return data.count(_EVENT) - data.count(_DONE)


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise ProblemError(413, f"the body has more than {MAX_BODY_BYTES} bytes, which are allowed")
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _until_gone(receive: Receive, limit: asyncio.Timeout) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    limit.reschedule(asyncio.get_running_loop().time())
