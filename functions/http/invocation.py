"""A request for a stage's work: from the body's bytes to the reply or the stream of events."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from starlette.types import Receive, Scope, Send

from functions.contract import (
    Delta,
    Failure,
    Final,
    Problem,
    StageEvent,
    StageReply,
    StageRequest,
    StageTiming,
    Usage,
)
from functions.http.answer_format import AnswerFormat
from functions.http.problem_response import send_problem
from functions.http.request_body import ClientDisconnectedError
from functions.http.request_state import state_of
from functions.http.work_scope import WorkScope
from functions.metrics import Metrics
from functions.problems import ProblemError, problem_of
from functions.stage import RequestContext, Stage
from functions.text.refusals import declines
from functions.timing import TokenTimes

log = logging.getLogger(__name__)


class Invocation:
    """The answer to one request; an ASGI application.

    Args:
        stage: does the work.
        metrics: where generations are counted.
        context: of the request.
        answer_format: how the request is written, and the answer.
    """

    def __init__(
        self, stage: Stage, metrics: Metrics, context: RequestContext, answer_format: AnswerFormat
    ) -> None:
        self._format = answer_format
        self._stage = stage
        self._context = context
        self._metrics = metrics
        self._head_sent = False
        self._complete = False
        self._instants: list[float] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Parse, work, answer. Nothing is raised that the stage raised: it becomes the answer."""
        try:
            state = state_of(scope)
            request = self._format.parse(state.body, request_id=self._context.request_id)
            async with WorkScope(receive, self._context, state.active):
                await self._work(request, send)
        except ClientDisconnectedError:
            return
        except Exception as error:  # noqa: BLE001 - any bug of a stage must still be answered
            await self._fail(self._problem(error), send)

    async def _work(self, request: StageRequest, send: Send) -> None:
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
            elif isinstance(event, Final):
                body = self._format.whole(self._finish(event.reply))
                headers = [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode()),
                ]
                self._head_sent = self._complete = True
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
                # Until the reply says how many, a piece counts as a token: the stream may be cut off.
                self._context.usage = Usage(completion_tokens=len(self._instants))
            if isinstance(event, Final):
                event = Final(self._finish(event.reply))  # noqa: PLW2901 - the same event, with its timings
            if not self._head_sent:
                self._head_sent = True
                await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            ended = isinstance(event, Final | Failure)
            if piece := self._format.event(event):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            if ended:
                break
        if not ended:
            raise ProblemError(500, "the stage ended its stream without a reply")
        self._complete = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _finish(self, reply: StageReply) -> StageReply:
        """The reply with this stage's timing added, and the generation counted."""
        times = TokenTimes(self._context.arrived, tuple(self._instants))
        ttft = self._context.ttft if self._context.ttft is not None else times.ttft
        self._context.usage = reply.usage
        if self._stage.kind == "generate":
            self._metrics.generation(times, reply.usage, refused=declines(reply.text))
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

    def _problem(self, error: Exception) -> Problem:
        problem = problem_of(error, stage=self._stage.name)
        if problem.status == 500 and not isinstance(error, ProblemError):
            log.error(
                "unexpected error in the stage",
                exc_info=error,
                extra={"request_id": self._context.request_id, "stage": self._stage.name},
            )
        return problem

    async def _fail(self, problem: Problem, send: Send) -> None:
        if self._complete:
            return  # interrupted while the last bytes were being sent
        if not self._head_sent:
            await send_problem(send, problem, path=self._format.path)
            return
        end = self._format.event(Failure(problem))
        await send({"type": "http.response.body", "body": end, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Some proxies would otherwise collect a stream before they pass it on.
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
