"""A node of the graph that is an agent: its loop runs in the orchestrate stage, where a run's state is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from pydantic import JsonValue

from functions.calls.streaming import Events, next_request
from functions.contract import (
    Delta,
    Failure,
    Final,
    FinishReason,
    Input,
    Parameters,
    StageReply,
    StageRequest,
    StageTiming,
    ToolStart,
    Usage,
)
from functions.dialogue import Message, Role, ToolCall
from functions.orchestration.agent_loop.config import LoopConfig
from functions.orchestration.agent_loop.loop import (
    Bound,
    LoopState,
    begin,
    between,
    bound_reached,
    explanation,
    foreign_calls,
    turn_parameters,
)
from functions.orchestration.nodes import Node
from functions.orchestration.steps import PlainSteps, StepRefusedError, Steps
from functions.orchestration.tools.results import ToolResult, failed
from functions.orchestration.tools.toolbox import Toolbox
from functions.problems import ProblemError
from functions.stage import RequestContext

KIND = "agent"

_Pieces: TypeAlias = AsyncGenerator[Delta | ToolStart | StageReply, None]


@dataclass(slots=True)
class _Work:
    """One request in the loop."""

    request: StageRequest
    context: RequestContext
    steps: Steps
    step: str
    began: float
    live: bool
    """The model's pieces are passed on as they come; nothing is recorded."""
    timings: list[StageTiming] = field(default_factory=list)
    calls: list[JsonValue] = field(default_factory=list)
    missing: Mapping[str, str] = field(default_factory=dict)


class AgentNode:
    """An agent.

    Args:
        name: in the graph.
        config: of the agent.
        model: the node that it asks.
        toolbox: what it can call.
    """

    kind = KIND

    def __init__(self, name: str, config: LoopConfig, model: Node, toolbox: Toolbox) -> None:
        self.name = name
        self._config = config
        self._model = model
        self._toolbox = toolbox

    async def run(
        self, request: StageRequest, context: RequestContext, steps: Steps, step: str
    ) -> StageReply:
        """See `Node.run`: a step for each turn of the model and for each call of a tool."""
        work = _Work(request, context, steps, step, context.now(), live=False)
        async with aclosing(self._loop(work)) as pieces:
            async for piece in pieces:
                if isinstance(piece, StageReply):
                    return piece
        raise RuntimeError("the loop ended without a reply")

    async def stream(
        self, request: StageRequest, context: RequestContext, unfinished: list[StageTiming]
    ) -> Events:
        """See `Node.stream`: the text of all turns, and the calls that are the client's own."""
        work = _Work(request, context, PlainSteps(), self.name, context.now(), live=True)
        ended = False
        try:
            async with aclosing(self._loop(work)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, StageReply):
                        ended = True
                        yield Final(piece.model_copy(update={"data": {self.name: piece.data}}))
                        return
                    yield piece
        except ProblemError as error:
            ended = True
            yield Failure(error.problem)
        finally:
            if not ended:
                unfinished.append(StageTiming(stage=self.name, seconds=context.now() - work.began))

    def wake(self, context: RequestContext) -> None:
        """See `Node.wake`: the model, and what its tools need from the begin of a request."""
        self._model.wake(context)
        self._toolbox.prepare(context)

    async def close(self) -> None:
        """See `Node.close`. The model's node is closed by whoever opened it."""
        await self._toolbox.close()

    async def _loop(self, work: _Work) -> _Pieces:
        """Pieces of the answer while it is made, and last the reply."""
        bounds = self._config.bounds
        # The first node of a graph is not woken ahead, but asked at once.
        self._toolbox.prepare(work.context)
        offer = await self._toolbox.offer(work.context)
        work.missing = offer.missing
        own = {tool.function.name for tool in offer.tools}
        self._check_names(work.request.parameters, own)
        state = begin(self._config, work.request.input)
        while True:
            bound = bound_reached(bounds, state, seconds=work.context.now() - work.began)
            if bound is not None:
                yield self._stopped(work, state, bound)
                return
            parameters = turn_parameters(self._config, work.request.parameters, offer.tools, state)
            asked = next_request(work.request, state.messages, stream=True)
            asked = asked.model_copy(update={"parameters": parameters})
            reply: StageReply | None = None
            begun = False
            try:
                async with aclosing(self._turn(work, asked, state.turns + 1, own)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, StageReply):
                            reply = piece
                        elif isinstance(piece, Delta) and not begun:
                            begun = True
                            yield Delta(between(state.said, piece.text) + piece.text)
                        else:
                            yield piece
                assert reply is not None
                state = state.after_turn(reply)
                foreign = foreign_calls(reply.tool_calls, work.request.parameters.tools, own)
                if not reply.tool_calls or foreign:
                    yield self._answered(work, state, reply, foreign)
                    return
                results = await self._call_tools(work, reply.tool_calls, state.turns)
            except _TooLongError:
                yield self._stopped(work, state, Bound.SECONDS)
                return
            state = state.with_results(reply.tool_calls, [result.text for result in results])

    async def _turn(self, work: _Work, asked: StageRequest, turn: int, own: set[str]) -> _Pieces:
        """One turn of the model."""
        if not work.live:
            yield await work.steps.run(f"{work.step}/{turn}", lambda _key: self._whole_turn(work, asked, own))
            return
        foreign = 0
        async for piece in self._ask(work, asked, own):
            if not isinstance(piece, ToolStart):
                yield piece
            elif piece.name not in own:
                yield replace(piece, index=foreign)
                foreign += 1

    async def _whole_turn(self, work: _Work, asked: StageRequest, own: set[str]) -> StageReply:
        """The model's reply; an answer that was cut off is asked for again once."""
        for last in (False, True):
            try:
                async with aclosing(self._ask(work, asked, own)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, StageReply):
                            return piece
            except _CutOffError as error:
                if last or not error.problem.retryable or not work.context.take_retry():
                    raise
        raise RuntimeError("the model ended without a reply")

    async def _ask(self, work: _Work, asked: StageRequest, own: set[str]) -> _Pieces:
        """The model's pieces and its reply; the tools that it begins to call are woken meanwhile."""
        events = self._model.stream(asked, work.context, work.timings)
        async with aclosing(events) as stream:
            while True:
                async with self._in_time(work):
                    event = await anext(stream)
                if isinstance(event, Failure):
                    raise _CutOffError.of(event.problem)
                if isinstance(event, Final):
                    work.timings.extend(event.reply.timings)
                    yield event.reply.model_copy(update={"data": None})
                    return
                if isinstance(event, ToolStart) and event.name in own:
                    self._toolbox.wake(event.name, work.context)
                yield event

    async def _call_tools(self, work: _Work, calls: tuple[ToolCall, ...], turn: int) -> list[ToolResult]:
        """The results of a turn's calls, which are made side by side."""
        slots = asyncio.Semaphore(self._config.parallel)

        async def one(at: int, call: ToolCall) -> ToolResult:
            began = work.context.now()

            async def make(key: str) -> StageReply:
                with work.context.span("tool call", "client", **{"pilotlight.target": call.function.name}):
                    result = await self._toolbox.call(call, work.context, idempotency_key=key or None)
                return result.reply(work.request.id, call.function.name)

            try:
                async with slots, self._in_time(work):
                    reply = await work.steps.run(f"{work.step}/{turn}/{call.function.name}/{at}", make)
                result = ToolResult.of(reply)
            except StepRefusedError as error:
                # The model may have another way, or a word for the user.
                result = failed(error.problem.detail)
            seconds = work.context.now() - began
            work.timings.append(StageTiming(stage=call.function.name, seconds=seconds))
            work.calls.append({"tool": call.function.name, "turn": turn, "error": result.error})
            return result

        tasks = [asyncio.create_task(one(at, call)) for at, call in enumerate(calls)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    @asynccontextmanager
    async def _in_time(self, work: _Work) -> AsyncIterator[None]:
        """Ends what is inside when the loop's seconds have passed."""
        bound = self._config.bounds.seconds
        left = None if bound is None else max(0.0, work.began + bound - work.context.now())
        try:
            async with asyncio.timeout(left) as limit:
                yield
        except TimeoutError:
            if limit.expired():
                raise _TooLongError from None
            raise

    def _check_names(self, asked: Parameters, own: set[str]) -> None:
        both = [tool.function.name for tool in asked.tools if tool.function.name in own]
        if both:
            raise ProblemError(
                422,
                f"parameters.tools: {both[0]!r} is a tool of the agent {self.name!r}, must have another name",
                stage=self.name,
            )

    def _answered(
        self, work: _Work, state: LoopState, reply: StageReply, foreign: tuple[ToolCall, ...]
    ) -> StageReply:
        """The model's answer, or its calls of the client's tools."""
        output: Input = state.said
        if foreign:
            output = (Message(role=Role.ASSISTANT, content=state.said or None, tool_calls=foreign),)
        return self._reply(work, state, output, reply.finish_reason, None)

    def _stopped(self, work: _Work, state: LoopState, bound: Bound) -> StageReply:
        output = state.said or explanation(bound, self._config.bounds)
        return self._reply(work, state, output, FinishReason.LENGTH, bound)

    def _reply(
        self, work: _Work, state: LoopState, output: Input, reason: FinishReason | None, bound: Bound | None
    ) -> StageReply:
        data: dict[str, JsonValue] = {"turns": state.turns, "calls": work.calls}
        if bound is not None:
            data["bound"] = bound.value
        if work.missing:
            data["missing"] = dict(work.missing)
        return StageReply(
            id=work.request.id,
            stage=self.name,
            output=output,
            data=data,
            finish_reason=reason,
            usage=state.usage or Usage(),
            timings=tuple(work.timings),
        )


class _CutOffError(ProblemError):
    """The model's answer broke off after it had begun."""


class _TooLongError(Exception):
    """The loop's seconds have passed."""
