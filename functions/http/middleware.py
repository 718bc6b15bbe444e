"""What happens to every HTTP request of a stage before and after the stage's own code.

A plain ASGI wrapper rather than framework middleware, because it is on the path of every token. It gives the
request its context (id, trace, deadline, warmth as found), checks who sends it and where it comes from,
bounds its body, the queue and its sender's share, counts, adds `Server-Timing` to
the response, and turns an unexpected exception into problem+json.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from functions import tracing
from functions.auth.accounts import CallerAccounts
from functions.auth.authenticator import READ, Authenticator
from functions.auth.caller_metrics import CallerMetrics
from functions.auth.limits import Exceeded
from functions.contract import Problem, Usage
from functions.http.error_handlers import CLIENT_CLOSED_REQUEST
from functions.http.problem_response import send_problem
from functions.http.request_body import ClientDisconnectedError, read_body, replay
from functions.http.request_state import RequestState
from functions.http.work_scope import ActiveWork, WorkScope
from functions.lifecycle import State
from functions.metrics import Metrics
from functions.problems import ProblemError, problem_of
from functions.replica import ReplicaTracker
from functions.request_spans import record_request
from functions.settings import FunctionSettings
from functions.stage import DirectRoute, RequestContext
from functions.timing import format_server_timing
from knative import env_vars
from transport.held_stream import BEGIN_S, OFF, PROGRESS, HeldStream, progress_text
from transport.propagation import (
    DEADLINE,
    HELD,
    RETRIES,
    RETRIES_USED,
    parse_deadline,
    parse_held,
    parse_retries,
)
from transport.spans import Spans
from transport.stream_dialects import asks_for_stream, dialect_of
from transport.trace_context import continue_trace

log = logging.getLogger(__name__)

PROBES = frozenset(
    {"/healthz/live", "/healthz/ready", "/health", "/ping", "/version", "/metrics", "/openapi.json"}
)
"""Paths that are answered in every state and do not count as work."""

ASSUMED_HELD_S = 1.0
"""How long a request is taken to have been held where no activator says it, in seconds."""


class RequestMiddleware:
    """ASGI application around the stage's own.

    Args:
        app: answers what no direct route takes.
        stage: the stage's name, for problems.
        replica: its state decides whether requests are admitted.
        metrics: where requests are counted.
        settings: deadline and queue limit.
        direct_routes: paths that go past `app`.
        authenticator: says who sends a request.
        spans: records a span for each request; None: nobody asks for them.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        stage: str,
        replica: ReplicaTracker,
        metrics: Metrics,
        settings: FunctionSettings,
        authenticator: Authenticator,
        direct_routes: Sequence[DirectRoute] = (),
        spans: Spans | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._direct_routes = direct_routes
        self._stage = stage
        self._replica = replica
        self._metrics = metrics
        self._settings = settings
        self._clock = clock
        self._spans = spans
        self._authenticator = authenticator
        self._accounts = CallerAccounts(clock)
        self._by_caller = CallerMetrics(metrics.registry, stage=stage, agent=settings.agent or "")
        self._calls_stages = bool(settings.stages)
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.active = ActiveWork()
        """Requests whose body has been read and that are being answered."""

    @property
    def in_flight(self) -> int:
        """Requests that have arrived and are not answered yet, without probes."""
        return self._in_flight

    def caller_totals(self) -> list[dict[str, str | float]]:
        """What each caller has used since the replica began."""
        return self._by_caller.totals()

    async def wait_until_idle(self) -> None:
        """Return once nothing is in flight."""
        while self._in_flight:
            await self._idle.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived = self._clock()
        headers = {key: value for key, value in scope["headers"] if key in _READ}
        received = _text(headers, b"traceparent")
        context = RequestContext(
            request_id=tracing.request_id(_text(headers, b"x-request-id")),
            traceparent=continue_trace(received),
            arrived=arrived,
            deadline=None,
            warmth=self._replica.lifecycle.warmth,
            retries_left=parse_retries(headers.get(RETRIES)),
            clock=self._clock,
        )
        context.spans = self._spans
        context.idempotency_key = _text(headers, b"idempotency-key")
        state = RequestState(context, self.active, progress_off=headers.get(PROGRESS, b"").lower() == OFF)
        state.attach(scope)
        response = _Response(send, context, self._replica, self._accounts)
        path = scope["path"]
        refusal = await self._identify(path, headers, context)
        if path in PROBES and refusal is None:
            await self._answer(scope, receive, response, response)
            return
        try:
            refusal = refusal or self._refusal(scope, headers, context)
            if refusal is not None:
                extra = _CHALLENGE if refusal.status == 401 else ()
                await send_problem(response, refusal, path=path, extra=extra)
                return
            await self._work(scope, receive, response, state)
        finally:
            code, seconds = response.status or CLIENT_CLOSED_REQUEST, self._clock() - arrived
            self._metrics.request(code, seconds)
            self._by_caller.finished(context.caller, code=code, seconds=seconds, usage=context.usage)
            if self._spans is not None:
                record_request(self._spans, context, received, method=scope["method"], path=path, code=code)

    async def _identify(
        self, path: str, headers: dict[bytes, bytes], context: RequestContext
    ) -> Problem | None:
        """Put the caller into the context; a problem for one without a sufficient credential."""
        try:
            context.caller = await self._authenticator.authenticate(path, headers)
        except ProblemError as error:
            self._by_caller.refused(error.problem.status)
            return problem_of(error, stage=self._stage)
        return None

    async def _work(self, scope: Scope, receive: Receive, response: "_Response", state: RequestState) -> None:
        """Answer a request that is admitted, within its caller's limits."""
        context = state.context
        account = self._accounts.admit(context.caller)
        if isinstance(account, Exceeded):
            self._by_caller.limited(context.caller, account.limit)
            problem = ProblemError(
                429,
                f"{account.detail} for {context.caller.name} at this replica",
                title="Limit reached",
                retry_after=account.retry_after,
            )
            await send_problem(response, problem_of(problem, stage=self._stage), path=scope["path"])
            return
        self._enter()
        try:
            await self._read_and_answer(scope, receive, response, state)
        finally:
            self._leave()
            if account is not None:
                usage = context.usage or Usage()
                self._accounts.finish(account, (usage.prompt_tokens or 0) + (usage.completion_tokens or 0))

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes], context: RequestContext) -> Problem | None:
        """Why the request is not admitted; None if it is, with its deadline and cold start in the context."""
        try:
            self._set_deadline(headers.get(DEADLINE), context)
            self._check_origin(scope["method"], headers)
            self._check_media_type(scope, headers.get(b"content-type", b""))
            self._check_state()
        except ProblemError as error:
            return problem_of(error, stage=self._stage)
        held = parse_held(headers.get(HELD))
        context.paid(
            self._replica.cold_start_for(context.arrived - (ASSUMED_HELD_S if held is None else held))
        )
        return None

    def _set_deadline(self, given: bytes | None, context: RequestContext) -> None:
        seconds = self._settings.deadline_seconds
        if given is not None:
            try:
                seconds = parse_deadline(given)
            except ValueError as error:
                shown = given[:40].decode("latin-1")
                raise ProblemError(400, f"X-Pilotlight-Deadline = {shown!r}, {error}") from None
        context.deadline = context.arrived + seconds
        context.deadline_given = given is not None
        if seconds <= 0:
            raise ProblemError(
                504, "the deadline had passed when the request arrived", title="Deadline passed"
            )

    def _check_origin(self, method: str, headers: dict[bytes, bytes]) -> None:
        """Refuse what a web page of another site asks for, unless its origin is allowed (Fetch, 3.2)."""
        origin = _text(headers, b"origin")
        allowed = self._settings.allowed_origins
        if origin is None or method in _SAFE or "*" in allowed or origin in allowed:
            return
        if origin.partition("://")[2].lower() != (_text(headers, b"host") or "").lower():
            raise ProblemError(
                403,
                f"Origin = {origin[:100]!r}, must be this server's own or one of "
                f"{env_vars.ALLOWED_ORIGINS} ({', '.join(allowed) or 'none'})",
                title="Origin not allowed",
            )

    def _check_media_type(self, scope: Scope, content_type: bytes) -> None:
        """Refuse a body that a web page may send anywhere unasked: one without a type, text, a form."""
        if scope["method"] not in _WITH_BODY:
            return
        route = self._route(scope["path"])
        allowed = _JSON if route is None else route.media_types
        if content_type.partition(b";")[0].strip().lower() not in allowed:
            shown = repr(content_type[:80].decode("latin-1")) if content_type else "missing"
            names = " or ".join(sorted(media_type.decode() for media_type in allowed))
            raise ProblemError(415, f"Content-Type = {shown}, must be {names}")

    def _route(self, path: str) -> DirectRoute | None:
        return next((route for route in self._direct_routes if route.matches(path)), None)

    def _check_state(self) -> None:
        if self._in_flight >= self._settings.queue_limit:
            raise ProblemError(
                429,
                f"{self._in_flight} requests are in this replica, its limit is {self._settings.queue_limit}",
                title="Queue full",
                retry_after=1.0,
            )
        if self._replica.state is State.FAILED:
            raise ProblemError(
                503,
                f"the replica has failed: {self._replica.lifecycle.cause}",
                title="Replica failed",
                retry_after=1.0,
            )

    async def _read_and_answer(
        self, scope: Scope, receive: Receive, response: "_Response", state: RequestState
    ) -> None:
        left = state.context.remaining()
        limit = self._settings.body_seconds
        try:
            state.body = await read_body(scope, receive, seconds=limit if left is None else min(left, limit))
        except ClientDisconnectedError:
            return
        except ProblemError as error:
            # What still comes of the body is not waited for.
            close = [(b"connection", b"close")]
            problem = problem_of(error, stage=self._stage)
            await send_problem(response, problem, path=scope["path"], extra=close)
            return
        held = self._held_stream(scope, state, response)
        try:
            if await self._wait_for_start(receive, state, held or response, scope["path"]):
                await self._answer(scope, replay(state.body, receive), held or response, response)
        finally:
            if held is not None:
                held.stop()
                response.status = held.status or response.status

    def _held_stream(self, scope: Scope, state: RequestState, response: "_Response") -> HeldStream | None:
        """The response of a request for a stream that may have to wait for a start; else None.

        An orchestrate stage waits for the starts of the stages behind it.
        """
        every = self._settings.progress_seconds
        waits = self._replica.state is not State.HOT
        if not every or not (waits or self._calls_stages) or state.progress_off:
            return None
        dialect = dialect_of(scope["method"], scope["path"])
        if dialect is None or not asks_for_stream(state.body):
            return None
        held = HeldStream(response, dialect, timing=lambda: format_server_timing(state.context.timings))
        held.speak(
            lambda: self._progress(state.context),
            every_s=every,
            after_s=BEGIN_S if waits else max(BEGIN_S, min(1.0, every)),
        )
        return held

    def _progress(self, context: RequestContext) -> str:
        elapsed = self._clock() - context.arrived
        phase = self._replica.phase
        if phase is None:
            stage = "" if context.waiting_for is None else f" stage={context.waiting_for}"
            return f"waiting{stage} elapsed={elapsed:.1f}s"
        last = self._replica.last_cold_start
        return progress_text(phase.value, elapsed, None if last is None else last.total)

    async def _wait_for_start(self, receive: Receive, state: RequestState, send: Send, path: str) -> bool:
        """Hold a request that came before the replica's first start has ended, as `readiness: port` lets it.

        Returns:
            Whether it is still to be answered.
        """
        if self._replica.state not in _STARTING or self._replica.lifecycle.ready:
            return True
        context = state.context
        try:
            async with WorkScope(receive, context, self.active):
                began = self._clock()
                await self._replica.wait_for(State.HOT, State.STANDBY, State.ASLEEP)
                context.record("held", self._clock() - began)
            self._check_state()
        except ClientDisconnectedError:
            return False
        except (ProblemError, TimeoutError) as error:
            await send_problem(send, problem_of(error, stage=self._stage), path=path)
            return False
        context.paid(self._replica.cold_start_for(context.arrived))
        return True

    async def _answer(self, scope: Scope, receive: Receive, send: Send, response: "_Response") -> None:
        route = self._route(scope["path"])
        app = self._app if route is None else route.app
        try:
            await app(scope, receive, send)
        except Exception as error:  # any bug of a stage must still be answered
            log.exception("unexpected error", extra={"request_id": response.context.request_id})
            started = send.answered if isinstance(send, HeldStream) else response.status is not None
            if not started:
                await send_problem(send, problem_of(error, stage=self._stage), path=scope["path"])
            elif not response.complete:
                # Too late for a problem: the server must cut the connection, lest half an answer look whole.
                raise

    def _enter(self) -> None:
        self._in_flight += 1
        self._idle.clear()
        self._metrics.queue_depth.set(self._in_flight)

    def _leave(self) -> None:
        self._in_flight -= 1
        self._metrics.queue_depth.set(self._in_flight)
        if not self._in_flight:
            self._idle.set()


class _Response:
    """The `send` of one request, which adds the fields that every response carries."""

    __slots__ = ("_accounts", "_replica", "_send", "complete", "context", "status")

    def __init__(
        self, send: Send, context: RequestContext, replica: ReplicaTracker, accounts: CallerAccounts
    ) -> None:
        self._send = send
        self._accounts = accounts
        self._replica = replica
        self.context = context
        self.status: int | None = None
        """None until the head is sent."""
        self.complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            headers.append((b"server-timing", format_server_timing(self.context.timings).encode("latin-1")))
            headers.append((b"x-request-id", self.context.request_id.encode()))
            headers += self._accounts.headers(self.context.caller)
            if self.context.retries_used:
                headers.append((RETRIES_USED, str(self.context.retries_used).encode()))
            if self._replica.state is State.DRAINING:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True
        await self._send(message)


_READ = frozenset(
    {
        b"content-type",
        b"host",
        b"idempotency-key",
        b"origin",
        b"x-request-id",
        b"traceparent",
        DEADLINE,
        HELD,
        RETRIES,
        PROGRESS,
        *READ,
    }
)
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)
_STARTING = frozenset({State.STARTING, State.LOADING})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_JSON = frozenset({b"application/json"})


def _text(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
