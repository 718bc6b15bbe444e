"""Passing a request on to another server, and its response back as it arrives.

A plain ASGI application, because it is on the path of every token. Request bodies go up whole (they are
bounded) and response bodies come down piece by piece. The head of a stream is held until its first bytes, so
that `Server-Timing` can say how long the prefill took; the client waits for the first token anyway.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Receive, Scope, Send

from functions.contract import Problem
from functions.engine import EngineError
from functions.http.problem_response import error_member, send_problem
from functions.http.request_body import ClientDisconnectedError
from functions.http.request_state import state_of
from functions.http.work_scope import WorkScope
from functions.problems import ProblemError, problem_of
from functions.stage import RequestContext
from transport.headers import Field
from transport.openai_errors import PREFIX
from transport.sse import encode_event

_EVENT = b"data: "
_DONE = b"data: [DONE]"


@dataclass(frozen=True, slots=True)
class ProxyRequest:
    """A request as its client sent it."""

    method: str
    target: bytes
    """Path and query, as they came."""
    headers: list[Field]
    """All fields, names in lower case."""
    body: bytes


class ProxyHandler(Protocol):
    """Gets a request answered by the server behind the proxy."""

    async def __call__(
        self, request: ProxyRequest, context: RequestContext, downstream: ProxyResponse
    ) -> None:
        """Answer through `downstream`; cancelled when the deadline passes or the client disconnects.

        Raises:
            ProblemError, EngineError, TimeoutError: becomes the response, or the end of a started stream.
        """
        ...


class ReverseProxy:
    """ASGI application around a `ProxyHandler`: deadline, disconnects, errors.

    Args:
        handler: gets each request answered.
        stage: name for problems.
    """

    def __init__(self, handler: ProxyHandler, stage: str) -> None:
        self._handler = handler
        self._stage = stage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        state = state_of(scope)
        request = ProxyRequest(scope["method"], _target(scope), scope["headers"], state.body)
        downstream = ProxyResponse(send)
        try:
            async with WorkScope(receive, state.context, state.active):
                await self._handler(request, state.context, downstream)
        except ClientDisconnectedError:
            return
        except (ProblemError, EngineError, TimeoutError) as error:
            await downstream.send_problem(problem_of(error, stage=self._stage))


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

    async def send_whole(self, status: int, head: list[Field], body: bytes) -> None:
        """Send head and body at once."""
        self._started = True
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def start(self, status: int, head: list[Field]) -> None:
        """Send the head of a stream."""
        self._started = True
        await self._send({"type": "http.response.start", "status": status, "headers": head})

    async def send(self, data: bytes) -> None:
        """Send a piece of the stream."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send_problem(self, problem: Problem) -> None:
        """Answer with a problem; a started stream gets an event with an `error` member, as OpenAI's do."""
        if not self._started:
            await send_problem(self._send, problem, path=PREFIX)
            return
        await self.send(encode_event(json.dumps({"error": error_member(problem)}).encode()))
        await self.end()


def tokens_in(data: bytes) -> int:
    """Tokens whose events begin in these bytes of a stream: engines send an event for each."""
    return data.count(_EVENT) - data.count(_DONE)


def _target(scope: Scope) -> bytes:
    path: bytes = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
    query: bytes = scope.get("query_string") or b""
    return path + b"?" + query if query else path
