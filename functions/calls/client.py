"""Calling another stage over HTTP: retries, circuit breaker, deadline and trace.

What is retried: a stage that cannot be reached, and an answer whose problem says `retryable`; with
exponential back-off and jitter, or after the time that `Retry-After` names; never once a stream has begun.
The deadline bounds it all, so a stage that is cold is waited for, not given up.

The circuit breaker of a stage opens after consecutive failures. A request that arrives then is refused at
once; one that is already being retried waits until the circuit may close.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

import aiohttp
import stamina
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState
from pydantic import Field

from functions.calls.replies import Called, called, read_events, read_problem, read_reply
from functions.contract import (
    StageEvent,
    StageReply,
    StageRequest,
)
from functions.problems import ProblemError
from functions.settings import StageAddress
from functions.stage import RequestContext, StageConfig

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""For the connection alone; a stage that starts is waited for behind its activator, after it is connected."""


class CallPolicy(StageConfig):
    """How patient the caller is with one stage."""

    attempts: Annotated[int, Field(ge=1, le=100)] = 10
    """Calls at most for one request, the first one included.

    Connections that were refused do not count: a stage that is not there yet is waited for.
    """
    wait_initial: Annotated[float, Field(gt=0)] = 0.1
    """Seconds before the second call; doubled each time, with jitter of the same size."""
    wait_max: Annotated[float, Field(gt=0)] = 5.0
    """Seconds between calls at most, unless the stage asked for more."""
    breaker_failures: Annotated[int, Field(ge=1)] = 5
    """Consecutive failures that open the circuit."""
    breaker_seconds: Annotated[float, Field(gt=0)] = 5.0
    """How long it stays open."""


Outcome: TypeAlias = Literal["ok", "refused", "failed", "unreachable", "circuit_open"]
"""How one attempt ended: `refused` is a problem below 500, `failed` one from there on."""

ObserveCall: TypeAlias = Callable[[str, Outcome, float], None]
"""Told of each attempt: the stage's name, how it ended, and the seconds up to the response's head."""


class _CircuitOpenError(ProblemError):
    """Nobody was called. A new request fails fast; one that is already being retried waits."""

    def __init__(self, stage: str, failures: int, left: float, *, under_way: bool) -> None:
        super().__init__(
            503,
            f"stage {stage} failed {failures} times in a row; it is tried again in {left:.1f} s",
            title="Circuit open",
            retry_after=left,
            stage=stage,
        )
        self.worth_waiting = under_way


class _UnreachableError(ProblemError):
    """No answer at all."""

    def __init__(self, stage: str, url: str, error: Exception) -> None:
        super().__init__(
            503,
            f"stage {stage} at {url} did not answer: {error or type(error).__name__}",
            title="Stage unreachable",
            stage=stage,
        )
        self.untouched = isinstance(error, aiohttp.ClientConnectorError)
        """There was not even a connection, so nothing was begun over there."""


class StageClient:
    """One stage as another one calls it.

    Args:
        session: shared by all stages; its connector has no limit, the stages' own queue limits hold.
        address: where it is.
        gateway: connect there instead, with the stage's host in `Host`.
        policy: patience.
        observe: told of each attempt.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        address: StageAddress,
        *,
        gateway: str | None,
        policy: CallPolicy,
        observe: ObserveCall,
    ) -> None:
        self.name = address.name
        self.kind = address.kind
        self._session = session
        self._policy = policy
        self._observe = observe
        self._url = (gateway or address.url).rstrip("/")
        if gateway is not None:
            self._url += urlsplit(address.url).path.rstrip("/")
        self._host = {"Host": urlsplit(address.url).netloc} if gateway is not None else {}
        self._breakers = AsyncCircuitBreakerFactory(
            default_threshold=policy.breaker_failures,
            default_ttl=policy.breaker_seconds,
            exclude=[asyncio.CancelledError, (ProblemError, _is_no_failure_of_the_stage)],
        )
        self._answered: float | None = None
        self._waking: asyncio.Task[None] | None = None

    async def call(self, request: StageRequest, context: RequestContext) -> Called:
        """The stage's whole reply.

        Raises:
            ProblemError: the stage's own problem, or ours about it; `stage` names it.
        """
        began = context.now()
        attempts = 0
        async for attempt in self._retrying(context):
            with attempt:
                attempts = attempt.num
                response = await self._post(request, context, first=attempts == 1)
                try:
                    body = await response.read()
                except (aiohttp.ClientError, OSError) as error:
                    raise _UnreachableError(self.name, self._url, error) from error
                finally:
                    response.close() if not response.content.at_eof() else response.release()
        seconds = context.now() - began
        reply = read_reply(self.name, body)
        return called(self.name, reply, response.headers, seconds=seconds, attempts=attempts)

    @asynccontextmanager
    async def stream(
        self, request: StageRequest, context: RequestContext
    ) -> AsyncIterator[AsyncGenerator[StageEvent, None]]:
        """The stage's events, ending in `Final` (with the caller's timing added) or `Failure`.

        Leaving the block closes the connection, which makes the stage stop.

        Raises:
            ProblemError: on entering, as `call`; after that a failure is an event.
        """
        began = context.now()
        attempts = 0
        async for attempt in self._retrying(context):
            with attempt:
                attempts = attempt.num
                response = await self._post(request, context, first=attempts == 1)

        def finish(reply: StageReply) -> StageReply:
            seconds = context.now() - began
            return called(self.name, reply, response.headers, seconds=seconds, attempts=attempts).reply

        try:
            yield read_events(self.name, response, finish)
        finally:
            response.close() if not response.content.at_eof() else response.release()

    def wake(self, headers: Mapping[str, str], *, idle_seconds: float, patience_seconds: float) -> None:
        """Ask for the stage's readiness in the background, so that it starts now if it is cold.

        Nothing happens while another such call is under way, or when the stage answered `idle_seconds` ago
        or less.
        """
        fresh = self._answered is not None and time.monotonic() - self._answered <= idle_seconds
        if not fresh and (self._waking is None or self._waking.done()):
            self._waking = asyncio.create_task(self._wake(dict(headers), patience_seconds))

    async def close(self) -> None:
        """End what runs in the background."""
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.wait({self._waking})

    async def _wake(self, headers: dict[str, str], patience_seconds: float) -> None:
        try:
            async with (
                asyncio.timeout(patience_seconds),
                self._session.get(
                    f"{self._url}/healthz/ready", headers={**headers, **self._host}
                ) as response,
            ):
                await response.read()
                if response.status == 200:
                    self._answered = time.monotonic()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # Only a head start; the call itself retries and reports.
            log.debug("wake failed", extra={"target": self.name, "reason": str(error)})

    def _retrying(self, context: RequestContext) -> AsyncIterator[stamina.Attempt]:
        policy = self._policy
        failures = 0

        def wait(error: Exception) -> bool | float:
            nonlocal failures
            if not isinstance(error, ProblemError) or not error.problem.retryable:
                return False
            if isinstance(error, _CircuitOpenError):
                if not error.worth_waiting:
                    return False
            elif not (isinstance(error, _UnreachableError) and error.untouched):
                failures += 1
                if failures >= policy.attempts:
                    return False
            after = error.problem.retry_after
            if after is None:
                return True
            left = context.remaining()
            if left is not None and after >= left:
                return False
            return after + random.uniform(0, policy.wait_initial)  # noqa: S311 - spreads load, guards nothing

        return stamina.retry_context(
            on=wait,
            attempts=None,
            timeout=context.remaining(),
            wait_initial=policy.wait_initial,
            wait_jitter=policy.wait_initial,
            wait_max=policy.wait_max,
        ).__aiter__()

    async def _post(
        self, request: StageRequest, context: RequestContext, *, first: bool
    ) -> aiohttp.ClientResponse:
        """A response with status 200 and its body unread."""
        began = context.now()
        try:
            response = await self._through_breaker(request, context, first=first)
        except ProblemError as error:
            self._observe(self.name, _outcome(error), context.now() - began)
            raise
        self._observe(self.name, "ok", context.now() - began)
        return response

    async def _through_breaker(
        self, request: StageRequest, context: RequestContext, *, first: bool
    ) -> aiohttp.ClientResponse:
        try:
            async with await self._breakers.get_breaker(self.name):
                return await self._send(request, context)
        except OpenedState as error:
            left = max(0.0, error.opened_at + self._policy.breaker_seconds - time.time())
            raise _CircuitOpenError(
                self.name, self._policy.breaker_failures, left, under_way=not first
            ) from None

    async def _send(self, request: StageRequest, context: RequestContext) -> aiohttp.ClientResponse:
        try:
            response = await self._session.post(
                f"{self._url}/invoke",
                data=request.model_dump_json(exclude_none=True).encode(),
                headers={"Content-Type": "application/json", **context.headers(), **self._host},
            )
        except (aiohttp.ClientError, OSError) as error:
            raise _UnreachableError(self.name, self._url, error) from error
        if response.status == 200:
            self._answered = time.monotonic()
            return response
        try:
            body = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise _UnreachableError(self.name, self._url, error) from error
        finally:
            response.release()
        problem = read_problem(
            self.name,
            status=response.status,
            content_type=response.content_type,
            headers=response.headers,
            body=body,
            now=time.time(),
        )
        raise ProblemError.of(problem)


def _outcome(error: ProblemError) -> Outcome:
    if isinstance(error, _CircuitOpenError):
        return "circuit_open"
    if isinstance(error, _UnreachableError):
        return "unreachable"
    return "refused" if error.problem.status < 500 else "failed"


def open_session() -> aiohttp.ClientSession:
    """A session for stage calls: no limit of connections, no cookies, no time limit but for connecting."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        read_bufsize=2**18,
    )


def _is_no_failure_of_the_stage(error: BaseException) -> bool:
    """Refusals of a bad request, a full queue and a deadline that passed do not open the circuit."""
    assert isinstance(error, ProblemError)
    return error.problem.status < 500 or error.problem.status == 504
