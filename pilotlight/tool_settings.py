"""`tool` of a stage of kind `tool`: what an agent of the file may call, and how (pure)."""

from typing import Any, Final, Self

from pydantic import Field, field_validator, model_validator

from functions.orchestration.tools.config import MAX_ANSWER_BYTES, Wake, check_header_names, checked_url
from functions.text.json_schema import compile_schema
from pilotlight.agent_values import AgentModel
from pilotlight.secret_mount import SecretMount

_FOLDER: Final = "/var/run/pilotlight/tools"


class HeaderSecret(AgentModel):
    """A header field whose value is in a Secret."""

    secret: str = Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    key: str = Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")
    prefix: str = Field(default="", max_length=64)
    """Put in front of the value, such as `Bearer `."""

    @property
    def mount(self) -> SecretMount:
        """The Secret as a folder of orchestrate's pod."""
        return SecretMount(f"pilotlight-tool-{self.secret.replace('.', '-')}"[:63], self.secret, self.folder)

    @property
    def folder(self) -> str:
        """Where that is mounted."""
        return f"{_FOLDER}/{self.secret}"


class McpSettings(AgentModel):
    """The tool is a server of the Model Context Protocol over streamable HTTP, with tools of its own."""

    only: list[str] | None = Field(default=None, min_length=1, max_length=128)
    """Names of those that the model may call; None: all."""
    refresh_seconds: float = Field(default=300.0, ge=1, le=86_400)
    """For how long a list of them is used."""


class ToolSettings(AgentModel):
    """What a tool does, and where it is: `url`, or the Service that this stage becomes."""

    url: str | None = Field(default=None, max_length=2048)
    """Of a function or an MCP endpoint that exists already."""
    path: str | None = Field(default=None, pattern=r"^/[^\s#]*$", max_length=1024)
    """Of the stage's own Service; by default `/`, for MCP `/mcp`."""
    description: str | None = Field(default=None, min_length=1, max_length=16_384)
    """What it does and when to use it; all that the model knows of it."""
    parameters: dict[str, Any] | None = None
    """JSON Schema of the arguments, an object; None: it takes none."""
    mcp: McpSettings | None = None
    headers: dict[str, HeaderSecret] = Field(default_factory=dict, max_length=16)
    timeout_seconds: float = Field(default=60.0, gt=0, le=3600)
    """Of one call, its retries and a cold start included."""
    answer_bytes: int = Field(default=65_536, ge=256, le=MAX_ANSWER_BYTES)
    """Of one answer; what is longer is cut, and the model is told so."""
    strict: bool | None = None
    """Whether the engine holds arguments to the schema; by default if the schema leaves nothing open."""
    wake: Wake | None = None
    """When a tool that may be at zero is started; by default as soon as the model begins to call it."""

    @field_validator("url")
    @classmethod
    def _url_is_one(cls, value: str | None) -> str | None:
        return None if value is None else checked_url(value)

    @field_validator("headers")
    @classmethod
    def _headers_are_free(cls, value: dict[str, HeaderSecret]) -> dict[str, HeaderSecret]:
        check_header_names(value)
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.url is not None and self.path is not None:
            raise ValueError("path is for the stage's own Service, not for a url")
        if self.mcp is not None:
            given = next((name for name in ("description", "parameters") if getattr(self, name)), None)
            if given is not None:
                raise ValueError(f"{given} comes from the MCP server, must be left out with mcp")
        if self.parameters is not None:
            if self.parameters.get("type", "object") != "object":
                raise ValueError(f"parameters: type = {self.parameters['type']!r}, must be object")
            try:
                compile_schema(self.parameters)
            except ValueError as error:
                raise ValueError(f"parameters: {error}") from None
        return self

    def config(self, service_url: str | None) -> dict[str, Any]:
        """As orchestrate gets it.

        Args:
            service_url: of the stage's own Service; None with `url`.
        """
        path = self.path or ("/mcp" if self.mcp else "/")
        config: dict[str, Any] = {
            "type": "function" if self.mcp is None else "mcp",
            "url": self.url or f"{service_url}{path}",
            "service": self.url is None,
            "timeoutSeconds": self.timeout_seconds,
            "answerBytes": self.answer_bytes,
        }
        if self.headers:
            config["headers"] = {
                name: {"file": f"{header.folder}/{header.key}", "prefix": header.prefix}
                for name, header in self.headers.items()
            }
        given = {"wake": self.wake, "strict": self.strict}
        config |= {name: value for name, value in given.items() if value is not None}
        if self.mcp is not None:
            config |= self.mcp.model_dump(by_alias=True, exclude_none=True)
            return config
        config["description"] = self.description
        if self.parameters is not None:
            config["parameters"] = self.parameters
        return config
