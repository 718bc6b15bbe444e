"""Calling another stage over HTTP, with retries, circuit breaker, deadline and trace.

Retried are a stage that cannot be reached and an answer whose problem says `retryable`, with exponential
back-off and jitter, or after the time that `Retry-After` names; never once a stream has begun. The limits are
in `functions.calls.retries`. The deadline bounds it all, so a cold stage is waited for, not given up.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from functions.auth import stage_token
from functions.auth.caller import encode_origin
from functions.auth.stage_token import StageToken
from functions.calls.failures import (
    CircuitOpenError,
    StageUnreachableError,
    is_no_failure_of_the_stage,
    outcome_of,
)
from functions.calls.port import ANSWER_SECONDS, ObserveCall
from functions.calls.replies import StageAnswer, read_events, read_problem, read_reply, with_timing
from functions.calls.retries import CallPolicy, CallRetries
from functions.contract import StageEvent, StageReply, StageRequest
from functions.problems import ProblemError
from functions.settings import StageAddress
from functions.stage import RequestContext
from transport.propagation import RETRIES_USED, parse_retries
from transport.retry_budget import RetryBudget

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""For the connection alone; a stage that starts is waited for behind its activator, after it is connected."""

_RETRIES_USED = RETRIES_USED.decode()


class StageClient:
    """One stage as another one calls it.

    Args:
        session: shared by all stages; its connector has no limit, the stages' own queue limits hold.
        address: where the stage is.
        gateway: connect there instead, with the stage's host in `Host`.
        policy: how patient the caller is.
        observe: called after each attempt.
        stage_token: of the agent's stages, sent with each call.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        address: StageAddress,
        *,
        gateway: str | None,
        policy: CallPolicy,
        observe: ObserveCall,
        stage_token: StageToken | None = None,
    ) -> None:
        self.name = address.name
        self.kind = address.kind
        self._session = session
        self._policy = policy
        self._observe = observe
        self._stage_token = stage_token
        self._url = (gateway or address.url).rstrip("/")
        if gateway is not None:
            self._url += urlsplit(address.url).path.rstrip("/")
        self._host = {"Host": urlsplit(address.url).netloc} if gateway is not None else {}
        self._breakers = AsyncCircuitBreakerFactory(
            default_threshold=policy.breaker_failures,
            default_ttl=policy.breaker_seconds,
            exclude=[asyncio.CancelledError, (ProblemError, is_no_failure_of_the_stage)],
        )
        self._budget = RetryBudget(reserve=policy.retry_reserve)
        self._answered: float | None = None
        self._waking: asyncio.Task[None] | None = None

    async def call(
        self, request: StageRequest, context: RequestContext, *, idempotency_key: str | None = None
    ) -> StageAnswer:
        """See `CalledStage.call`."""
        began = context.now()
        attempts = 0
        retries = CallRetries(self._policy, context, self._budget)
        async with self._in_time(context, retries):
            async for attempt in retries.attempts():
                with attempt:
                    attempts = attempt.num
                    response = await self._post(request, context, idempotency_key)
                    try:
                        body = await response.read()
                    except (aiohttp.ClientError, OSError) as error:
                        raise StageUnreachableError(self.name, self._url, error) from error
                    finally:
                        response.close() if not response.content.at_eof() else response.release()
        seconds = context.now() - began
        reply = read_reply(self.name, body)
        return with_timing(self.name, reply, response.headers, seconds=seconds, attempts=attempts)

    @asynccontextmanager
    async def stream(
        self, request: StageRequest, context: RequestContext
    ) -> AsyncIterator[AsyncGenerator[StageEvent, None]]:
        """See `CalledStage.stream`. Leaving the block closes the connection."""
        began = context.now()
        attempts = 0
        retries = CallRetries(self._policy, context, self._budget)
        async with self._in_time(context, retries):
            async for attempt in retries.attempts():
                with attempt:
                    attempts = attempt.num
                    response = await self._post(request, context)

        def finish(reply: StageReply) -> StageReply:
            seconds = context.now() - began
            return with_timing(self.name, reply, response.headers, seconds=seconds, attempts=attempts).reply

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

    @asynccontextmanager
    async def _in_time(self, context: RequestContext, retries: CallRetries) -> AsyncIterator[None]:
        """Ends a call shortly before the request's deadline, with a problem that names stage and cause."""
        left = context.remaining()
        try:
            async with asyncio.timeout(None if left is None else max(0.0, left - ANSWER_SECONDS)):
                yield
        except TimeoutError:
            before = "" if retries.last is None else f"; before that: {retries.last.problem.detail}"
            raise ProblemError(
                504,
                f"stage {self.name} did not answer before the deadline{before}",
                title="Deadline passed",
                stage=self.name,
            ) from None

    async def _post(
        self, request: StageRequest, context: RequestContext, idempotency_key: str | None = None
    ) -> aiohttp.ClientResponse:
        """A response with status 200 and its body unread."""
        began = context.now()
        context.waiting_for = self.name
        try:
            with context.span("stage call", "client", **{"pilotlight.target": self.name}) as traceparent:
                response = await self._through_breaker(request, context, traceparent, idempotency_key)
        except ProblemError as error:
            self._observe(self.name, outcome_of(error), context.now() - began)
            raise
        self._observe(self.name, "ok", context.now() - began)
        return response

    def _sender(self, context: RequestContext) -> dict[str, str]:
        """The fields that say who calls, and for whom."""
        token = None if self._stage_token is None else self._stage_token.current()
        # The answer's own head is waited for: it says whether a retry can help, and has the timings.
        sender = {**self._host, "X-Pilotlight-Progress": "off"}
        if token is not None:
            sender[stage_token.HEADER] = token
            if context.caller.name:
                sender[stage_token.ORIGIN_HEADER] = encode_origin(context.caller)
        return sender

    async def _through_breaker(
        self,
        request: StageRequest,
        context: RequestContext,
        traceparent: str,
        idempotency_key: str | None,
    ) -> aiohttp.ClientResponse:
        try:
            async with await self._breakers.get_breaker(self.name):
                return await self._send(request, context, traceparent, idempotency_key)
        except OpenedState as error:
            left = max(0.0, error.opened_at + self._policy.breaker_seconds - time.time())
            raise CircuitOpenError(self.name, self._policy.breaker_failures, left) from None

    async def _send(
        self,
        request: StageRequest,
        context: RequestContext,
        traceparent: str,
        idempotency_key: str | None,
    ) -> aiohttp.ClientResponse:
        try:
            response = await self._session.post(
                f"{self._url}/invoke",
                data=request.model_dump_json(exclude_none=True).encode(),
                headers={
                    "Content-Type": "application/json",
                    **context.headers(),
                    "traceparent": traceparent,
                    **self._sender(context),
                    **({} if idempotency_key is None else {"Idempotency-Key": idempotency_key}),
                },
            )
        except (aiohttp.ClientError, OSError) as error:
            raise StageUnreachableError(self.name, self._url, error) from error
        context.count_retries(
            parse_retries(response.headers.get(_RETRIES_USED, "").encode(errors="replace")) or 0
        )
        if response.status == 200:
            self._answered = time.monotonic()
            return response
        try:
            body = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise StageUnreachableError(self.name, self._url, error) from error
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


def open_session() -> aiohttp.ClientSession:
    """A session for stage calls: no limit of connections, no cookies, no time limit but for connecting."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        read_bufsize=2**18,
    )
