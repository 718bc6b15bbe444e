"""Hosting an engine that is hot as soon as it has been opened: a remote API, or a model loaded in-process.

Such engines have no warmth levels: a remote API has no cold start here, and an ONNX model loads in moments.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, ValidationError

from functions.engine import Engine, EngineError
from functions.engines import health_routes
from functions.lifecycle import State, Warmth
from functions.problems import field_errors
from functions.replica import ReplicaTracker
from functions.settings import FunctionSettings, SettingsError
from functions.stage import RequestContext, StageRoutes, StageRuntime
from functions.timing import Phase
from knative import env_vars


class EngineArgs(BaseModel):
    """Base of an engine's options (`engine.args` of the agent file): names with dashes, strict types."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_name=False,
        validate_by_alias=True,
    )


ArgsT = TypeVar("ArgsT", bound=EngineArgs)


def parse_args(model: type[ArgsT], args: Mapping[str, Any]) -> ArgsT:
    """The engine's options.

    Raises:
        SettingsError: with one line for each bad option.
    """
    try:
        return model.model_validate(dict(args))
    except ValidationError as error:
        raise SettingsError(
            tuple(
                f"{env_vars.ENGINE_ARGS}.{entry['field']} = {entry['value']!r}: {entry['message']}"
                for entry in field_errors(error.errors(include_url=False, include_context=False))
            )
        ) from None


class AlwaysHotHost:
    """`EngineHost` of the generate stage for an engine without warmth levels.

    Args:
        settings: `warmth` must be hot.
        open_engine: opens it and records the phases of that on the replica; raises StartError.
        routes: makes the engine's own routes; its second argument returns the engine, or raises EngineError
            while there is none.

    Raises:
        SettingsError: another warmth than hot.
    """

    def __init__(
        self,
        settings: FunctionSettings,
        open_engine: Callable[[ReplicaTracker], Awaitable[Engine]],
        routes: Callable[[StageRuntime, Callable[[], Engine]], StageRoutes],
    ) -> None:
        if settings.warmth is not Warmth.HOT:
            raise SettingsError(
                (f"{env_vars.WARMTH} = {settings.warmth.value!r}: must be hot with engine {settings.engine}",)
            )
        self._open = open_engine
        self._routes = routes
        self._engine: Engine | None = None

    async def start(self, replica: ReplicaTracker) -> None:
        """Open the engine. Raises StartError."""
        replica.to(State.LOADING)
        replica.record(Phase.IMPORT, replica.age)
        self._engine = await self._open(replica)
        replica.to(State.HOT)

    @asynccontextmanager
    async def hot(self, context: RequestContext) -> AsyncIterator[Engine]:  # noqa: ARG002 - the protocol
        """The engine; there is nothing to wait for."""
        yield self.engine()

    def engine(self) -> Engine:
        """The engine.

        Raises:
            EngineError: it is not open yet.
        """
        if self._engine is None:
            raise EngineError("the engine is still being opened", retryable=True, retry_after=1.0)
        return self._engine

    async def close(self) -> None:
        """Close the engine."""
        if self._engine is not None:
            await self._engine.close()

    def routes(self, runtime: StageRuntime) -> StageRoutes:
        """The engine's routes, and those that say whether the replica answers."""
        routes = self._routes(runtime, self.engine)
        router = APIRouter()
        if routes.router is not None:
            router.include_router(routes.router)
        router.include_router(health_routes.router(runtime.replica, self._version))
        return replace(routes, router=router)

    def _version(self) -> str | None:
        return None if self._engine is None else self._engine.info.version
