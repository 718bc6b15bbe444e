"""Conversations as they pass between the stages: messages, tools that a model may call, and calls of them.

The shapes and names are those of OpenAI's chat completions API, so that nothing of a conversation is lost
between a client and the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

MAX_INPUT_CHARS = 1_000_000
"""Characters of one text. A stage sets its own, tighter bound; this one protects the parser."""

MAX_MESSAGES = 1_000
"""Messages of one conversation."""

MAX_PARTS = 256
"""Parts of one message's content."""

MAX_TOOLS = 128
"""Tools of one request, and calls of one message; OpenAI's own limit."""

Text: TypeAlias = Annotated[str, Field(max_length=MAX_INPUT_CHARS)]
ToolName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
CallId: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]


class Wire(BaseModel):
    """Base of everything in the contract: frozen, strict about names and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def is_empty(values: tuple[Any, ...]) -> bool:
    """Whether a member is left out, as a stage of an older version expects that does not know it."""
    return not values


class Role(StrEnum):
    """Who speaks in a conversation."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class TextPart(Wire):
    """A text in a message's content."""

    type: Literal["text"]
    text: Text


class RefusalPart(Wire):
    """The model's refusal in a message's content."""

    type: Literal["refusal"]
    refusal: Text


class ImageUrl(Wire):
    """An image, by its URL or as a `data:` URL."""

    url: Annotated[str, Field(min_length=1)]
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Wire):
    """An image in a message's content."""

    type: Literal["image_url"]
    image_url: ImageUrl


class InputAudio(Wire):
    """Sound, base64."""

    data: Annotated[str, Field(min_length=1)]
    format: Annotated[str, Field(min_length=1, max_length=16)]


class AudioPart(Wire):
    """Sound in a message's content."""

    type: Literal["input_audio"]
    input_audio: InputAudio


def _kind_of_part(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>" if kind in {"text", "refusal", "image_url", "input_audio"} else None


ContentPart: TypeAlias = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[RefusalPart, Tag("<refusal>")]
    | Annotated[ImagePart, Tag("<image_url>")]
    | Annotated[AudioPart, Tag("<input_audio>")],
    Discriminator(
        _kind_of_part,
        custom_error_type="part_type",
        custom_error_message="must be an object of type text, refusal, image_url or input_audio",
    ),
]


def _kind_of_content(value: Any) -> str | None:
    if value is None:
        return "<null>"
    if isinstance(value, str):
        return "<text>"
    return "<parts>" if isinstance(value, (list, tuple)) else None


Content: TypeAlias = Annotated[
    Annotated[None, Tag("<null>")]
    | Annotated[Text, Tag("<text>")]
    | Annotated[
        tuple[ContentPart, ...], Field(min_length=1, max_length=MAX_PARTS, strict=False), Tag("<parts>")
    ],
    Discriminator(
        _kind_of_content,
        custom_error_type="content_type",
        custom_error_message="must be a text, a list of parts, or null",
    ),
]
"""What a message says. The tags stand in the path of pydantic's errors, see `functions.contract.Input`."""


class FunctionCall(Wire):
    """Which function, and with what."""

    name: ToolName
    arguments: Text
    """A JSON text as the model wrote it, which need not be valid."""


class ToolCall(Wire):
    """A model's call of a tool."""

    id: CallId
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Wire):
    """One message of a conversation."""

    # Not strict: JSON knows roles as strings.
    role: Annotated[Role, Field(strict=False)]
    content: Content = None
    """None where an assistant only calls tools."""
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Tells participants of the same role apart."""
    tool_calls: Annotated[
        tuple[ToolCall, ...], Field(max_length=MAX_TOOLS, strict=False, exclude_if=is_empty)
    ] = ()
    """Calls that the assistant asks for."""
    tool_call_id: CallId | None = None
    """The call whose result a tool's message is."""
    special_tokens: Literal["keep"] | None = None
    """`keep` lets the tokenizer's special tokens in the content act; without it they are ordinary text."""

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if self.tool_calls and self.role is not Role.ASSISTANT:
            raise ValueError(f"tool_calls are for role assistant, not {self.role}")
        if (self.role is Role.TOOL) != (self.tool_call_id is not None):
            raise ValueError("tool_call_id must be given with role tool, and with no other")
        if self.content is None and self.role is not Role.ASSISTANT:
            raise ValueError(f"content must be given with role {self.role}")
        return self

    @property
    def text(self) -> str:
        """The content's texts, joined; empty where there is none."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def texts(self) -> Iterator[str]:
        """All that a chat template may lay out as text: the content's, and names and arguments of calls."""
        if isinstance(self.content, str):
            yield self.content
        elif self.content is not None:
            yield from (part.text for part in self.content if isinstance(part, TextPart))
        for call in self.tool_calls:
            yield call.function.name
            yield call.function.arguments

    def changed(self, change: Callable[[str], str], *, arguments: bool = False) -> Self:
        """The message with its content's texts changed, and its calls' arguments if these are asked for."""
        content: Any = self.content
        if isinstance(content, str):
            content = change(content)
        elif content is not None:
            content = tuple(
                part.model_copy(update={"text": change(part.text)}) if isinstance(part, TextPart) else part
                for part in content
            )
        update: dict[str, Any] = {"content": content}
        if arguments and self.tool_calls:
            update["tool_calls"] = tuple(_with_arguments(call, change) for call in self.tool_calls)
        return self.model_copy(update=update)


def _with_arguments(call: ToolCall, change: Callable[[str], str]) -> ToolCall:
    function = call.function.model_copy(update={"arguments": change(call.function.arguments)})
    return call.model_copy(update={"function": function})


class FunctionSpec(Wire):
    """A function that a model may call."""

    name: ToolName
    description: Annotated[str, Field(max_length=16_384)] | None = None
    parameters: dict[str, JsonValue] | None = None
    """JSON Schema of the arguments, an object."""
    strict: bool | None = None
    """Whether the model's arguments have to meet the schema, where the engine can make sure of it."""


class Tool(Wire):
    """A tool that a model may call."""

    type: Literal["function"] = "function"
    function: FunctionSpec


class NamedFunction(Wire):
    """A function by its name."""

    name: ToolName


class NamedTool(Wire):
    """The tool that the model has to call."""

    type: Literal["function"] = "function"
    function: NamedFunction


ToolChoice: TypeAlias = Literal["none", "auto", "required"] | NamedTool
"""Whether the model calls tools: never, as it likes, at least one, this one."""


def tools_text(tools: tuple[Tool, ...]) -> str:
    """The tools as a chat template lays them out, nearly; empty without any. For counting."""
    return "\n".join(json.dumps(tool.model_dump(exclude_none=True)) for tool in tools)
