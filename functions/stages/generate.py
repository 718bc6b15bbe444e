"""The stage that runs the model, with any engine.

`POST /invoke` follows the contract between stages. The engine adds paths of its own, with vLLM those of its
OpenAI server.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field

from functions.contract import (
    Delta,
    Final,
    FinishReason,
    Input,
    StageEvent,
    StageReply,
    StageRequest,
    Usage,
)
from functions.dialogue import Message, Role, ToolCall
from functions.engine import ChatRequest, Engine, GenerateRequest
from functions.engines.tool_calls import ToolCalls
from functions.problems import ProblemError
from functions.replica import ReplicaTracker
from functions.settings import FunctionSettings, SettingsError, read_secret
from functions.stage import RequestContext, StageRoutes, StageRuntime, parse_config
from functions.stage_config import StageConfig
from functions.timing import Phase
from knative import env_vars


class GenerateConfig(StageConfig):
    """`PILOTLIGHT_STAGE_CONFIG` of this kind."""

    idle_seconds: Annotated[float, Field(gt=0)] | None = None
    """Seconds without a request after which a hot replica returns to a lower resting warmth."""
    stall_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds without output after which an engine with requests is probed, and replaced if it is silent."""
    device: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    """Name of a device that several replicas of this host share; they take turns on it."""
    device_dir: Path = Path(tempfile.gettempdir()) / "pilotlight-devices"
    """Folder of the queues for those devices; the same for all replicas of a host."""
    turn_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Seconds for which a busy replica may keep a device that others wait for."""
    sleep_level: Literal[1, 2] = 1
    """vLLM's sleep level for `asleep`: 1 keeps the weights in host memory, 2 drops them."""


class EngineHost(Protocol):
    """Starts an engine, lends it to requests and closes it; the part of the stage that differs by engine."""

    async def start(self, replica: ReplicaTracker) -> None:
        """Become able to answer, or reach the resting warmth. Raises StartError."""
        ...

    def hot(self, context: RequestContext) -> AbstractAsyncContextManager[Engine]:
        """The engine for one request, which waits until it is hot. Raises EngineError."""
        ...

    async def close(self) -> None:
        """Release everything."""
        ...

    def routes(self, runtime: StageRuntime) -> StageRoutes:
        """The engine's own paths; registers its metrics."""
        ...


class Generate:
    """The stage.

    Args:
        settings: has the stage's name.
        host: of the engine.
    """

    kind = "generate"

    def __init__(self, settings: FunctionSettings, host: EngineHost) -> None:
        self.name = settings.stage_name or self.kind
        self._host = host

    async def start(self, replica: ReplicaTracker) -> None:
        """See `Stage.start`."""
        await self._host.start(replica)

    async def invoke(self, request: StageRequest, context: RequestContext) -> AsyncIterator[StageEvent]:
        """Generate: a text is completed as it is, a conversation is answered.

        Raises:
            ProblemError: tools for a text.
        """
        if isinstance(request.input, str) and request.parameters.tools:
            raise ProblemError(
                422,
                "parameters.tools: must be left out where input is a text, or input be a list of messages",
            )
        return self._events(request, context)

    async def close(self) -> None:
        """See `Stage.close`."""
        await self._host.close()

    def routes(self, runtime: StageRuntime) -> StageRoutes:
        """See `Stage.routes`."""
        return self._host.routes(runtime)

    async def _events(self, request: StageRequest, context: RequestContext) -> AsyncIterator[StageEvent]:
        async with self._host.hot(context) as engine:
            with context.span("engine"):
                began = context.now()
                chunks = (
                    engine.generate(GenerateRequest(request.id, request.input, request.parameters))
                    if isinstance(request.input, str)
                    else engine.chat(ChatRequest(request.id, request.input, request.parameters))
                )
                texts: list[str] = []
                calls = ToolCalls(request.id)
                reason: FinishReason | None = None
                usage = Usage()
                async with aclosing(chunks) as stream:  # type: ignore[type-var]
                    async for chunk in stream:
                        if context.ttft is None and (chunk.text or chunk.tool_calls or chunk.finish_reason):
                            context.ttft = context.now() - context.arrived
                            context.record(Phase.PREFILL, context.now() - began)
                        reason = chunk.finish_reason or reason
                        usage = chunk.usage or usage
                        if chunk.text:
                            texts.append(chunk.text)
                            yield Delta(chunk.text)
                        for begun in calls.add(chunk.tool_calls):
                            yield begun
        called = calls.whole()
        reply = StageReply(
            id=request.id,
            stage=self.name,
            output=_output("".join(texts), called),
            # Where a function was named, OpenAI's API says `stop`.
            finish_reason=FinishReason.TOOL_CALLS if called and reason is FinishReason.STOP else reason,
            usage=usage,
            metadata=request.metadata,
        )
        yield Final(reply)


def _output(text: str, calls: tuple[ToolCall, ...]) -> Input:
    """A text, or the message with the calls that the model asks for."""
    if not calls:
        return text
    return (Message(role=Role.ASSISTANT, content=text or None, tool_calls=calls),)


def build(settings: FunctionSettings) -> Generate:
    """The stage of these settings.

    Raises:
        SettingsError: a bad stage config, or a model that is not named.
    """
    config = parse_config(GenerateConfig, settings)
    if settings.engine == "vllm":
        return Generate(settings, _vllm(settings, config))
    if settings.engine == "openai":
        from functions.engines.openai import host  # noqa: PLC0415 - other engines need none of it

        return Generate(settings, host.build_host(settings))
    from functions.engines import onnx  # noqa: PLC0415 - other engines need none of it

    return Generate(settings, onnx.build_host(settings))


def _vllm(settings: FunctionSettings, config: GenerateConfig) -> EngineHost:
    from functions.engines.vllm.host import VllmHost  # noqa: PLC0415 - other engines need none of it
    from functions.engines.vllm.supervision import SupervisionLimits  # noqa: PLC0415

    if settings.model_uri is None:
        raise SettingsError(
            (f"{env_vars.MODEL_URI} is not set; must be s3://bucket/prefix, file:///dir or a path",)
        )
    return VllmHost(
        settings,
        limits=SupervisionLimits(
            idle=config.idle_seconds,
            stall=config.stall_seconds,
            probe=min(10.0, config.stall_seconds),
            turn=config.turn_seconds,
        ),
        device=None if config.device is None else config.device_dir / config.device,
        sleep_level=config.sleep_level,
        admin_token=read_secret(env_vars.ADMIN_TOKEN),
        artefact_key=read_secret(env_vars.ARTEFACT_KEY),
    )
