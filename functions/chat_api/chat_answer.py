"""Replies and events of the contract as chat completions and their chunks (pure).

The member `pilotlight` of an answer has what OpenAI's API has no place for: each stage's timing and data.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypeAlias

from functions.contract import Delta, Failure, FinishReason, StageEvent, StageReply, ToolStart, Usage
from functions.dialogue import Message, ToolCall
from functions.http.problem_response import error_member
from transport import sse

_DONE: Final = b"data: [DONE]\n\n"
_REASONS: Final = {FinishReason.ABORT: "stop"}
"""Where OpenAI's API has no word of its own."""

Object: TypeAlias = dict[str, Any]


def usage_member(usage: Usage) -> Object | None:
    """The token counts; None where the agent does not know them."""
    if usage.prompt_tokens is None and usage.completion_tokens is None:
        return None
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def finish_reason(reply: StageReply) -> str:
    """Why the answer ended, in OpenAI's words."""
    reason = reply.finish_reason
    if reason is None:
        return "tool_calls" if reply.tool_calls else "stop"
    return _REASONS.get(reason, reason.value)


class ChatAnswer:
    """One answer, whole or as a stream.

    Args:
        request_id: of the request.
        model: the name that the answer gives.
        created: seconds since the epoch.
        include_usage: a stream ends with its token counts.
    """

    def __init__(self, request_id: str, *, model: str, created: int, include_usage: bool = False) -> None:
        self._common: Object = {"id": f"chatcmpl-{request_id}", "created": created, "model": model}
        self._include_usage = include_usage
        self._begun = False
        self._said = False
        self._calls: set[int] = set()

    def whole(self, reply: StageReply) -> bytes:
        """The chat completion."""
        message: Object = {"role": "assistant", "content": _content(reply), "refusal": None}
        if reply.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in reply.tool_calls]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason(reply),
        }
        body = {**self._common, "object": "chat.completion", "choices": [choice]}
        if (usage := usage_member(reply.usage)) is not None:
            body["usage"] = usage
        return json.dumps({**body, "pilotlight": _extension(reply)}, ensure_ascii=False).encode()

    def event(self, event: StageEvent) -> bytes:
        """The chunks of an event, with `[DONE]` behind the last."""
        if isinstance(event, Delta):
            self._said = self._said or bool(event.text)
            return self._delta({"content": event.text}) if event.text else b""
        if isinstance(event, ToolStart):
            self._calls.add(event.index)
            function = {"name": event.name, "arguments": ""}
            call = {"index": event.index, "id": event.id, "type": "function", "function": function}
            return self._delta({"tool_calls": [call]})
        if isinstance(event, Failure):
            return sse.encode_event(json.dumps({"error": error_member(event.problem)}).encode())
        return self._end(event.reply)

    def _end(self, reply: StageReply) -> bytes:
        out = b""
        if not self._said and reply.text:
            out += self._delta({"content": reply.text})
        for index, call in enumerate(reply.tool_calls):
            out += self._delta({"tool_calls": [self._call(index, call)]})
        last = self._chunk(
            [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish_reason(reply)}]
        )
        last["pilotlight"] = _extension(reply)
        out += self._opening() + _encode(last)
        if self._include_usage:
            out += _encode({**self._chunk([]), "usage": usage_member(reply.usage)})
        return out + _DONE

    def _call(self, index: int, call: ToolCall) -> Object:
        """What of a call has not been sent yet: its arguments, and before them its name."""
        if index in self._calls:
            return {"index": index, "function": {"arguments": call.function.arguments}}
        return {"index": index, **call.model_dump()}

    def _opening(self) -> bytes:
        """The chunk that says who speaks, once."""
        if self._begun:
            return b""
        self._begun = True
        return self._delta({"role": "assistant", "content": "" if self._said else None})

    def _delta(self, delta: Object) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._opening() + _encode(self._chunk([choice]))

    def _chunk(self, choices: list[Object]) -> Object:
        chunk: Object = {**self._common, "object": "chat.completion.chunk", "choices": choices}
        if self._include_usage:
            chunk["usage"] = None
        return chunk


def _content(reply: StageReply) -> str | None:
    if isinstance(reply.output, str):
        return reply.output
    message: Message = reply.output[-1]
    return message.text or (None if message.tool_calls else "")


def _extension(reply: StageReply) -> Object:
    shown = reply.model_dump(mode="json", exclude_none=True, include={"stage", "data", "timings"})
    return {**shown, "metadata": reply.metadata} if reply.metadata else shown


def _encode(value: Object) -> bytes:
    return sse.encode_event(json.dumps(value, ensure_ascii=False).encode())
