"""The rest of the function URL: every path of vLLM's own server, passed through token by token.

A plain ASGI application: it is on the path of every token. Bodies go up whole (they are bounded) and come
down as they arrive. The head of a stream is held until its first bytes, so that `Server-Timing` can say how
long the prefill took; the client waits for the first token anyway.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from functions.contract import MAX_BODY_BYTES, Problem
from functions.door import Receive, Scope, Send, send_problem
from functions.engine import EngineError
from functions.engines.vllm.client import BASE, VllmEngine
from functions.engines.vllm.ladder import Ladder
from functions.invocation import ClientGoneError
from functions.metrics import Metrics
from functions.problems import ProblemError, problem_of
from functions.stage import RequestContext
from functions.timing import Phase, TokenTimes

PREFIXES = ("/v1/", "/v2/", "/inference/v1/", "/cohere/")
PATHS = (
    "/classify",
    "/detokenize",
    "/generative_scoring",
    "/invocations",
    "/load",
    "/pooling",
    "/rerank",
    "/score",
    "/tokenize",
    "/tokenizer_info",
    "/version",
)
"""What of vLLM's server is for clients; its control paths (sleep, collective_rpc, ...) are not passed on."""

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"traceparent",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
    }
)
_NOT_BACK = frozenset(
    {b"connection", b"date", b"keep-alive", b"server", b"transfer-encoding", b"x-request-id"}
)
_ERROR_EVENT = b'data: {"error"'


class Proxy:
    """ASGI application for vLLM's paths.

    Args:
        ladder: gives the engine, or holds the request until there is one.
        metrics: where generations are counted.
        stage: name for problems.
    """

    def __init__(self, ladder: Ladder, metrics: Metrics, stage: str) -> None:
        self._ladder = ladder
        self._metrics = metrics
        self._stage = stage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        context: RequestContext = scope["state"]["context"]
        answer = _Answer(send)
        try:
            body = await _body(receive)
            forward = asyncio.create_task(self._forward(scope, body, context, answer))
            watcher = asyncio.create_task(_until_gone(receive))
            try:
                await asyncio.wait({forward, watcher}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                # A client that is gone aborts the generation: closing the connection to vLLM does it.
                forward.cancel()
                watcher.cancel()
                await asyncio.wait({forward, watcher})
            if not forward.cancelled() and (error := forward.exception()) is not None:
                raise error
        except ClientGoneError:
            return
        except (ProblemError, EngineError, TimeoutError) as error:
            await answer.fail(problem_of(error, stage=self._stage))

    async def _forward(self, scope: Scope, body: bytes, context: RequestContext, answer: _Answer) -> None:
        async with asyncio.timeout(context.remaining()):
            while not await self._attempt(scope, body, context, answer):
                pass

    async def _attempt(self, scope: Scope, body: bytes, context: RequestContext, answer: _Answer) -> bool:
        """Ask the engine; False when it had died before it could be asked, so that the next one can be."""
        async with self._ladder.hot(context) as engine:
            try:
                async with engine.session.request(
                    scope["method"],
                    _url(scope),
                    data=body or None,
                    headers=_headers(scope["headers"], context),
                    allow_redirects=False,
                ) as response:
                    await self._relay(response, engine, context, answer)
            except aiohttp.ClientConnectorError as error:
                # Nothing was sent. The socket is closed before the death of its process is told.
                if await engine.is_dying():
                    return False
                raise engine.died() from error
            except (aiohttp.ClientError, ConnectionError) as error:
                raise engine.died() from error
        return True

    async def _relay(
        self, response: aiohttp.ClientResponse, engine: VllmEngine, context: RequestContext, answer: _Answer
    ) -> None:
        if response.status >= 500 and await engine.is_dying():
            raise engine.died()
        head = [(key, value) for key, value in response.raw_headers if key.lower() not in _NOT_BACK]
        content = response.content
        if response.content_type != "text/event-stream":
            body = await response.read()
            engine.last_heard = context.now()
            await answer.whole(response.status, head, body)
            return
        instants: list[float] = []
        while data := await content.readany():
            if _ERROR_EVENT in data and await engine.is_dying():
                raise engine.died()
            if not instants:
                context.ttft = context.now() - context.arrived
                context.record(Phase.PREFILL, context.ttft)
                await answer.begin(response.status, head)
            now = engine.last_heard = context.now()
            instants.append(now)
            await answer.more(data)
        await answer.end()
        self._metrics.generation(TokenTimes(context.arrived, tuple(instants)), None)


class _Answer:
    """The answer so far, and how it can still go wrong."""

    __slots__ = ("_begun", "_send")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False

    async def whole(self, status: int, head: list[tuple[bytes, bytes]], body: bytes) -> None:
        self._begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def begin(self, status: int, head: list[tuple[bytes, bytes]]) -> None:
        self._begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": head})

    async def more(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def fail(self, problem: Problem) -> None:
        """A problem; within a stream as OpenAI's clients expect it, an event with an `error` member."""
        if not self._begun:
            await send_problem(self._send, problem)
            return
        error = {
            "message": problem.detail,
            "type": problem.title,
            "code": problem.status,
            "retryable": problem.retryable,
        }
        await self.more(b"data: " + json.dumps({"error": error}).encode() + b"\n\n")
        await self.end()


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise ProblemError(413, f"the body has more than {MAX_BODY_BYTES} bytes, which are allowed")
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _url(scope: Scope) -> URL:
    path = scope.get("raw_path") or scope["path"].encode()
    query = scope.get("query_string") or b""
    return URL(
        BASE + path.partition(b"?")[0].decode("latin-1") + (f"?{query.decode('latin-1')}" if query else ""),
        encoded=True,
    )


def _headers(headers: Iterable[tuple[bytes, bytes]], context: RequestContext) -> CIMultiDict[str]:
    passed: CIMultiDict[str] = CIMultiDict()
    for key, value in headers:
        if key not in _HOP_BY_HOP:
            passed.add(key.decode("latin-1"), value.decode("latin-1"))
    passed["X-Request-Id"] = context.request_id
    passed["traceparent"] = context.traceparent
    return passed


def add_to(app: Any, proxy: Proxy) -> None:
    """Route vLLM's paths of a FastAPI application to the proxy."""
    from starlette.routing import Route  # noqa: PLC0415 - what FastAPI itself routes with

    for prefix in PREFIXES:
        app.router.routes.append(Route(prefix + "{path:path}", endpoint=proxy, include_in_schema=False))
    for path in PATHS:
        app.router.routes.append(Route(path, endpoint=proxy, include_in_schema=False))
