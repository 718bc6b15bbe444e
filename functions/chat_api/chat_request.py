"""The body of `POST /v1/chat/completions` as a request of the contract (pure).

Members that would change the answer in a way that a stage cannot follow are refused, each by its name;
members that only tell the server something about the caller are taken and not used.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, ValidationError, model_validator

from functions.contract import Messages, Parameters, StageRequest
from functions.dialogue import Wire
from functions.http.answer_format import unreadable
from functions.problems import ProblemError

_EMPTY_IN_ANSWERS = frozenset(
    {"annotations", "audio", "function_call", "reasoning", "reasoning_content", "refusal", "tool_calls"}
)
"""Members of an answer's message that clients send back as they got them, `null` or empty."""


class StreamOptions(Wire):
    """How a stream is written."""

    include_usage: bool = False
    """One more event before the end, with the tokens of the whole answer."""
    include_obfuscation: bool | None = None
    """Not used: events are never padded."""


def _as_contract(value: Any) -> Any:
    """A client's messages without what is empty; a refusal becomes what the assistant said."""
    return [_message(message) for message in value] if isinstance(value, list) else value


def _message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    kept = {key: item for key, item in message.items() if item or key not in _EMPTY_IN_ANSWERS}
    refusal = kept.get("refusal")
    if isinstance(refusal, str) and kept.get("content") is None and kept.get("role") == "assistant":
        kept["content"] = kept.pop("refusal")
    return {key: item for key, item in kept.items() if item is not None or key == "content"}


def _first_of(value: Any) -> Any:
    return value if not isinstance(value, dict) else {key: v for key, v in value.items() if v is not None}


class ChatBody(Parameters):
    """The body. Sampling parameters and tools are the contract's own."""

    messages: Annotated[Messages, BeforeValidator(_as_contract)]
    model: Annotated[str, Field(max_length=512)] | None = None
    """The agent's name; may be left out."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """OpenAI's newer name of `max_tokens`, and the one that counts where both are given."""
    n: Annotated[int, Field(ge=1, le=1)] = 1
    logprobs: Literal[False] = False
    modalities: Annotated[tuple[Literal["text"], ...], Field(strict=False)] = ()
    metadata: Annotated[dict[str, JsonValue], Field(max_length=64)] = Field(default_factory=dict)
    """The client's own data; conditions of the agent's graph may read it."""
    user: JsonValue = None
    store: JsonValue = None
    service_tier: JsonValue = None
    safety_identifier: JsonValue = None
    prompt_cache_key: JsonValue = None
    prompt_cache_retention: JsonValue = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        """OpenAI's clients may say `null` for whatever they leave out."""
        return _first_of(value)

    def as_stage_request(self, request_id: str) -> StageRequest:
        """The request for the agent."""
        shared = set(Parameters.model_fields)
        parameters = Parameters.model_construct(**{name: getattr(self, name) for name in shared})
        return StageRequest(
            id=request_id,
            input=self.messages,
            parameters=parameters.model_copy(
                update={"max_tokens": self.max_completion_tokens or self.max_tokens}
            ),
            stream=self.stream,
            metadata=self.metadata,
        )


def parse_chat(body: bytes, *, names: frozenset[str]) -> ChatBody:
    """The body, checked.

    Args:
        body: JSON.
        names: by which a client may call the agent.

    Raises:
        ProblemError: 400, 404 for another model, 422.
    """
    try:
        parsed = ChatBody.model_validate_json(body)
    except ValidationError as error:
        raise unreadable(error) from None
    if parsed.model and parsed.model not in names:
        known = " or ".join(repr(name) for name in sorted(names))
        raise ProblemError(404, f"model = {parsed.model!r}, must be {known}", title="No such model")
    return parsed
