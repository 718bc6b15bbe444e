"""The door of a stage: what happens to every HTTP request before and after the stage's own code.

A plain ASGI wrapper rather than framework middleware: it is on the path of every token. It gives the request
its context (id, trace, deadline, warmth as found), keeps the queue bounded, counts, stamps `Server-Timing`
on the response, and turns an exception that nobody foresaw into problem+json.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from functions import tracing
from functions.contract import Problem
from functions.http.problems import MEDIA_TYPE, ProblemError, problem_of
from functions.lifecycle import State
from functions.metrics import Metrics
from functions.replica import Replica
from functions.settings import Settings
from functions.stage import RequestContext
from functions.timing import format_server_timing

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

PROBES = frozenset({"/healthz/live", "/healthz/ready", "/metrics", "/openapi.json"})
"""Paths that are answered in every state, and that are no work."""


HELD_S = 1.0
"""Without a word from the activator: a request that comes so soon after HOT was held until then."""


def problem_head(problem: Problem) -> list[tuple[bytes, bytes]]:
    """The response headers of a problem."""
    headers = [(b"content-type", MEDIA_TYPE.encode())]
    if problem.retry_after is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(problem.retry_after))).encode()))
    return headers


def problem_body(problem: Problem) -> bytes:
    """The response body of a problem."""
    return problem.model_dump_json(exclude_none=True).encode()


async def send_problem(
    send: Send, problem: Problem, *, extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Answer with a problem."""
    body = problem_body(problem)
    headers = [*problem_head(problem), (b"content-length", str(len(body)).encode()), *(extra or [])]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


@dataclass(frozen=True, slots=True)
class DirectRoute:
    """Paths whose requests go straight to an application, past the framework's router and wrappers."""

    app: App
    prefixes: tuple[str, ...] = ()
    paths: frozenset[str] = frozenset()

    def takes(self, path: str) -> bool:
        """Whether a path is one of them."""
        return path in self.paths or path.startswith(self.prefixes)


class RequestMiddleware:
    """ASGI application around the stage's own.

    Args:
        app: the stage's application.
        stage: its name, for problems.
        replica: whose state decides.
        metrics: where requests are counted.
        settings: deadline and queue limit.
        shortcuts: looked at before `app`; may still grow.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        app: App,
        *,
        stage: str,
        replica: Replica,
        metrics: Metrics,
        settings: Settings,
        shortcuts: Sequence[DirectRoute] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._shortcuts = shortcuts
        self._stage = stage
        self._replica = replica
        self._metrics = metrics
        self._settings = settings
        self._clock = clock
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Requests that are work and not yet answered."""
        return self._in_flight

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
        headers = {key: value for key, value in scope["headers"] if key in _HEADERS}
        context = RequestContext(
            request_id=tracing.request_id(_text(headers, b"x-request-id")),
            traceparent=tracing.continue_trace(_text(headers, b"traceparent")),
            arrived=arrived,
            deadline=None,
            warmth=self._replica.lifecycle.warmth,
            clock=self._clock,
        )
        scope.setdefault("state", {})["context"] = context
        response = _Response(send, context, self._replica)
        if scope["path"] in PROBES:
            await self._answer(scope, receive, response)
            return
        try:
            refusal = self._admit(headers, context)
            if refusal is not None:
                await send_problem(response, refusal)
                return
            self._enter()
            try:
                await self._answer(scope, receive, response)
            finally:
                self._leave()
        finally:
            self._metrics.request(response.status or 499, self._clock() - arrived)

    def _admit(self, headers: dict[bytes, bytes], context: RequestContext) -> Problem | None:
        try:
            seconds = _deadline(_text(headers, b"x-pilotlight-deadline"), self._settings.deadline_seconds)
        except ProblemError as error:
            return problem_of(error, stage=self._stage)
        context.deadline = context.arrived + seconds
        context.deadline_given = b"x-pilotlight-deadline" in headers
        if seconds <= 0:
            refusal = ProblemError(
                504, "the deadline had passed when the request arrived", title="Deadline passed"
            )
        elif self._in_flight >= self._settings.queue_limit:
            refusal = ProblemError(
                429,
                f"{self._in_flight} requests are in this replica, its limit is {self._settings.queue_limit}",
                title="Queue full",
                retry_after=1.0,
            )
        elif self._replica.state is State.FAILED:
            refusal = ProblemError(503, "the replica has failed; readiness says why", retry_after=1.0)
        else:
            context.paid(self._replica.cold_start_for(context.arrived - _held(headers)))
            return None
        return problem_of(refusal, stage=self._stage)

    async def _answer(self, scope: Scope, receive: Receive, response: "_Response") -> None:
        path = scope["path"]
        app = next((way.app for way in self._shortcuts if way.takes(path)), self._app)
        try:
            await app(scope, receive, response)
        except Exception as error:  # the last line: any bug of a stage must still be answered
            log.exception("unforeseen error", extra={"request_id": response.context.request_id})
            if response.status is None:
                await send_problem(response, problem_of(error, stage=self._stage))
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
    """The `send` of one request, which adds the headers that every response carries."""

    __slots__ = ("_replica", "_send", "complete", "context", "status")

    def __init__(self, send: Send, context: RequestContext, replica: Replica) -> None:
        self._send = send
        self._replica = replica
        self.context = context
        self.status: int | None = None
        self.complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            headers.append((b"server-timing", format_server_timing(self.context.timings).encode("latin-1")))
            headers.append((b"x-request-id", self.context.request_id.encode()))
            if self._replica.state is State.DRAINING:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True
        await self._send(message)


_HEADERS = frozenset({b"x-request-id", b"traceparent", b"x-pilotlight-deadline", b"x-pilotlight-held"})


def _text(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def _held(headers: dict[bytes, bytes]) -> float:
    """Seconds for which the request was held before it came here, as the activator says."""
    try:
        seconds = float(headers[b"x-pilotlight-held"])
    except (KeyError, ValueError):
        return HELD_S
    return seconds if seconds >= 0 else HELD_S


def _deadline(raw: str | None, default: float) -> float:
    if raw is None:
        return default
    try:
        seconds = float(raw)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ProblemError(
            400, f"X-Pilotlight-Deadline = {raw[:40]!r}, must be the seconds left, a decimal number"
        )
    return seconds
