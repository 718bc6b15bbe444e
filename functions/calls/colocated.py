"""A stage that runs in its caller's process: the same work, deadline, problems and timings, without HTTP.

It answers what the stage behind HTTP would. What HTTP alone can do is not there: nothing is retried, since
nothing was lost on the way, and no circuit opens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

from functions.calls.failures import outcome_of
from functions.calls.port import ANSWER_SECONDS, ObserveCall
from functions.calls.replies import StageAnswer
from functions.contract import Delta, Final, StageEvent, StageReply, StageRequest, StageTiming
from functions.http.answer_format import check_input
from functions.problems import ProblemError, problem_of
from functions.stage import RequestContext, Stage, StageRuntime

log = logging.getLogger(__name__)


class ColocatedStage:
    """One stage in this process, as another one calls it.

    Args:
        name: in the agent file.
        stage: does the work; a stage that answers whole requests.
        runtime: of the process.
        observe: called after each call.
    """

    def __init__(self, name: str, stage: Stage, runtime: StageRuntime, observe: ObserveCall) -> None:
        self.name = name
        self.kind = stage.kind
        self._stage = stage
        self._observe = observe
        self._accepts_empty_input = stage.routes(runtime).accepts_empty_input

    async def call(
        self, request: StageRequest, context: RequestContext, *, idempotency_key: str | None = None
    ) -> StageAnswer:
        """See `CalledStage.call`."""
        began = context.now()
        context.waiting_for = self.name
        try:
            with context.span("stage call", "internal", **{"pilotlight.target": self.name}) as traceparent:
                inner = _inner(context, began, traceparent, idempotency_key)
                reply = await self._in_time(request, inner)
        except ProblemError as error:
            self._observe(self.name, outcome_of(error), context.now() - began)
            raise
        seconds = context.now() - began
        self._observe(self.name, "ok", seconds)
        timing = StageTiming(stage=self.name, seconds=seconds, phases=_phases(inner), warmth=inner.warmth)
        return StageAnswer(reply.model_copy(update={"timings": (timing,)}), timing)

    @asynccontextmanager
    async def stream(
        self, request: StageRequest, context: RequestContext
    ) -> AsyncIterator[AsyncGenerator[StageEvent, None]]:
        """See `CalledStage.stream`; a whole reply, since the stage does not stream."""
        called = await self.call(request, context)

        async def events() -> AsyncGenerator[StageEvent, None]:
            yield Delta(called.reply.text)
            yield Final(called.reply)

        yield events()

    def wake(self, headers: Mapping[str, str], *, idle_seconds: float, patience_seconds: float) -> None:
        """See `CalledStage.wake`: it is awake as long as the process is ready."""

    async def close(self) -> None:
        """See `CalledStage.close`."""
        await self._stage.close()

    async def _in_time(self, request: StageRequest, context: RequestContext) -> StageReply:
        left = context.remaining()
        limit = asyncio.timeout(None if left is None else max(0.0, left - ANSWER_SECONDS))
        try:
            async with limit:
                return await self._reply(request, context)
        except TimeoutError:
            raise ProblemError(
                504,
                f"stage {self.name} did not answer before the deadline",
                title="Deadline passed",
                stage=self.name,
            ) from None

    async def _reply(self, request: StageRequest, context: RequestContext) -> StageReply:
        try:
            check_input(request, accepts_empty_input=self._accepts_empty_input)
            reply = await self._stage.invoke(request, context)
            if not isinstance(reply, StageReply):
                raise TypeError(f"stage {self.name} streams, which a stage in its caller's process cannot")  # noqa: TRY301 - one way out for bugs
        except Exception as error:
            problem = problem_of(error, stage=self.name)
            if problem.status == 500 and not isinstance(error, ProblemError):
                log.exception(
                    "unexpected error in the stage",
                    extra={"request_id": context.request_id, "stage": self.name},
                )
            raise ProblemError.of(problem) from error
        return reply


def _inner(
    context: RequestContext, now: float, traceparent: str, idempotency_key: str | None
) -> RequestContext:
    """The request as the stage sees it, as if it had come by HTTP."""
    inner = RequestContext(
        request_id=context.request_id,
        traceparent=traceparent,
        arrived=now,
        deadline=context.deadline,
        deadline_given=True,
        warmth=context.warmth,
        retries_left=context.retries_left,
        clock=context.now,
    )
    inner.caller = context.caller
    inner.spans = context.spans
    inner.idempotency_key = idempotency_key
    return inner


def _phases(context: RequestContext) -> dict[str, float]:
    return {
        timing.name: timing.seconds
        for timing in context.timings
        if timing.seconds is not None and timing.name != "total"
    }
