"""What a stage is: the interface between the HTTP application (`functions.http.app`) and the stages.

A stage module `functions/stages/KIND.py` has a function `build(settings: FunctionSettings) -> Stage`. It is
cheap and does no I/O: the port is already open, and `start` runs in the background.
"""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp

from functions.auth.caller import ANYONE, Caller
from functions.contract import StageEvent, StageReply, StageRequest, Usage
from functions.problems import field_errors
from functions.settings import FunctionSettings, SettingsError
from functions.timing import ColdStartTiming, Phase, ServerTiming
from knative import env_vars
from transport.propagation import DEADLINE, RETRIES
from transport.spans import Kind, Spans, Value
from transport.trace_context import continue_trace

if TYPE_CHECKING:
    from fastapi import APIRouter

    from functions.metrics import Metrics
    from functions.replica import ReplicaTracker


_DEADLINE = DEADLINE.decode()
_RETRIES = RETRIES.decode()

ConfigT = TypeVar("ConfigT", bound=BaseModel)


class StartError(Exception):
    """A start that failed for a reason that the user can act on; the message is the cause."""


def parse_config(model: type[ConfigT], settings: FunctionSettings) -> ConfigT:
    """`PILOTLIGHT_STAGE_CONFIG` as the stage kind's own model.

    Raises:
        SettingsError: with a line per bad field.
    """
    try:
        # Through JSON, where a strict model takes a list for a tuple.
        return model.model_validate_json(json.dumps(dict(settings.stage_config)))
    except ValidationError as error:
        raise SettingsError(
            tuple(
                f"{env_vars.STAGE_CONFIG}.{entry['field']} = {entry['value']!r}: {entry['message']}"
                for entry in field_errors(error.errors(include_url=False, include_context=False))
            )
        ) from None


class RequestContext:
    """What travels with one request besides its body, and what it is measured by.

    A router of a stage gets it from `functions.http.app.context_of(request)`.
    """

    __slots__ = (
        "_clock",
        "_rescheduled",
        "_timings",
        "arrived",
        "caller",
        "cold_start",
        "deadline",
        "deadline_given",
        "idempotency_key",
        "request_id",
        "retries_left",
        "retries_used",
        "spans",
        "traceparent",
        "ttft",
        "usage",
        "waiting_for",
        "warmth",
    )

    def __init__(
        self,
        *,
        request_id: str,
        traceparent: str,
        arrived: float,
        deadline: float | None,
        deadline_given: bool = False,
        warmth: str,
        cold_start: ColdStartTiming | None = None,
        retries_left: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.request_id = request_id
        """`X-Request-Id` as received or made."""
        self.traceparent = traceparent
        """W3C trace context: the received trace with this hop's span id."""
        self.arrived = arrived
        """Instant of arrival on `clock` (monotonic)."""
        self.deadline = deadline
        """Instant after which nobody waits for the answer; None for never."""
        self.deadline_given = deadline_given
        """The request brought it, rather than taking the replica's default."""
        self.warmth = warmth
        """Warmth of the replica when the request arrived."""
        self.cold_start = cold_start
        """The cold start that this request waited for."""
        self.retries_left = retries_left
        """How often calls on behalf of this request may be made again, in all; None for no limit."""
        self.retries_used = 0
        """How often they were made again, by this stage and by those behind it."""
        self._rescheduled: Callable[[float], None] | None = None
        self.ttft: float | None = None
        """Seconds to the first token, where the stage knows it more exactly than its events tell."""
        self.caller: Caller = ANYONE
        """Who sent the request, or on whose behalf another stage did."""
        self.usage: Usage | None = None
        """Tokens that the request has cost, once they are known."""
        self.idempotency_key: str | None = None
        """`Idempotency-Key` as received."""
        self.waiting_for: str | None = None
        """The stage whose answer it waits for."""
        self.spans: Spans | None = None
        """Records spans; None: nobody asks for them."""
        self._clock = clock
        self._timings: list[ServerTiming] = []

    def now(self) -> float:
        """This instant on the clock of `arrived` and `deadline`."""
        return self._clock()

    def remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - self._clock())

    def default_deadline(self, seconds: float) -> None:
        """Set the deadline of a request that brought none, in seconds from its arrival."""
        if not self.deadline_given:
            self.deadline = self.arrived + seconds
            if self._rescheduled is not None:
                self._rescheduled(self.deadline - self._clock())

    def on_deadline(self, rescheduled: Callable[[float], None]) -> None:
        """Call `rescheduled` with the seconds from now when the deadline changes."""
        self._rescheduled = rescheduled

    def limit_retries(self, retries: int) -> None:
        """Allow at most so many retries, or fewer if the request's sender allows fewer."""
        self.retries_left = retries if self.retries_left is None else min(self.retries_left, retries)

    def take_retry(self) -> bool:
        """Whether a call may be made again; if so, the retry counts."""
        if self.retries_left == 0:
            return False
        self.count_retries(1)
        return True

    def count_retries(self, retries: int) -> None:
        """Retries were made, here or by a server behind, as its response says."""
        self.retries_used += retries
        if self.retries_left is not None:
            self.retries_left = max(0, self.retries_left - retries)

    def record(self, name: str | Phase, seconds: float) -> None:
        """Add an entry to the response's `Server-Timing`; without effect once the response's head is sent."""
        self._timings.append(ServerTiming(str(name), seconds))

    def paid(self, cold_start: ColdStartTiming | None) -> None:
        """The request waited for this cold start, by an activator or by the replica."""
        if cold_start is not None:
            self.cold_start = cold_start
            self.warmth = cold_start.warmth

    @property
    def timings(self) -> tuple[ServerTiming, ...]:
        """All entries for `Server-Timing`: warmth as found, cold-start phases, recorded ones, total."""
        cold = self.cold_start.phases.items() if self.cold_start else ()
        return (
            ServerTiming("warmth", description=self.warmth),
            *(ServerTiming(str(phase), seconds) for phase, seconds in cold),
            *self._timings,
            ServerTiming("total", self._clock() - self.arrived),
        )

    @contextmanager
    def span(self, name: str, kind: Kind = "internal", **attributes: Value) -> Iterator[str]:
        """Record the block as a span of the request; gives the `traceparent` to hand on."""
        if self.spans is None:
            yield self.traceparent
            return
        own, began, error = continue_trace(self.traceparent), self.now(), None
        try:
            yield own
        except BaseException as raised:
            error = str(raised) or type(raised).__name__
            raise
        finally:
            self.spans.record(
                name,
                traceparent=own,
                parent=self.traceparent,
                began=began,
                kind=kind,
                attributes=attributes,
                error=error,
            )

    def headers(self) -> dict[str, str]:
        """Headers for a call that is made on behalf of this request."""
        headers = {"X-Request-Id": self.request_id, "traceparent": self.traceparent}
        if (remaining := self.remaining()) is not None:
            headers[_DEADLINE] = f"{remaining:.3f}"
        if self.retries_left is not None:
            headers[_RETRIES] = str(self.retries_left)
        return headers


@dataclass(frozen=True, slots=True)
class StageRuntime:
    """What the application of a stage offers to the stage's own routes."""

    replica: "ReplicaTracker"
    metrics: "Metrics"


@dataclass(frozen=True, slots=True)
class DirectRoute:
    """Paths answered by a plain ASGI application, past the framework, which would wrap every token once more.

    `functions.http.request_state.state_of` has the request's context and body.
    """

    app: ASGIApp
    prefixes: tuple[str, ...] = ()
    paths: frozenset[str] = frozenset()
    media_types: frozenset[bytes] = frozenset({b"application/json"})
    """What the body of a POST, PUT or PATCH may be."""

    def matches(self, path: str) -> bool:
        """Whether the application answers this path."""
        return path in self.paths or path.startswith(self.prefixes)


@dataclass(frozen=True, slots=True)
class StageRoutes:
    """Paths that a stage serves besides the probes, and what its `/invoke` takes."""

    router: "APIRouter | None" = None
    """Paths that stand in the API's description."""
    direct: tuple[DirectRoute, ...] = ()
    """Paths on the way of every token; they take precedence."""
    accepts_empty_input: bool = False
    """Whether `/invoke` takes an empty text, as the last segment of a stream or a model's empty answer is."""


class Stage(Protocol):
    """One stage of an agent."""

    @property
    def name(self) -> str:
        """The stage's name in the agent; stands in replies, timings and problems."""
        ...

    @property
    def kind(self) -> str:
        """ingest, generate, postprocess, orchestrate."""
        ...

    async def start(self, replica: "ReplicaTracker") -> None:
        """Become able to answer; runs in the background once the port is open.

        Changes the state of `replica` (STARTING -> LOADING -> HOT, or STANDBY) and records phases. Returning
        in STARTING or LOADING is a bug and fails the replica. May keep `replica` for later transitions.

        Raises:
            Exception: of any kind; its message becomes the cause of FAILED, and the process exits with 1.
        """
        ...

    async def invoke(
        self, request: StageRequest, context: RequestContext
    ) -> StageReply | AsyncIterator[StageEvent]:
        """Answer one request: a reply, or for `request.stream` events (a reply is sent as one event).

        Cancelled when the client goes away or the deadline passes; an event iterator is closed (`aclose`).

        Raises:
            functions.problems.ProblemError: an error with its HTTP status.
            functions.engine.EngineError: of the engine.
        """
        ...

    async def close(self) -> None:
        """Release everything; no request is in flight any more. May be called before `start` has ended."""
        ...

    def routes(self, runtime: StageRuntime) -> StageRoutes:
        """The paths that the stage serves besides `/invoke` and the probes; may register metrics of its own.

        Called once, when the application is made, before `start`.
        """
        ...
