"""The interface of a model engine, whatever runs behind it: vLLM, an OpenAI-compatible URL, onnxruntime.

`functions.stages.generate` works with any of them. Values are frozen; an engine's clock, threads and
processes are its own.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from functions.contract import FinishReason, Parameters, Usage
from functions.dialogue import Message


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Complete a text as it is."""

    id: str
    prompt: str
    parameters: Parameters = field(default_factory=Parameters)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Answer a conversation, laid out by the model's chat template."""

    id: str
    messages: tuple[Message, ...]
    parameters: Parameters = field(default_factory=Parameters)


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Turn texts into vectors."""

    id: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ToolCallPiece:
    """A piece of a call of a tool: the first has id and name, all have some of the arguments."""

    index: int
    """Of the call among those of the answer."""
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of output. The last one has the finish reason and the usage; its text may be empty."""

    text: str
    tool_calls: tuple[ToolCallPiece, ...] = ()
    tokens: int | None = None
    """Tokens in this piece; None where the engine does not say."""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per input, in order, all of the same length."""

    vectors: tuple[tuple[float, ...], ...]
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Which engine runs which model."""

    engine: str
    """`vllm`, `openai`, `onnx`."""
    version: str | None = None
    model: str | None = None
    max_model_len: int | None = None


class EngineError(Exception):
    """The engine did not answer a request. `functions.problems` makes a problem of it.

    Args:
        message: for the user; never holds a secret.
        retryable: the same request may succeed later.
        status: HTTP status; 503 for an engine that is gone, 4xx for a request that it refused, 502 for a
            response outside its protocol.
        retry_after: seconds until a retry makes sense, where known.
    """

    def __init__(
        self, message: str, *, retryable: bool, status: int = 503, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.status = status
        self.retry_after = retry_after


class UnsupportedError(EngineError):
    """The engine does not offer an operation: embeddings of a generator, chat of an embedder."""

    def __init__(self, engine: str, operation: str) -> None:
        super().__init__(f"engine {engine} does not offer {operation}", retryable=False, status=501)


class Engine(Protocol):
    """A model that can answer now. Every method may be called concurrently.

    Closing the iterator of `generate` or `chat` (or cancelling its consumer) aborts the generation.
    """

    @property
    def info(self) -> EngineInfo:
        """Which engine runs which model."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Stream a completion.

        Raises:
            EngineError: from the first step of the iterator for a refused request, from any step otherwise.
        """
        ...

    def chat(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """Stream an answer. Errors as `generate`."""
        ...

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Vectors of the inputs.

        Raises:
            EngineError: as `generate`; UnsupportedError where the model is no embedder.
        """
        ...

    async def close(self) -> None:
        """Release processes, memory and connections. May be called twice."""
        ...
