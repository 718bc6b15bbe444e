"""A replica that serves a tool or a stage of the author's: the stage behind `functions.http.app`.

The port is open before the author's module is imported. A tool is called at `POST /` with its arguments as
the JSON body, as any function is; `GET /` describes it. At `POST /invoke` it takes the arguments as the text
of a `StageRequest`, like every stage.
"""

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic_core import PydanticSerializationError, to_json

from functions.contract import Delta, Final, StageEvent, StageReply, StageRequest
from functions.dialogue import MAX_INPUT_CHARS
from functions.http.bounded_route import BoundedRoute
from functions.http.request_state import state_of
from functions.lifecycle import State
from functions.problems import ProblemError
from functions.replica import ReplicaTracker
from functions.sdk.loading import ModuleError, Served, load
from functions.sdk.scopes import Scope, Threads
from functions.sdk.stages import StageFunction, reply_of
from functions.sdk.tools import Tool
from functions.sdk.values import Call, Config
from functions.settings import FunctionSettings, SettingsError
from functions.stage import RequestContext, StageRoutes, StageRuntime, StartError, parse_config
from functions.timing import Phase
from knative import env_vars

log = logging.getLogger(__name__)

THREADS = 64
"""Synchronous functions that run at the same time in one replica; further ones wait."""
CLOSE_SECONDS = 5.0
"""How long a drain waits for synchronous functions whose requests have ended."""

Replaced = Mapping[Callable[..., Any], Callable[..., Any]]


class Host:
    """The stage.

    Args:
        settings: names, and where modules are found.
        found: gives what is served; called once, in a thread.
        kind: `tool` or `stage`, as far as it is known before the import.
        name: of the function.
        replaced: providers that stand in for others, for tests.
    """

    def __init__(
        self,
        settings: FunctionSettings,
        found: Callable[[], Served],
        *,
        kind: str,
        name: str,
        replaced: Replaced | None = None,
    ) -> None:
        self.name = settings.stage_name or name
        self.kind = kind
        self._settings = settings
        self._found = found
        self._replaced = replaced or {}
        self._served: Served | None = None
        self._configs: dict[type[Config], Config] = {}
        self._threads = Threads(THREADS)
        self._scope: Scope | None = None

    async def start(self, replica: ReplicaTracker) -> None:
        """Import the module, then make what lives with the replica.

        Raises:
            StartError: the module cannot be served, or its settings do not fit.
        """
        try:
            served = await self._threads.run(self._found)
        except ModuleError as error:
            raise StartError(str(error)) from error
        replica.record(Phase.IMPORT, replica.age)
        self._configs = self._read_configs(served)
        self._scope = Scope("replica", self._threads, self._configs, replaced=self._replaced)
        with replica.measure(Phase.INIT):
            await self._scope.make_all(served.needs)
        self._served = served
        replica.to(State.HOT)

    async def invoke(
        self, request: StageRequest, context: RequestContext
    ) -> StageReply | AsyncIterator[StageEvent]:
        """What the function returns, as a reply; a tool's result is `data`, and the output as JSON text."""
        if request.segment is not None:
            raise ProblemError(422, "segment: this stage takes whole requests; must be left out")
        served = self._ready()
        if isinstance(served, Tool):
            body = await self._call(served, request.text.encode(), context)
            return StageReply(
                id=request.id,
                stage=self.name,
                output=body.decode(),
                data=json.loads(body),
                metadata=request.metadata,
            )
        if served.streams:
            return self._events(served, request, context)
        async with self._request_scope(context) as scope:
            arguments = served.arguments(request) | await scope.fill(served.needs)
            return reply_of(await scope.run(served.function, arguments), request, self.name)

    async def close(self) -> None:
        """Close what lives with the replica."""
        await self._threads.close(CLOSE_SECONDS)
        if self._scope is not None:
            await self._scope.__aexit__(None, None, None)
        self._threads.shutdown()

    def routes(self, runtime: StageRuntime) -> StageRoutes:  # noqa: ARG002 - the protocol
        """`GET /` describes what is served; a tool is called at `POST /`."""
        router = APIRouter(route_class=BoundedRoute)

        @router.get("/", tags=["stage"])
        async def description() -> Response:
            """Name, description and, of a tool, the JSON schema of its arguments."""
            return Response(to_json(self._ready().definition()), media_type="application/json")

        if self.kind == "tool":

            @router.post(
                "/",
                tags=["stage"],
                openapi_extra=_ARGUMENTS,
                responses={status: {} for status in (400, 413, 415, 422, 429, 500, 503, 504)},
            )
            async def call(request: Request) -> Response:
                """Call the tool: its arguments as a JSON object in, its result as JSON out."""
                state = state_of(request.scope)
                served = self._ready()
                assert isinstance(served, Tool)
                body = await self._call(served, state.body, state.context)
                return Response(body, media_type="application/json")

        return StageRoutes(router=router, accepts_empty_input=self.kind == "stage")

    async def _call(self, served: Tool[..., Any], arguments: bytes, context: RequestContext) -> bytes:
        """A tool's result as JSON."""
        parsed = served.parse(arguments)
        try:
            async with self._request_scope(context) as scope:
                result = await scope.run(served.function, parsed | await scope.fill(served.needs))
        except TimeoutError as error:  # of something that the function uses; the deadline cancels
            log.warning("a tool's own time limit has passed", exc_info=error)
            raise ProblemError(504, f"{served.name} waited too long for something that it uses") from error
        try:
            body = to_json(result, inf_nan_mode="null")
        except PydanticSerializationError as error:
            raise TypeError(f"tool {served.name} returned what is not JSON: {error}") from error
        if len(body) > MAX_INPUT_CHARS:
            raise ProblemError(
                422,
                f"the result has {len(body)} bytes, at most {MAX_INPUT_CHARS} are sent; ask for less",
                title="Result too long",
            )
        return body

    async def _events(
        self, served: StageFunction[..., Any], request: StageRequest, context: RequestContext
    ) -> AsyncIterator[StageEvent]:
        """A generator's pieces, then the reply."""
        pieces: list[str] = []
        last: object = None
        async with self._request_scope(context) as scope:
            arguments = served.arguments(request) | await scope.fill(served.needs)
            async with aclosing(served.function(**arguments)) as results:
                async for result in results:
                    if last is not None:
                        raise TypeError(f"stage {self.name} yielded a {type(last).__name__} before its end")
                    if isinstance(result, str):
                        pieces.append(result)
                        yield Delta(result)
                    else:
                        last = result
        text = "".join(pieces)
        yield Final(reply_of(text if last is None else last, request, self.name, text if pieces else None))

    def _ready(self) -> Served:
        if self._served is None:
            raise ProblemError(503, "the replica is starting", title="Not ready", retry_after=1.0)
        return self._served

    def _request_scope(self, context: RequestContext) -> Scope:
        call = Call(
            id=context.request_id,
            idempotency_key=context.idempotency_key,
            caller=context.caller.name,
            team=context.caller.team,
            deadline=context.deadline,
            headers=context.headers(),
        )
        return Scope(
            "request", self._threads, self._configs, outer=self._scope, call=call, replaced=self._replaced
        )

    def _read_configs(self, served: Served) -> dict[type[Config], Config]:
        classes = served.needs.all_configs()
        if not classes and self._settings.stage_config:
            raise StartError(
                f"{env_vars.STAGE_CONFIG}: {served.name} has no parameter of a class derived from Config, "
                "so config must be left out"
            )
        try:
            return {kind: parse_config(kind, self._settings) for kind in classes}
        except SettingsError as error:
            raise StartError("; ".join(error.problems)) from error


_ARGUMENTS = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object", "description": "As `GET /` says."}}},
    }
}


def build(settings: FunctionSettings, kind: str, reference: str) -> Host:
    """The stage that serves `MODULE:NAME`; nothing is imported yet."""
    folder: Path | None = settings.module_path
    _, _, name = reference.partition(":")

    def found() -> Served:
        served = load(reference, folder)
        if served.kind != kind:
            raise ModuleError(f"{reference}: is a {served.kind}, must be a {kind} (kind in the agent file)")
        return served

    return Host(settings, found, kind=kind, name=name)
