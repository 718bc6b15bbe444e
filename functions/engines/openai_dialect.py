"""The JSON of OpenAI's API as clients speak it: parameters, streams of chunks, embeddings, errors. No I/O.

Used for vLLM's own server and for any OpenAI-compatible URL. Servers differ in details, so reading is lenient
where a difference does not matter.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from functions.contract import FinishReason, Parameters, Usage
from functions.dialogue import Message, NamedTool, Role
from functions.engine import Chunk, Embeddings, ToolCallPiece
from transport.sse import EventParser, ServerSentEvent

END_OF_STREAM = "[DONE]"
"""Data of the last event of a stream."""


_OF_TOOLS = {"tools", "tool_choice", "parallel_tool_calls"}


class DialectError(ValueError):
    """A response that does not follow the API; the message says in what."""


class StreamError(Exception):
    """The server reported an error within a stream; `body` is its JSON."""

    def __init__(self, body: bytes) -> None:
        super().__init__(error_message(body) or "no reason given")
        self.body = body


class CutOffError(Exception):
    """A stream ended without a finish reason."""


def sampling_members(parameters: Parameters) -> dict[str, Any]:
    """Members of a request for these parameters; what is at its default is left to the server.

    Without those of tools, which `tool_members` has.
    """
    return parameters.model_dump(exclude_none=True, exclude_defaults=True, exclude=_OF_TOOLS)


def tool_members(parameters: Parameters) -> dict[str, Any]:
    """Members of a chat request about tools."""
    if not parameters.tools:
        return {}
    members: dict[str, Any] = {"tools": [tool.model_dump(exclude_none=True) for tool in parameters.tools]}
    choice = parameters.tool_choice
    if choice is not None:
        members["tool_choice"] = choice.model_dump() if isinstance(choice, NamedTool) else choice
    if parameters.parallel_tool_calls is not None:
        members["parallel_tool_calls"] = parameters.parallel_tool_calls
    return members


def message_members(messages: Sequence[Message], *, developer: Role = Role.DEVELOPER) -> list[dict[str, Any]]:
    """The member `messages` of a chat request.

    Args:
        messages: of the conversation.
        developer: the role that stands for `developer`.
    """
    return [_members_of(message, developer) for message in messages]


def _members_of(message: Message, developer: Role) -> dict[str, Any]:
    role = developer if message.role is Role.DEVELOPER else message.role
    members = message.model_dump(exclude_none=True, exclude={"role", "special_tokens", "tool_calls"})
    members |= {"role": role.value, "content": members.get("content")}
    if message.tool_calls:
        members["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    return members


async def stream_events(
    pieces: AsyncIterator[bytes], *, with_comments: bool = False
) -> AsyncIterator[ServerSentEvent]:
    """The events of a stream, `[DONE]` included. The blank line after the last one may be missing.

    Args:
        pieces: the body as it arrives.
        with_comments: see `EventParser`.

    Raises:
        DialectError: the stream is not one of server-sent events.
    """
    parser = EventParser(with_comments=with_comments)
    try:
        async for piece in pieces:
            for event in parser.feed(piece):
                yield event
        for event in parser.feed(b"\n\n"):
            yield event
    except ValueError as error:
        raise DialectError(f"a stream that is not one of server-sent events ({error})") from None


async def stream_objects(pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a stream, up to `[DONE]`.

    Raises:
        DialectError: an event that is no JSON object.
    """
    async for event in stream_events(pieces):
        if event.data.strip() == END_OF_STREAM:
            return
        try:
            value = json.loads(event.data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise DialectError(f"an event that is no JSON object: {event.data[:80]!r}")
        yield value


async def read_chunks(objects: AsyncIterator[dict[str, Any]]) -> AsyncIterator[Chunk]:
    """The chunks of a streamed completion or chat; the last one is empty but for finish reason and usage.

    Raises:
        StreamError: the server reported an error.
        CutOffError: the stream ended too early.
        DialectError: a chunk of another shape.
    """
    reason: FinishReason | None = None
    usage: Usage | None = None
    async for value in objects:
        if value.get("error"):
            raise StreamError(json.dumps(value).encode())
        try:
            choice = (value.get("choices") or [{}])[0]
            delta = choice.get("delta") or {}
            text = choice.get("text") or delta.get("content")
            calls = tuple(_piece(call) for call in delta.get("tool_calls") or ())
            reason = finish_reason(choice["finish_reason"]) if choice.get("finish_reason") else reason
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DialectError(f"a chunk without choices ({type(error).__name__})") from None
        usage = usage_of(value.get("usage")) or usage
        if text or calls:
            yield Chunk(str(text or ""), tool_calls=calls)
    if reason is None:
        raise CutOffError
    yield Chunk("", finish_reason=reason, usage=usage)


def _piece(call: Mapping[str, Any]) -> ToolCallPiece:
    function = call.get("function") or {}
    return ToolCallPiece(
        index=int(call["index"]),
        id=call.get("id") or None,
        name=function.get("name") or None,
        arguments=str(function.get("arguments") or ""),
    )


def read_embeddings(body: bytes, count: int) -> Embeddings:
    """The vectors of a response to `count` inputs.

    Raises:
        DialectError: it has no vectors, or not one for each input.
    """
    try:
        parsed = json.loads(body)
        rows = sorted(parsed["data"], key=lambda row: row["index"])
        vectors = tuple(tuple(float(x) for x in row["embedding"]) for row in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise DialectError(f"no embeddings ({type(error).__name__})") from None
    if len(vectors) != count:
        raise DialectError(f"{len(vectors)} vectors for {count} inputs")
    return Embeddings(vectors, usage_of(parsed.get("usage")) or Usage())


def read_max_model_len(body: bytes, model: str) -> int | None:
    """`max_model_len` of a model in a list of models; vLLM gives it, other servers do not."""
    try:
        cards = json.loads(body)["data"]
        length = next((card.get("max_model_len") for card in cards if card.get("id") == model), None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return length if isinstance(length, int) else None


def finish_reason(reason: Any) -> FinishReason:
    """The contract's reason; reasons beyond OpenAI's list (eos, end_turn, repetition) count as `stop`."""
    try:
        return FinishReason(str(reason))
    except ValueError:
        return FinishReason.STOP


def usage_of(value: Any) -> Usage | None:
    """The token counts in a member `usage`; None where there is none."""
    if not isinstance(value, Mapping) or not value:
        return None
    counts = (value.get("prompt_tokens"), value.get("completion_tokens"))
    prompt, completion = (count if isinstance(count, int) else None for count in counts)
    return Usage(prompt_tokens=prompt, completion_tokens=completion)


def error_message(body: bytes) -> str | None:
    """What an error response says; None if it does not follow the API."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return None
