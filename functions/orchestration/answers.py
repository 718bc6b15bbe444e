"""What the nodes of a graph have answered, put together to one reply, and shown to expressions (pure)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from functions.contract import FinishReason, Input, Messages, StageReply, StageRequest, StageTiming, Usage
from functions.graph.conditions import ExpressionError

_MESSAGES: TypeAdapter[Messages] = TypeAdapter(Messages)
_BETWEEN = "\n\n"
"""Between the texts of several stages that become one input."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer so far, from the replies in the order of the graph."""

    value: Input
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)
    timings: tuple[StageTiming, ...] = ()
    data: dict[str, JsonValue] = field(default_factory=dict)
    generated: Usage | None = None
    """Tokens of all nodes that generate, added."""
    generators: int = 0
    """How many these are."""

    def after(self, name: str, reply: StageReply) -> Answer:
        """With one more reply; values that it does not give stay, tokens of several models add up."""
        generated, generators = self.generated, self.generators
        if reply.usage.completion_tokens is not None:
            generated, generators = added(generated, reply.usage), generators + 1
        known = self.usage.model_copy(update=reply.usage.model_dump(exclude_none=True))
        data = self.data if reply.data is None or not name else {**self.data, name: reply.data}
        return replace(
            self,
            value=reply.output,
            finish_reason=reply.finish_reason or self.finish_reason,
            # With one model, a stage before it may know what it does not tell.
            usage=generated if generated is not None and generators > 1 else known,
            generated=generated,
            generators=generators,
            timings=(*self.timings, *reply.timings),
            data=data,
        )


def added(first: Usage | None, second: Usage) -> Usage:
    """The tokens of both; what neither knows stays unknown."""
    if first is None:
        return second
    return Usage(
        prompt_tokens=_sum(first.prompt_tokens, second.prompt_tokens),
        completion_tokens=_sum(first.completion_tokens, second.completion_tokens),
    )


def _sum(first: int | None, second: int | None) -> int | None:
    return second if first is None else first + (second or 0)


def joined(replies: Sequence[StageReply]) -> Input:
    """The outputs of several nodes as one input: a single one as it is, texts with an empty line between."""
    if len(replies) == 1:
        return replies[0].output
    return _BETWEEN.join(reply.text for reply in replies)


def of_items(name: str, request_id: str, replies: Sequence[StageReply], *, seconds: float) -> StageReply:
    """The reply of a node that was called once for each item of a list.

    Args:
        name: of the node.
        request_id: of the request.
        replies: in the order of the items.
        seconds: that all took together.
    """
    usage: Usage | None = None
    for reply in replies:
        usage = added(usage, reply.usage)
    timings = [timing for reply in replies for timing in reply.timings]
    slowest = max(timings, key=lambda timing: timing.seconds, default=None)
    timing = StageTiming(stage=name, seconds=seconds) if slowest is None else slowest
    attempts = max(1, sum(timing.attempts for timing in timings))
    datas: list[JsonValue] = [reply.data for reply in replies]
    data: dict[str, JsonValue] = {"items": [reply.text for reply in replies], "data": datas}
    return StageReply(
        id=request_id,
        stage=name,
        output=_BETWEEN.join(reply.text for reply in replies),
        data=data,
        usage=usage or Usage(),
        # What all waited for is what the slowest did: a cold start is told.
        timings=(timing.model_copy(update={"stage": name, "seconds": seconds, "attempts": attempts}),),
    )


def variables(
    request: StageRequest, replies: Mapping[str, StageReply], names: Iterable[str], mapped: frozenset[str]
) -> dict[str, Any]:
    """What expressions read, as `functions.graph.conditions` lists it.

    Args:
        request: of the client.
        replies: by node.
        names: of all nodes.
        mapped: nodes that are called once for each item of a list.
    """
    dumped = request.model_dump(mode="json", exclude_none=True)
    shown = {
        "id": request.id,
        "text": request.text,
        "input": dumped["input"],
        "metadata": dumped["metadata"],
        "parameters": dumped["parameters"],
    }
    return {"request": shown, "stages": {name: _shown(replies.get(name), name in mapped) for name in names}}


def _shown(reply: StageReply | None, mapped: bool) -> dict[str, Any]:  # noqa: FBT001 - of one call
    if reply is None:
        return {"ran": False, "text": "", "output": "", "data": {}, "finish_reason": "", "items": []}
    dumped = reply.model_dump(mode="json", include={"output", "data", "finish_reason"})
    data = dumped["data"]
    items = data["items"] if mapped and isinstance(data, dict) else []
    return {
        "ran": True,
        "text": reply.text,
        "output": dumped["output"],
        "data": data if data is not None else {},
        "finish_reason": dumped["finish_reason"] or "",
        "items": items,
    }


def as_input(value: Any, source: str) -> Input:
    """An expression's value as a stage's input: a text, messages, or anything else as a JSON text.

    Raises:
        ExpressionError: it is neither.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) and "role" in item for item in value):
        try:
            return _MESSAGES.validate_json(json.dumps(value))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise ExpressionError(f"{source!r} gives a list of no messages: {first['msg']}") from None
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        raise ExpressionError(f"{source!r} gives {type(value).__name__}, must be a text or a list") from None
