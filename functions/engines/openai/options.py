"""Options of the engine `openai`."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator

from functions.engines.hosted import EngineArgs


class OpenAIArgs(EngineArgs):
    """`PILOTLIGHT_ENGINE_ARGS` of this engine."""

    base_url: str
    """The URL that OpenAI's clients are given, with the version: `https://api.openai.com/v1`."""
    model: str | None = None
    """The model's name at that URL; `PILOTLIGHT_MODEL_NAME` by default."""
    text_as_chat: bool = False
    """Send a plain text as a user's message, for an API without `/completions`."""
    max_tokens_field: str = "max_tokens"
    """Name of the parameter; newer models of OpenAI expect `max_completion_tokens`."""
    extra_body: dict[str, JsonValue] = Field(default_factory=dict)
    """Members added to every request."""
    silence_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Seconds without a byte from the server after which a request fails; it may be retried."""
    start_seconds: Annotated[float, Field(ge=0)] = 30.0
    """Seconds for which the server may be unreachable while the replica starts."""

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
            raise ValueError("must be a URL such as https://host/v1, without credentials or a query")
        return value.rstrip("/")
