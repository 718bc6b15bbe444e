"""The contract between stages: what every stage accepts at `POST /invoke` and what it answers.

One shape for all stages, so that a chain is a fold: the next request's `input` is the last reply's `output`.
A model that calls tools answers with a message instead of a text (`functions.dialogue`).
Strict and bounded: unknown members are refused, sizes have limits, and nothing is coerced.

Streaming (`"stream": true`) is server-sent events, one JSON object per event:

    event: delta    data: {"text": "..."}          zero or more
    event: tool     data: {"index": 0, "id": "...", "name": "..."}   the model begins a call of a tool
    event: reply    data: StageReply               exactly one at the end of a good stream
    event: error    data: problem+json             instead of `reply`, at the end of a failed one

A stream that ends without `reply` or `error` was cut off and must be treated as failed.

A stage that transforms text (postprocess) also works on a stream, without holding a connection open: its
caller posts the stream segment by segment with `segment` set, and hands the `carry` of each reply to the
next request. The stage keeps nothing between two posts, so a segment can be retried and can reach any
replica.
"""

import json
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, JsonValue, Tag

from functions.dialogue import (
    MAX_MESSAGES,
    MAX_TOOLS,
    Message,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    Wire,
    is_empty,
)
from transport import sse

MAX_BODY_BYTES = 8 * 1024 * 1024
"""Bytes of one request body."""

StopSequence: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]


def _kind_of_input(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    return "<messages>" if isinstance(value, (list, tuple)) else None


Messages: TypeAlias = Annotated[
    tuple[Message, ...], Field(min_length=1, max_length=MAX_MESSAGES, strict=False)
]
Input: TypeAlias = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[Messages, Tag("<messages>")],
    Discriminator(
        _kind_of_input,
        custom_error_type="input_type",
        custom_error_message="must be a text or a list of messages",
    ),
]
"""A text (completed as it is) or a conversation (laid out by the model's chat template).

The tags stand in the path of pydantic's errors, in angle brackets so that they can be told from members.
"""


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Parameters(Wire):
    """How to generate. None stands for the engine's own default."""

    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Tokens to generate at most."""
    min_tokens: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Tokens to generate before the end of the text is allowed."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Annotated[
        tuple[StopSequence, ...],
        Field(max_length=16, strict=False),
        BeforeValidator(_as_list, json_schema_input_type=StopSequence | list[StopSequence]),
    ] = ()
    """Texts that end the output and are not part of it; one of them may be given as a text."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    ignore_eos: bool = False
    """Generate exactly `max_tokens`, for measurements."""
    tools: Annotated[tuple[Tool, ...], Field(max_length=MAX_TOOLS, strict=False, exclude_if=is_empty)] = ()
    """What the model may call; for a conversation."""
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """Whether one answer may call several tools."""
    response_format: dict[str, JsonValue] | None = None
    """The shape of the answer as OpenAI's API has it: `{"type": "json_schema", "json_schema": {...}}`."""


class StreamSegment(Wire):
    """The request has one segment of a longer text that is still arriving."""

    carry: dict[str, JsonValue] | None = None
    """The `carry` of the previous segment's reply; None for the first segment. Opaque to the caller."""
    final: bool
    """No segment follows, so all text that is held back comes out."""


class StageRequest(Wire):
    """A request to a stage."""

    id: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")] = Field(
        default_factory=lambda: uuid.uuid4().hex
    )
    """Chosen by the client, or made from `X-Request-Id`; the same for the whole chain."""
    input: Input
    parameters: Parameters = Parameters()
    stream: bool = False
    segment: StreamSegment | None = None
    metadata: Annotated[dict[str, JsonValue], Field(max_length=64)] = Field(default_factory=dict)
    """The client's own data, which the reply repeats."""

    @property
    def text(self) -> str:
        """The input as one text; the last message's for a conversation."""
        return self.input if isinstance(self.input, str) else self.input[-1].text


class FinishReason(StrEnum):
    """Why the output ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


class Usage(Wire):
    """Token counts of the model; None where the stage does not know."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class StageTiming(Wire):
    """The time that one stage took for one request."""

    stage: str
    seconds: float
    """From the request's arrival to the reply, as the stage or its caller measured it."""
    phases: dict[str, float] = Field(default_factory=dict)
    """Seconds by name (`functions.timing.Phase` and the stage's own): parts of `seconds`, and of the cold
    start that the request waited for before it arrived."""
    ttft: float | None = None
    """Seconds to the first token, for a stage that generates."""
    warmth: str | None = None
    """How the request found the replica: cold, standby, asleep, hot."""
    attempts: int = 1
    """Calls that were needed."""


class StageReply(Wire):
    """The reply of a stage."""

    id: str
    stage: str
    """Name of the stage that answers."""
    output: Input
    data: JsonValue = None
    """Structured output, as each stage documents it."""
    finish_reason: Annotated[FinishReason, Field(strict=False)] | None = None
    usage: Usage = Usage()
    timings: Annotated[tuple[StageTiming, ...], Field(strict=False)] = ()
    carry: dict[str, JsonValue] | None = None
    """For the next segment's request; only in the reply to a segment."""
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def text(self) -> str:
        """The output as one text; the last message's for a conversation."""
        return self.output if isinstance(self.output, str) else self.output[-1].text

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that the model asks for."""
        return () if isinstance(self.output, str) else self.output[-1].tool_calls


class Problem(BaseModel):
    """An error: RFC 9457 `application/problem+json` with further members."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    retryable: bool = False
    """The same request may succeed later, unchanged."""
    retry_after: float | None = None
    """Seconds to wait before it; also in the `Retry-After` header."""
    stage: str | None = None
    """The stage where it went wrong."""
    errors: tuple[dict[str, JsonValue], ...] | None = None
    """One entry per bad field: `field`, `message`, `value` (cut short)."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of output text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolStart:
    """The model has begun to call a tool; the whole call is in the reply."""

    index: int
    """Of the call among those of the answer, from 0."""
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Final:
    """The end of a good stream. `reply.output` is the whole text."""

    reply: StageReply


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of a failed stream."""

    problem: Problem


StageEvent: TypeAlias = Delta | ToolStart | Final | Failure
EventName: TypeAlias = Literal["delta", "tool", "reply", "error"]


def encode_event(event: StageEvent) -> bytes:
    """One server-sent event, with its closing blank line."""
    if isinstance(event, Delta):
        return sse.encode_event(json.dumps({"text": event.text}).encode(), "delta")
    if isinstance(event, ToolStart):
        begun = {"index": event.index, "id": event.id, "name": event.name}
        return sse.encode_event(json.dumps(begun).encode(), "tool")
    if isinstance(event, Final):
        return sse.encode_event(event.reply.model_dump_json(exclude_none=True).encode(), "reply")
    return sse.encode_event(event.problem.model_dump_json(exclude_none=True).encode(), "error")


def decode_event(name: str, data: str) -> StageEvent:
    """The event of a parsed server-sent event.

    Raises:
        ValueError: unknown event name, or data that does not fit it (pydantic's errors are ValueErrors).
    """
    if name == "delta":
        value = json.loads(data)
        if not isinstance(value, dict) or not isinstance(value.get("text"), str):
            raise ValueError(f'delta: data = {data[:80]!r}, must be {{"text": "..."}}')
        return Delta(value["text"])
    if name == "tool":
        return _tool_start(json.loads(data))
    if name == "reply":
        return Final(StageReply.model_validate_json(data))
    if name == "error":
        return Failure(Problem.model_validate_json(data))
    raise ValueError(f"event = {name!r}, must be delta, tool, reply or error")


def _tool_start(value: Any) -> ToolStart:
    match value:
        case {"index": int(index), "id": str(call), "name": str(name)} if index >= 0:
            return ToolStart(index, call, name)
        case _:
            raise ValueError('tool: data must be {"index": 0, "id": "...", "name": "..."}')
