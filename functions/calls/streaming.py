"""A stream of events from the model through the stages behind it.

Each step is an asynchronous generator over the events of the one before, so a chain of any length is a
composition. Closing the last closes them all, down to the connection to the model, which ends the generation.

The `data` of a reply on the way is an object with each stage's data under its name.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeAlias

from pydantic import JsonValue

from functions.calls.port import CalledStage
from functions.calls.replies import cut_off
from functions.contract import (
    Delta,
    Failure,
    Final,
    FinishReason,
    Input,
    StageEvent,
    StageReply,
    StageRequest,
    StageTiming,
    StreamSegment,
    ToolStart,
)
from functions.dialogue import Message, Role
from functions.stage import RequestContext

BUSY_SHARE = 4
"""A stream that is busy with its segments for so long pauses this many times as long."""
BUSY_SECONDS = 0.2
"""From one segment to the next at most, however busy."""

Events: TypeAlias = AsyncGenerator[StageEvent, None]


def next_request(
    request: StageRequest, value: Input, *, stream: bool = False, segment: StreamSegment | None = None
) -> StageRequest:
    """The client's request for the next stage, whose input is the last stage's output."""
    return request.model_copy(update={"input": value, "stream": stream, "segment": segment})


async def from_model(
    client: CalledStage, request: StageRequest, context: RequestContext, unfinished: list[StageTiming]
) -> Events:
    """The model's events.

    Args:
        client: the stage that generates.
        request: what it is asked, with `stream`.
        context: the client's request.
        unfinished: gets the timing if the stream is closed before its end.
    """
    began = context.now()
    ttft: float | None = None
    ended = False
    try:
        async with client.stream(request, context) as events, aclosing(events):
            async for event in events:
                ended = isinstance(event, Final | Failure)
                if ttft is None and not ended:
                    ttft = context.now() - began
                if isinstance(event, Final):
                    yield Final(event.reply.model_copy(update={"data": _named(client, event.reply, None)}))
                else:
                    yield event
                if ended:
                    return
    finally:
        if not ended:
            unfinished.append(StageTiming(stage=client.name, seconds=context.now() - began, ttft=ttft))


async def at_the_end(
    client: CalledStage, events: Events, request: StageRequest, context: RequestContext
) -> Events:
    """The events behind a stage that needs the whole text, of which nothing comes before it is complete."""
    async with aclosing(events) as stream:
        async for event in stream:
            if isinstance(event, ToolStart):
                yield event
            if isinstance(event, Failure):
                yield event
                return
            if isinstance(event, Final):
                called = await client.call(next_request(request, event.reply.output), context)
                yield Delta(called.reply.text)
                yield Final(_merged(client, event.reply, called.reply, called.timing))
                return


async def by_segments(
    client: CalledStage,
    events: Events,
    request: StageRequest,
    context: RequestContext,
    *,
    pause: float = 0.0,
) -> Events:
    """The events behind a stage that takes the stream segment by segment.

    While one segment is under way, the text of the next one collects. Where segments take long, because the
    stage or this process has much to do, they become fewer and longer (`BUSY_SHARE`), so that many streams
    at once do not spend their time on each other's segments. A stage that ends the text early (finish reason
    `stop`) stops the model.

    Args:
        client: the stage.
        events: of the stage before.
        request: the client's request.
        context: of the request.
        pause: least seconds from one post to the next; the first and the last are posted at once.
    """
    inbox = _Inbox(client.name)
    reader = asyncio.create_task(inbox.fill(events))
    out: list[str] = []
    carry: dict[str, JsonValue] | None = None
    seconds, attempts, late = 0.0, 0, 0.0
    try:
        while True:
            text, end = await inbox.take()
            posted = context.now()
            for begun in inbox.take_tools():
                yield begun
            if not text and end is None:
                continue
            if isinstance(end, Failure) and not text:
                yield end
                return
            final = isinstance(end, Final)
            segment = StreamSegment(carry=carry, final=final)
            value = _with_calls(text, end.reply) if isinstance(end, Final) else text
            called = await client.call(next_request(request, value, segment=segment), context)
            seconds += called.timing.seconds
            attempts += called.timing.attempts
            carry = called.reply.carry
            if called.reply.text:
                out.append(called.reply.text)
                yield Delta(called.reply.text)
            if isinstance(end, Final):
                timing = called.timing.model_copy(update={"seconds": seconds, "attempts": attempts})
                output = _with_calls("".join(out), end.reply)
                reply = called.reply.model_copy(update={"output": output})
                yield Final(_merged(client, end.reply, reply, timing))
                return
            if called.reply.finish_reason is FinishReason.STOP:
                # One more post brings out what the stage still holds, and its data.
                reader.cancel()
                await asyncio.wait({reader})
                reply = StageReply(
                    id=request.id, stage=client.name, output="", finish_reason=FinishReason.STOP
                )
                inbox.end = Final(reply)
                continue
            busy = BUSY_SHARE * (called.timing.seconds + late)
            due = posted + max(pause, min(busy, BUSY_SECONDS))
            await inbox.wait_for_end(due - context.now())
            late = max(0.0, context.now() - due)
    finally:
        reader.cancel()
        await asyncio.wait({reader})


class _Inbox:
    """The part of a stream that has arrived and was not taken yet."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._texts: list[str] = []
        self._tools: list[ToolStart] = []
        self.end: Final | Failure | None = None
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    async def fill(self, events: Events) -> None:
        """Read to the end. Exceptions are kept for `take`."""
        try:
            async with aclosing(events) as stream:
                async for event in stream:
                    if isinstance(event, Delta):
                        self._texts.append(event.text)
                    elif isinstance(event, ToolStart):
                        self._tools.append(event)
                    else:
                        self.end = event
                    self._changed.set()
            if self.end is None:
                self.end = Failure(cut_off(self._stage, "it ended without a reply"))
        except Exception as error:  # noqa: BLE001 - raised by `take`, in the task that waits for the text
            self._error = error
        finally:
            self._changed.set()
            self._ended.set()

    async def wait_for_end(self, seconds: float) -> None:
        """Wait for the end of the stream, at most so long, while text collects."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._ended.wait()

    async def take(self) -> tuple[str, Final | Failure | None]:
        """All text that has arrived, waiting for a piece, a call or the end; and the end if it has come.

        Raises:
            Exception: of the stream.
        """
        while not (self._texts or self._tools or self.end or self._error):
            await self._changed.wait()
            self._changed.clear()
        if self._error is not None:
            raise self._error
        text, self._texts = "".join(self._texts), []
        return text, self.end

    def take_tools(self) -> list[ToolStart]:
        """The calls of tools that have begun and were not taken yet."""
        begun, self._tools = self._tools, []
        return begun


def _with_calls(text: str, reply: StageReply) -> Input:
    """A streamed text, with the calls of tools that the model asked for beside it."""
    if not reply.tool_calls:
        return text
    return (Message(role=Role.ASSISTANT, content=text or None, tool_calls=reply.tool_calls),)


def _named(client: CalledStage, reply: StageReply, before: JsonValue) -> dict[str, JsonValue]:
    known = before if isinstance(before, dict) else {}
    return known if reply.data is None else {**known, client.name: reply.data}


def _merged(client: CalledStage, before: StageReply, reply: StageReply, timing: StageTiming) -> StageReply:
    """The reply of the stages before, combined with that of the stage behind them."""
    return reply.model_copy(
        update={
            "usage": before.usage.model_copy(update=reply.usage.model_dump(exclude_none=True)),
            "finish_reason": reply.finish_reason or before.finish_reason,
            "timings": (*before.timings, timing),
            "data": _named(client, reply, before.data),
        }
    )
