"""The HTTP application of any stage: probes, metrics, `/invoke`, the stage's own routes, errors, drain.

The port is open before the stage is ready: `Stage.start` runs in the background, and readiness follows the
replica's state.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from functions import termination_message
from functions.auth.authenticator import Authenticator
from functions.auth.caller import USE_BY_KEY
from functions.contract import Problem, StageReply
from functions.gpu_metrics import GpuMetrics
from functions.http.answer_format import ContractFormat
from functions.http.api_description import INVOKE_BODY, INVOKE_RESPONSES, describe
from functions.http.asgi_response import AsgiResponse
from functions.http.error_handlers import ErrorHandlers
from functions.http.invocation import Invocation
from functions.http.middleware import RequestMiddleware
from functions.http.request_state import state_of
from functions.lifecycle import Lifecycle, State
from functions.metrics import CONTENT_TYPE, Metrics
from functions.replica import ReplicaTracker
from functions.request_spans import ColdStartSpans
from functions.settings import FunctionSettings
from functions.stage import RequestContext, Stage, StageRuntime, StartError
from functions.timing import ColdStartTiming
from transport.span_metrics import SpanMetrics
from transport.spans import SpanQueue, Spans, open_queue

log = logging.getLogger(__name__)

PHASE_HEADER = "X-Pilotlight-Phase"
"""Of a readiness response while a replica starts: what it is doing, for whoever holds requests for it."""
EXPOSED_HEADERS = [
    "Retry-After",
    "Server-Timing",
    "X-Request-Id",
    *(
        f"X-RateLimit-{what}-{of}"
        for what in ("Limit", "Remaining", "Reset")
        for of in ("Requests", "Tokens")
    ),
]
"""Fields that scripts of allowed origins may read."""

__all__ = ["StageApp", "context_of", "create_app"]


class StageApp:
    """The ASGI application of one stage.

    Every request goes through `RequestMiddleware`, then to one of the stage's direct routes or to the
    framework's routes: probes, `/invoke`, and what the stage adds. Pages of allowed origins get the answers
    that browsers ask for (CORS).

    Args:
        stage: started by the application's lifespan, closed at its end.
        settings: limits and names.
        replica: the one that runs the stage.
    """

    def __init__(self, stage: Stage, settings: FunctionSettings, replica: ReplicaTracker) -> None:
        self.stage = stage
        self.settings = settings
        self.replica = replica
        self.metrics = Metrics(stage=stage.name, kind=stage.kind)
        self.metrics.extra.append(GpuMetrics(stage=stage.name, kind=stage.kind, devices=settings.gpu_devices))
        self._span_queue = open_queue(settings.telemetry)
        spans = None if self._span_queue is None else _spans(self._span_queue, stage, settings)
        if self._span_queue is not None and spans is not None:
            self.metrics.registry.register(SpanMetrics(self._span_queue))
            replica.on_cold_start(ColdStartSpans(spans))
        _observe(replica, self.metrics, stage, settings)

        routes = self._routes = stage.routes(StageRuntime(replica, self.metrics))
        self.api = _StageApi(
            accepts_empty_input=routes.accepts_empty_input,
            title=f"Pilotlight {stage.kind}: {stage.name}",
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
        )
        self._add_probes()
        self._add_invoke()
        if routes.router is not None:
            self.api.include_router(routes.router)
        ErrorHandlers(stage.name).add_to(self.api)

        # Around the framework, so that its own responses (404, 405, a crash) pass through it too.
        self._middleware = RequestMiddleware(
            self.api,
            stage=stage.name,
            replica=replica,
            metrics=self.metrics,
            settings=settings,
            authenticator=Authenticator(settings),
            direct_routes=routes.direct,
            spans=spans,
        )
        self._app: ASGIApp = self._middleware
        if settings.allowed_origins:
            self._app = CORSMiddleware(
                self._middleware,
                allow_origins=settings.allowed_origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=EXPOSED_HEADERS,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        await self._app(scope, receive, send)

    @property
    def in_flight(self) -> int:
        """Requests that have arrived and are not answered yet, without probes."""
        return self._middleware.in_flight

    async def drain(self) -> None:
        """Stop being ready at once; return when nothing is in flight, or when the grace period has passed.

        What is still running then is ended, and its client told so (503, retryable).
        """
        if self.replica.state is not State.DRAINING:
            self.replica.to(State.DRAINING)
        grace = self.settings.drain_seconds
        try:
            await asyncio.wait_for(self._middleware.wait_until_idle(), grace)
        except TimeoutError:
            log.warning("grace period over", extra={"in_flight": self.in_flight, "grace_seconds": grace})
            self.abort()

    def abort(self) -> None:
        """End the work on every request now, with a retryable 503 to its client."""
        self._middleware.active.abort(
            Problem(
                title="Replica stopped",
                status=503,
                detail="the replica was stopped before the answer was complete",
                retryable=True,
                stage=self.stage.name,
            )
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(_start(self.stage, self.replica))
        try:
            yield
        finally:
            starting.cancel()
            await asyncio.wait({starting})
            for total in self._middleware.caller_totals():
                log.info(USE_BY_KEY, extra={"stage": self.stage.name, "agent": self.settings.agent, **total})
            await self.stage.close()
            if self._span_queue is not None:
                await asyncio.to_thread(self._span_queue.close)

    def _add_probes(self) -> None:
        @self.api.get("/healthz/live", tags=["probes"], responses=_PROBE_RESPONSES)
        async def live() -> JSONResponse:
            """200 as soon as the port is open; 503 once the replica has failed for good."""
            return JSONResponse(self._state(), status_code=200 if self.replica.lifecycle.live else 503)

        @self.api.get("/healthz/ready", tags=["probes"], responses=_PROBE_RESPONSES)
        async def ready() -> JSONResponse:
            """200 while a request sent now is answered here; 503 otherwise, with the cause of a failure."""
            ready, phase = self.replica.lifecycle.ready, self.replica.phase
            headers = {PHASE_HEADER: phase.value} if phase and not ready else None
            return JSONResponse(self._state(), 200 if ready else 503, headers)

        @self.api.get("/metrics", tags=["probes"], response_class=PlainTextResponse)
        async def metrics() -> Response:
            """Prometheus metrics of the stage, and of its engine where it has one."""
            return Response(await self.metrics.page(), media_type=CONTENT_TYPE)

    def _state(self) -> dict[str, object]:
        lifecycle, cold_start = self.replica.lifecycle, self.replica.cold_start
        return {
            "stage": self.stage.name,
            "kind": self.stage.kind,
            "state": lifecycle.state,
            "warmth": lifecycle.warmth,
            "cause": lifecycle.cause,
            "phase": self.replica.phase,
            "phases": {str(phase): seconds for phase, seconds in cold_start.phases.items()},
            "cold_start_seconds": cold_start.total,
            "age_seconds": self.replica.age,
            "in_flight": self.in_flight,
        }

    def _add_invoke(self) -> None:
        @self.api.post(
            "/invoke",
            response_model=StageReply,
            tags=["stage"],
            openapi_extra=INVOKE_BODY,
            responses=INVOKE_RESPONSES,
        )
        async def invoke(request: Request) -> Response:
            """Do the stage's work: `StageRequest` in, `StageReply` out, or events with `"stream": true`."""
            contract = ContractFormat(accepts_empty_input=self._routes.accepts_empty_input)
            return AsgiResponse(Invocation(self.stage, self.metrics, context_of(request), contract))


def create_app(
    stage: Stage, settings: FunctionSettings, *, replica: ReplicaTracker | None = None
) -> StageApp:
    """The application of one stage.

    Args:
        stage: started by the application's lifespan, closed at its end.
        settings: limits and names.
        replica: given by `functions.__main__`, which knows when the process began.
    """
    return StageApp(stage, settings, replica or ReplicaTracker())


def context_of(request: Request) -> RequestContext:
    """The context of a request, as `RequestMiddleware` made it."""
    return state_of(request.scope).context


_PROBE_RESPONSES: dict[int | str, dict[str, Any]] = {
    503: {"description": "No; the body is the same", "content": {"application/json": {"schema": {}}}}
}


class _StageApi(FastAPI):
    """The framework's application; its description also has what the framework does not see."""

    def __init__(self, *, accepts_empty_input: bool, **options: Any) -> None:
        super().__init__(**options)
        self._accepts_empty_input = accepts_empty_input

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            self.openapi_schema = describe(super().openapi(), accepts_empty_input=self._accepts_empty_input)
        return self.openapi_schema


def _observe(replica: ReplicaTracker, metrics: Metrics, stage: Stage, settings: FunctionSettings) -> None:
    """Count and log what happens to the replica."""
    replica.on_change(metrics.changed)
    replica.on_change(_log_failure)
    replica.on_cold_start(metrics.cold_start)
    replica.on_cold_start(lambda cold_start: _log_cold_start(stage, settings, cold_start))
    metrics.changed(replica.lifecycle)


def _spans(queue: SpanQueue, stage: Stage, settings: FunctionSettings) -> Spans:
    attributes: dict[str, str | int | float | bool] = {"pilotlight.kind": stage.kind}
    if settings.agent:
        attributes["pilotlight.agent"] = settings.agent
    return Spans(queue, settings.telemetry.get("OTEL_SERVICE_NAME") or stage.name, attributes)


async def _start(stage: Stage, replica: ReplicaTracker) -> None:
    try:
        await stage.start(replica)
    except StartError as error:
        replica.fail(str(error))
    except Exception as error:
        log.exception("unexpected error while starting")
        replica.fail(f"{type(error).__name__}: {error}")
    else:
        if replica.state in {State.STARTING, State.LOADING}:
            replica.fail(f"stage {stage.name} ended its start in state {replica.state}")


def _log_failure(lifecycle: Lifecycle) -> None:
    if lifecycle.state is State.FAILED:
        log.error("replica failed", extra={"cause": lifecycle.cause})
        termination_message.write(lifecycle.cause or "")


def _log_cold_start(stage: Stage, settings: FunctionSettings, cold_start: ColdStartTiming) -> None:
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
