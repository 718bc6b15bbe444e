"""What the agent file says of a tool, as the orchestrate stage gets it (pure)."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable
from typing import Annotated, Final, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from functions.stage_config import StageConfig

MAX_ANSWER_BYTES: Final = 1_000_000
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_OWN_HEADERS: Final = frozenset(
    {
        "accept", "connection", "content-length", "content-type", "host", "idempotency-key", "last-event-id",
        "mcp-protocol-version", "mcp-session-id", "te", "traceparent", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Fields that a call sets itself."""

Wake = Literal["request", "call", "never"]
"""When a tool that may be at zero is started: with the request, as soon as the model begins to call it, or by
the call itself."""


def checked_url(value: str) -> str:
    """The URL of a tool.

    Raises:
        ValueError: it is none, or holds a credential.
    """
    parts = urllib.parse.urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL such as https://host/path")
    parts.port  # noqa: B018 - raises ValueError for a port that is none
    if parts.username is not None or parts.password is not None:
        raise ValueError("must have no user and password (headers takes credentials from a Secret)")
    if parts.fragment:
        raise ValueError("must have no fragment")
    return value


def check_header_names(names: Iterable[str]) -> None:
    """Whether an agent file may set these fields.

    Raises:
        ValueError: one is no field's name, or is set by the call itself.
    """
    for name in names:
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} must be the name of a header field")
        if name.lower() in _OWN_HEADERS or name.lower().startswith("x-pilotlight-"):
            raise ValueError(f"{name!r} is set by the call itself, must be another")


class SecretHeader(StageConfig):
    """A header field whose value is in a mounted Secret, which is read again when it changes."""

    file: Annotated[str, Field(min_length=2, pattern=r"^/")]
    """Path of the Secret's entry."""
    prefix: Annotated[str, Field(max_length=64)] = ""
    """Put in front, such as `Bearer `."""


class CommonToolConfig(StageConfig):
    """What all tools have."""

    url: str
    """`http://` or `https://`, of the function or of the MCP endpoint."""
    service: bool = False
    """It is a Service of this agent: called through the gateway, and with the token of the agent's stages."""
    headers: Annotated[dict[str, SecretHeader], Field(max_length=16)] = Field(default_factory=dict)
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Of one call, its retries and a cold start included; a request's deadline may be earlier."""
    answer_bytes: Annotated[int, Field(ge=256, le=MAX_ANSWER_BYTES)] = 65_536
    """Of one answer; what is longer is cut, and the model is told so."""
    strict: bool | None = None
    """Whether the engine holds the model's arguments to the schema while it writes them. None: if the schema
    leaves nothing open, see `functions.orchestration.tools.strictness`."""
    wake: Wake | None = None
    """None: `call` for a Service of the agent, `never` for what runs elsewhere."""

    @field_validator("url")
    @classmethod
    def _url_is_one(cls, value: str) -> str:
        return checked_url(value)

    @field_validator("headers")
    @classmethod
    def _headers_are_free(cls, value: dict[str, SecretHeader]) -> dict[str, SecretHeader]:
        check_header_names(value)
        return value

    @property
    def wakes(self) -> Wake:
        """When it is started ahead of its call."""
        return self.wake or ("call" if self.service else "never")


class FunctionToolConfig(CommonToolConfig):
    """A function: `POST url` with the arguments as a JSON object, and its result as the answer."""

    type: Literal["function"] = "function"
    description: Annotated[str, Field(min_length=1, max_length=16_384)]
    """What it does and when to use it; all that the model knows of it."""
    parameters: dict[str, JsonValue] | None = None
    """JSON Schema of the arguments, an object; None: it takes none."""


class McpConfig(CommonToolConfig):
    """A server of the Model Context Protocol over streamable HTTP, whose tools are listed when needed."""

    type: Literal["mcp"] = "mcp"
    only: Annotated[tuple[str, ...], Field(min_length=1, max_length=128)] | None = None
    """Names of the server's tools that the model may call; None: all."""
    refresh_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    """For how long a list of its tools is used."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if self.only is not None and len(set(self.only)) < len(self.only):
            raise ValueError("only: names must differ")
        return self


ToolConfig = Annotated[FunctionToolConfig | McpConfig, Field(discriminator="type")]
