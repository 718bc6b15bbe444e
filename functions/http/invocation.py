"""One `POST /invoke`: from the body's bytes to the reply or the stream of events.

Owns what can end an answer early: the client going away, the deadline, a drain that has run out of patience.
Each cancels the stage's work; the last two still tell the client.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from pydantic import ValidationError

from functions.contract import (
    MAX_BODY_BYTES,
    Delta,
    Failure,
    Final,
    Problem,
    StageEvent,
    StageReply,
    StageRequest,
    StageTiming,
    encode_event,
)
from functions.http.middleware import Receive, Scope, Send, send_problem
from functions.http.problems import ProblemError, field_errors, invalid, problem_of
from functions.metrics import Metrics
from functions.stage import RequestContext, Stage
from functions.timing import TokenTimes

log = logging.getLogger(__name__)


async def read_body(scope: Scope, receive: Receive, *, limit: int = MAX_BODY_BYTES) -> bytes:
    """The request's body.

    Raises:
        ProblemError: 413 past `limit` bytes, 415 for another content type than JSON.
        ClientDisconnectedError: the client went away while sending.
    """
    headers = dict(scope["headers"])
    content_type = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
    if content_type != b"application/json":
        shown = content_type.decode("latin-1")[:80]
        raise ProblemError(415, f"Content-Type = {shown!r}, must be application/json")
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit:
        raise ProblemError(413, f"the body has {int(declared)} bytes, at most {limit} are allowed")
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        body += message.get("body", b"")
        if len(body) > limit:
            raise ProblemError(413, f"the body has more than {limit} bytes, which are allowed")
        if not message.get("more_body", False):
            return bytes(body)


class ClientDisconnectedError(Exception):
    """The client is not there any more; there is nobody to answer."""


def parse_request(body: bytes, *, request_id: str) -> StageRequest:
    """The request in a body; one without an id takes the request's.

    Raises:
        ProblemError: 400 for what is not JSON, 422 for what does not fit the contract, naming the field.
    """
    try:
        request = StageRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise ProblemError(
                400, f"the body is not JSON: {first['msg']}", errors=field_errors([{**first, "input": None}])
            ) from None
        raise invalid(error) from None
    if "id" not in request.model_fields_set:
        return request.model_copy(update={"id": request_id})
    return request


class Invocation:
    """The answer to one request.

    Args:
        stage: who works.
        context: the request's.
        metrics: where generations are counted.
    """

    def __init__(self, stage: Stage, context: RequestContext, metrics: Metrics) -> None:
        self._stage = stage
        self._context = context
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._problem: Problem | None = None
        self._aborted = False
        self._head_sent = False
        self._instants: list[float] = []

    def abort(self, problem: Problem | None) -> None:
        """Stop the work; tell the client `problem`, or nothing if it is gone."""
        if self._task is not None and not self._task.done() and not self._aborted:
            self._aborted, self._problem = True, problem
            self._task.cancel()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, work, answer. Raises nothing that the stage raised: it becomes the answer."""
        try:
            request = parse_request(await read_body(scope, receive), request_id=self._context.request_id)
        except ProblemError as error:
            await send_problem(send, problem_of(error, stage=self._stage.name))
            return
        except ClientDisconnectedError:
            return
        self._task = asyncio.create_task(self._work(request, send))
        watcher = asyncio.create_task(self._watch(receive))
        try:
            await asyncio.wait({self._task})
        finally:
            # Cancelled itself (a forced stop of the server), it takes the work with it.
            self._task.cancel()
            watcher.cancel()
            await asyncio.wait({self._task, watcher})
        if self._task.cancelled():
            await self._tell(send, self._problem)
        elif (failure := self._task.exception()) is not None:
            if not isinstance(failure, Exception):
                raise failure
            await self._tell(send, self._foreseen(failure))

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.abort(None)

    async def _work(self, request: StageRequest, send: Send) -> None:
        async with asyncio.timeout(self._context.remaining()) as limit:
            now = asyncio.get_running_loop().time
            self._context.on_deadline(lambda seconds: limit.reschedule(now() + seconds))
            result = await self._stage.invoke(request, self._context)
            events = _single(result) if isinstance(result, StageReply) else _iterate(result)
            async with aclosing(events) as stream:
                if request.stream:
                    await self._send_stream(stream, send)
                else:
                    await self._send_reply(stream, send)

    async def _send_reply(self, events: AsyncIterator[StageEvent], send: Send) -> None:
        async for event in events:
            if isinstance(event, Delta):
                self._instants.append(self._context.now())
            elif isinstance(event, Failure):
                raise ProblemError.of(event.problem)
            else:
                body = self._finish(event.reply).model_dump_json(exclude_none=True).encode()
                headers = [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode()),
                ]
                self._head_sent = True
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": body, "more_body": False})
                return
        raise ProblemError(500, "the stage ended without a reply")

    async def _send_stream(self, events: AsyncIterator[StageEvent], send: Send) -> None:
        ended = False
        async for event in events:
            if isinstance(event, Failure) and not self._head_sent:
                raise ProblemError.of(event.problem)
            if isinstance(event, Delta):
                self._instants.append(self._context.now())
            if isinstance(event, Final):
                event = Final(self._finish(event.reply))  # noqa: PLW2901 - the same event, with its timings
            if not self._head_sent:
                self._head_sent = True
                await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            ended = not isinstance(event, Delta)
            await send({"type": "http.response.body", "body": encode_event(event), "more_body": True})
            if ended:
                break
        if not ended:
            raise ProblemError(500, "the stage ended its stream without a reply")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _finish(self, reply: StageReply) -> StageReply:
        """The reply with this stage's timing added, and the generation counted."""
        times = TokenTimes(self._context.arrived, tuple(self._instants))
        ttft = self._context.ttft if self._context.ttft is not None else times.ttft
        if self._stage.kind == "generate":
            self._metrics.generation(times, reply.usage)
        phases = {
            timing.name: timing.seconds
            for timing in self._context.timings
            if timing.seconds is not None and timing.name != "total"
        }
        own = StageTiming(
            stage=self._stage.name,
            seconds=self._context.now() - self._context.arrived,
            phases=phases,
            ttft=ttft if self._stage.kind == "generate" else None,
            warmth=self._context.warmth,
        )
        return reply.model_copy(update={"timings": (*reply.timings, own)})

    def _foreseen(self, error: Exception) -> Problem:
        problem = problem_of(error, stage=self._stage.name)
        if problem.status == 500 and not isinstance(error, ProblemError):
            log.error(
                "unforeseen error in the stage",
                exc_info=error,
                extra={"request_id": self._context.request_id, "stage": self._stage.name},
            )
        return problem

    async def _tell(self, send: Send, problem: Problem | None) -> None:
        if problem is None:
            return
        if not self._head_sent:
            await send_problem(send, problem)
            return
        await send({"type": "http.response.body", "body": encode_event(Failure(problem)), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Proxies that would hold a stream back until it is long enough.
    (b"x-accel-buffering", b"no"),
]


async def _single(reply: StageReply) -> AsyncGenerator[StageEvent, None]:
    yield Final(reply)


async def _iterate(events: AsyncIterator[StageEvent]) -> AsyncGenerator[StageEvent, None]:
    """Any iterator as a generator; closing it closes the iterator where that can be closed."""
    try:
        async for event in events:
            yield event
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
