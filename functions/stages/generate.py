"""Generate: the model behind HTTP, whatever runs it.

`POST /invoke` speaks the contract between stages; with vLLM the function URL is vLLM's OpenAI server, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field

from functions.contract import Delta, Final, FinishReason, StageEvent, StageReply, StageRequest, Usage
from functions.engine import ChatRequest, Engine, GenerateRequest
from functions.replica import Replica
from functions.settings import Settings, SettingsError
from functions.stage import RequestContext, parse_config
from functions.timing import Phase

if TYPE_CHECKING:
    from fastapi import FastAPI


class GenerateConfig(BaseModel):
    """`PILOTLIGHT_STAGE_CONFIG` of this kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    idle_seconds: Annotated[float, Field(gt=0)] | None = None
    """A hot replica whose resting rung is lower goes back to it after so long without a request."""


class EngineHost(Protocol):
    """How an engine is had and given back; differs by engine, the rest of the stage does not."""

    async def start(self, replica: Replica) -> None:
        """Become able to answer, or rest on the rung that was asked for. Raises StartError."""
        ...

    def hot(self, context: RequestContext) -> AbstractAsyncContextManager[Engine]:
        """The engine for one request, which waits for it if need be. Raises EngineError."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...

    def extend(self, app: FastAPI) -> None:
        """Add the engine's own paths and metrics."""
        ...


class Generate:
    """The stage.

    Args:
        settings: names.
        host: the engine's.
    """

    kind = "generate"

    def __init__(self, settings: Settings, host: EngineHost) -> None:
        self.name = settings.stage_name or self.kind
        self._host = host

    async def start(self, replica: Replica) -> None:
        """See `Stage.start`."""
        await self._host.start(replica)

    async def invoke(self, request: StageRequest, context: RequestContext) -> AsyncIterator[StageEvent]:
        """Generate; a text is completed as it is, a conversation answered."""
        return self._events(request, context)

    async def close(self) -> None:
        """See `Stage.close`."""
        await self._host.close()

    def extend(self, app: FastAPI) -> None:
        """See `Stage.extend`."""
        self._host.extend(app)

    async def _events(self, request: StageRequest, context: RequestContext) -> AsyncIterator[StageEvent]:
        async with self._host.hot(context) as engine:
            began = context.now()
            chunks = (
                engine.generate(GenerateRequest(request.id, request.input, request.parameters))
                if isinstance(request.input, str)
                else engine.chat(ChatRequest(request.id, request.input, request.parameters))
            )
            texts: list[str] = []
            reason: FinishReason | None = None
            usage = Usage()
            async with aclosing(chunks) as stream:  # type: ignore[type-var]
                async for chunk in stream:
                    if context.ttft is None and (chunk.text or chunk.finish_reason):
                        context.ttft = context.now() - context.arrived
                        context.record(Phase.PREFILL, context.now() - began)
                    reason = chunk.finish_reason or reason
                    usage = chunk.usage or usage
                    if chunk.text:
                        texts.append(chunk.text)
                        yield Delta(chunk.text)
        reply = StageReply(
            id=request.id,
            stage=self.name,
            output="".join(texts),
            finish_reason=reason,
            usage=usage,
            metadata=request.metadata,
        )
        yield Final(reply)


def build(settings: Settings) -> Generate:
    """The stage of these settings.

    Raises:
        SettingsError: a bad stage config, or a model that is not named.
    """
    config = parse_config(GenerateConfig, settings)
    if settings.engine == "vllm":
        return Generate(settings, _vllm(settings, config))
    raise SettingsError((f"PILOTLIGHT_ENGINE = {settings.engine!r}: is not offered by generate",))


def _vllm(settings: Settings, config: GenerateConfig) -> EngineHost:
    from functions.engines.vllm.host import VllmHost  # noqa: PLC0415 - other engines need none of it

    if settings.model_uri is None:
        raise SettingsError(
            ("PILOTLIGHT_MODEL_URI is not set; must be s3://bucket/prefix, file:///dir or a path",)
        )
    return VllmHost(settings, idle=config.idle_seconds)
