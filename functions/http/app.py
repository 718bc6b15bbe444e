"""The HTTP application around any stage: probes, metrics, `/invoke`, errors, drain.

`create_app` is the composition point. The port is open before the stage is ready: `Stage.start` runs in the
background, and readiness follows the replica's state.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from functions.contract import Problem, StageReply, StageRequest
from functions.engine import EngineError
from functions.http.invocation import Invocation
from functions.http.middleware import (
    DirectRoute,
    Receive,
    RequestMiddleware,
    Scope,
    Send,
    problem_body,
    problem_head,
)
from functions.http.problems import ProblemError, field_errors, phrase, problem_of, unprocessable
from functions.lifecycle import Lifecycle, State
from functions.metrics import CONTENT_TYPE, Metrics
from functions.replica import Replica
from functions.settings import Settings
from functions.stage import RequestContext, Stage, StartError
from functions.timing import ColdStart

log = logging.getLogger(__name__)

__all__ = ["Surface", "context_of", "create_app", "surface_of"]


@dataclass(slots=True, eq=False)
class Surface:
    """What a stage's own routers may need, and what the server drains; `app.state.surface`."""

    stage: Stage
    replica: Replica
    metrics: Metrics
    settings: Settings
    door: RequestMiddleware | None = None
    invocations: set[Invocation] = field(default_factory=set)
    shortcuts: list[DirectRoute] = field(default_factory=list)

    async def drain(self) -> None:
        """Not ready at once; return when nothing is in flight, or when the grace period has passed.

        What is still running then is told so (503, retryable) and ended.
        """
        if self.replica.state is not State.DRAINING:
            self.replica.to(State.DRAINING)
        assert self.door is not None
        grace = self.settings.drain_seconds
        try:
            await asyncio.wait_for(self.door.wait_until_idle(), grace)
        except TimeoutError:
            log.warning("grace period over", extra={"in_flight": self.door.in_flight, "grace_seconds": grace})
            self.abort()

    def abort(self) -> None:
        """End every invocation now, with a retryable 503 to its client."""
        problem = Problem(
            title="Replica stopped",
            status=503,
            detail="the replica was stopped before the answer was complete",
            retryable=True,
            stage=self.stage.name,
        )
        for invocation in list(self.invocations):
            invocation.abort(problem)


def surface_of(app: FastAPI) -> Surface:
    """The surface of an application made by `create_app`."""
    surface = app.state.surface
    assert isinstance(surface, Surface)
    return surface


def context_of(request: Request) -> RequestContext:
    """The context of a request that came through the door."""
    context = request.scope["state"]["context"]
    assert isinstance(context, RequestContext)
    return context


def create_app(stage: Stage, settings: Settings, *, replica: Replica | None = None) -> FastAPI:
    """The application of one stage.

    Args:
        stage: started by the application's lifespan, closed at its end.
        settings: limits and names.
        replica: given by `functions.__main__`, which knows when the process began.
    """
    replica = replica or Replica()
    metrics = Metrics(stage=stage.name, kind=stage.kind)
    surface = Surface(stage, replica, metrics, settings)
    replica.on_change(metrics.changed)
    replica.on_change(_log_failure)
    replica.on_cold_start(metrics.cold_start)
    replica.on_cold_start(lambda cold_start: _log_cold_start(stage, settings, cold_start))
    metrics.changed(replica.lifecycle)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(_start(stage, replica))
        try:
            yield
        finally:
            starting.cancel()
            await asyncio.wait({starting})
            await stage.close()

    app = FastAPI(
        title=f"Pilotlight {stage.kind}: {stage.name}", lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.surface = surface
    _add_probes(app, surface)
    _add_invoke(app, surface)
    _add_problems(app, stage)
    stage.extend(app)

    # Outermost, so that the framework's own answers (404, 405, a crash) pass through it too.
    surface.door = app.middleware_stack = RequestMiddleware(
        app.build_middleware_stack(),
        stage=stage.name,
        replica=replica,
        metrics=metrics,
        settings=settings,
        shortcuts=surface.shortcuts,
    )
    return app


async def _start(stage: Stage, replica: Replica) -> None:
    try:
        await stage.start(replica)
    except StartError as error:
        replica.fail(str(error))
    except Exception as error:
        log.exception("unforeseen error while starting")
        replica.fail(f"{type(error).__name__}: {error}")
    else:
        if replica.state in {State.STARTING, State.LOADING}:
            replica.fail(f"stage {stage.name} ended its start in state {replica.state}")


def _log_failure(lifecycle: Lifecycle) -> None:
    if lifecycle.state is State.FAILED:
        log.error("replica failed", extra={"cause": lifecycle.cause})


def _log_cold_start(stage: Stage, settings: Settings, cold_start: ColdStart) -> None:
    log.info(
        "cold start",
        extra={
            "stage": stage.name,
            "kind": stage.kind,
            "agent": settings.agent,
            "model": settings.model_uri,
            "from": str(cold_start.warmth),
            "total_seconds": None if cold_start.total is None else round(cold_start.total, 4),
            "phases": {str(phase): round(seconds, 4) for phase, seconds in cold_start.phases.items()},
        },
    )


def _add_probes(app: FastAPI, surface: Surface) -> None:
    replica, stage = surface.replica, surface.stage

    def state() -> dict[str, object]:
        lifecycle, climb = replica.lifecycle, replica.climb
        return {
            "stage": stage.name,
            "kind": stage.kind,
            "state": lifecycle.state,
            "warmth": lifecycle.warmth,
            "cause": lifecycle.cause,
            "phases": {str(phase): seconds for phase, seconds in climb.phases.items()},
            "cold_start_seconds": climb.total,
            "age_seconds": replica.age,
            "in_flight": surface.door.in_flight if surface.door else 0,
        }

    @app.get("/healthz/live", tags=["probes"])
    async def live() -> JSONResponse:
        """200 as soon as the port is open; 503 once the replica has failed for good."""
        return JSONResponse(state(), status_code=200 if replica.lifecycle.live else 503)

    @app.get("/healthz/ready", tags=["probes"])
    async def ready() -> JSONResponse:
        """200 while a request sent now gets its answer here; 503 otherwise, with the cause of a failure."""
        return JSONResponse(state(), status_code=200 if replica.lifecycle.ready else 503)

    @app.get("/metrics", tags=["probes"])
    async def metrics() -> Response:
        """Prometheus metrics of the stage, and of its engine where it has one."""
        return Response(await surface.metrics.page(), media_type=CONTENT_TYPE)


class _Answer(Response):
    """Hands the connection to an `Invocation`, which streams and watches for the client itself."""

    def __init__(self, surface: Surface, context: RequestContext) -> None:
        super().__init__()
        self._surface = surface
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        invocation = Invocation(self._surface.stage, self._context, self._surface.metrics)
        self._surface.invocations.add(invocation)
        try:
            await invocation.answer(scope, receive, send)
        finally:
            self._surface.invocations.discard(invocation)


def _add_invoke(app: FastAPI, surface: Surface) -> None:
    schema = StageRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = schema.pop("$defs")
    describe = app.openapi

    def with_request() -> dict[str, Any]:
        # The body is read by hand (limits, problems), so the framework does not know its schema.
        document = describe()
        document["components"]["schemas"] |= {"StageRequest": schema, **parts}
        return document

    app.openapi = with_request  # type: ignore[method-assign]
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/StageRequest"}}}

    @app.post(
        "/invoke",
        response_model=StageReply,
        tags=["stage"],
        openapi_extra={"requestBody": {"required": True, "content": body}},
    )
    async def invoke(request: Request) -> Response:
        """Do the stage's work: `StageRequest` in, `StageReply` out, or events with `"stream": true`."""
        return _Answer(surface, context_of(request))


def _add_problems(app: FastAPI, stage: Stage) -> None:
    def respond(problem: Problem, headers: dict[str, str] | None = None) -> Response:
        response = Response(problem_body(problem), status_code=problem.status, headers=headers)
        response.raw_headers.extend(problem_head(problem))
        return response

    def problem_response(error: Exception) -> Response:
        return respond(problem_of(error, stage=stage.name))

    @app.exception_handler(Exception)
    async def _(_: Request, error: Exception) -> Response:
        return problem_response(error)

    @app.exception_handler(ProblemError)
    async def _(_: Request, error: ProblemError) -> Response:
        return problem_response(error)

    @app.exception_handler(EngineError)
    async def _(_: Request, error: EngineError) -> Response:
        return problem_response(error)

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> Response:
        return problem_response(unprocessable(field_errors(error.errors(), skip=1)))

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        detail = error.detail
        if error.status_code == 404 and detail == phrase(404):
            detail = f"no such path: {request.url.path}"
        elif error.status_code == 405 and detail == phrase(405):
            allowed = (error.headers or {}).get("Allow", "another method")
            detail = f"{request.method} {request.url.path} is not offered; {allowed} is"
        problem = Problem(title=phrase(error.status_code), status=error.status_code, detail=str(detail))
        return respond(problem.model_copy(update={"stage": stage.name}), dict(error.headers or {}))
