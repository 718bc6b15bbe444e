"""One request and its response: wait for a slot, forward, stream the response back, retry where that is safe.

A request is retried on another replica only if none has begun to answer it: after a refused connection
(nothing was delivered), or after a reset before the response's first byte if the body can be sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from http import HTTPStatus
from typing import Any, cast

from knative.local.activator.headers import RequestLimits, for_client, for_replica
from knative.local.activator.preflight import response_fields
from knative.local.activator.problems import GatewayProblem, Send, start_failure
from knative.local.activator.progress import PEEKED_BYTES, ProgressComments
from knative.local.activator.protocol import EXTENSION, ActivatorProtocol
from knative.local.activator.request_body import Receive, RequestBody
from knative.local.activator.routes import RouteMatch, host_of
from knative.local.activator.throttler import (
    PodTracker,
    QueueFullError,
    RevisionRemovedError,
    RevisionThrottler,
    StartFailedError,
)
from knative.local.activator.timeouts import RequestTimeouts
from knative.local.activator.tunnel import ReplicaTunnel
from transport.connection import ConnectionLostError, ProtocolError, UpstreamError, UpstreamResponse
from transport.headers import requested_upgrade
from transport.held_stream import HeldStream
from transport.pool import ConnectError, UpstreamPool
from transport.propagation import RETRIES_USED, UNDELIVERED, parse_retries
from transport.stream_dialects import asks_for_stream

MAX_RETRIES = 3
"""Retries of one request at most, where it does not bring a smaller budget in `X-Pilotlight-Retries`."""
RETRY_PAUSE_S = 0.1
CLIENT_CLOSED_REQUEST = 499
"""The status counted for a request whose client disconnected before the response (nginx's code)."""


class _Failure(Enum):
    """Why a replica did not begin to answer."""

    REFUSED = "refused the connection"
    STALE = "closed an idle connection"
    RESET = "ended the connection without a response"
    INVALID = "sent no valid HTTP response"


class Exchange:
    """One request and its response.

    Args:
        pool: connections to replicas.
        clock: seconds, monotonic.
        scope: ASGI's, with the connection as an extension.
        receive: ASGI's.
        send: ASGI's.
        match: which Service the request is for.
        throttler: of the Revision that was chosen.
        limits: what the client allows: seconds for the response, and retries.
        progress: comments for streams that wait for a start; None for none.
    """

    __slots__ = (
        "_clock", "_connection", "_delivered", "_held", "_limits", "_match", "_pool", "_progress", "_receive",
        "_retries_used", "_scope", "_send", "_started", "_task", "_throttler", "_timeouts", "_traceparent",
        "held_s", "status",
    )  # fmt: skip

    def __init__(
        self,
        pool: UpstreamPool,
        *,
        clock: Callable[[], float],
        scope: dict[str, Any],
        receive: Receive,
        send: Send,
        match: RouteMatch,
        throttler: RevisionThrottler,
        limits: RequestLimits,
        progress: ProgressComments | None,
        traceparent: str | None = None,
    ) -> None:
        self._pool = pool
        self._traceparent = traceparent
        self._clock = clock
        self._scope = scope
        self._receive = receive
        self._send = send
        self._match = match
        self._throttler = throttler
        self._limits = limits
        self._retries_used = 0
        self._delivered = False
        self._connection: ActivatorProtocol = scope["extensions"][EXTENSION]
        self._task = cast("asyncio.Task[None]", asyncio.current_task())
        self._timeouts = RequestTimeouts(throttler.spec, self._task)
        self._started = False
        self._progress = progress
        self._held: HeldStream | None = None
        self.status = CLIENT_CLOSED_REQUEST
        """The response's status code."""
        self.held_s = 0.0
        """Seconds for which the request waited for a replica."""

    async def run(self, arrived: float) -> None:
        """Answer the request, which arrived at the instant `arrived`.

        Raises:
            asyncio.CancelledError: the client disconnected, or the server is stopping.
        """
        try:
            await self._forward(arrived)
        except asyncio.CancelledError:
            if self._timeouts.expired is None or self._connection.client_disconnected:
                raise
            self._task.uncancel()
            if self._started:
                self._connection.abort()
            else:
                detail = f"no response within {self._timeouts.expired}"
                await self._answer(GatewayProblem(HTTPStatus.GATEWAY_TIMEOUT, detail, retryable=True))
        finally:
            self._timeouts.stop()
            if self._held is not None:
                self._held.stop()

    async def _answer(self, problem: GatewayProblem) -> None:
        self._started = True
        self.status = int(problem.status)
        # Who calls again counts these retries too, or each attempt would have the whole budget.
        more = [(RETRIES_USED, b"%d" % self._retries_used)] if self._retries_used else []
        more += response_fields(self._scope["headers"], self._throttler.spec.allowed_origins)
        if not self._delivered:
            more.append((UNDELIVERED, b"true"))
        await problem.send(self._send, path=self._match.raw_path, more=more)

    async def _forward(self, arrived: float) -> None:
        """Try replicas until one has begun to answer or a retry is not safe."""
        throttler = self._throttler
        throttler.retries.add_request(arrived)
        body = RequestBody(self._scope["headers"], self._receive)
        stale = False
        pod: PodTracker | None = None
        while True:
            pod = throttler.acquire(avoid=pod) or await self._wait(arrived, body)
            if pod is None:
                return
            held_s = self.held_s = self._clock() - arrived
            try:
                failure = await self._attempt(pod, body, held_s)
            finally:
                throttler.release(pod)
            if failure is None:
                return
            # Neither a refused connection nor one that was idle for too long has delivered the request.
            free = failure is _Failure.REFUSED or (failure is _Failure.STALE and not stale)
            stale = stale or failure is _Failure.STALE
            if not body.replayable or failure is _Failure.INVALID or not (free or self._take_retry()):
                detail = f"replica {pod.endpoint.pod} {failure.value}"
                await self._answer(GatewayProblem(HTTPStatus.BAD_GATEWAY, detail, retryable=True))
                return
            if not free:
                await asyncio.sleep(RETRY_PAUSE_S * self._retries_used)

    def _take_retry(self) -> bool:
        """Whether the request's own budget and that of its Revision allow one more retry; if so, take it."""
        allowed = MAX_RETRIES if self._limits.retries is None else min(MAX_RETRIES, self._limits.retries)
        if self._retries_used >= allowed or not self._throttler.retries.take_retry(self._clock()):
            return False
        self._retries_used += 1
        return True

    def _limits_left(self, held_s: float) -> RequestLimits:
        """What the request has left for the replica."""
        deadline_s, retries = self._limits.deadline_s, self._limits.retries
        if retries is None and self._retries_used:
            retries = MAX_RETRIES
        return RequestLimits(
            None if deadline_s is None else max(0.0, deadline_s - held_s),
            None if retries is None else retries - self._retries_used,
        )

    async def _wait(self, arrived: float, body: RequestBody) -> PodTracker | None:
        """A slot, once one is free; None: the request has been answered with an error instead."""
        throttler = self._throttler
        speaking = None
        if self._progress is not None and self._held is None and not throttler.has_replicas:
            speaking = asyncio.create_task(self._speak(self._progress, body, arrived))
        try:
            return await self._wait_for_slot(arrived)
        finally:
            if speaking is not None:
                speaking.cancel()
                await asyncio.wait({speaking})

    async def _speak(self, progress: ProgressComments, body: RequestBody, arrived: float) -> None:
        """If the request asks for a stream, begin it, and say in comments what it waits for."""
        dialect = progress.dialect(self._scope["method"], self._match.raw_path, self._scope["headers"])
        if dialect is None:
            return
        try:
            content = await body.peek(PEEKED_BYTES)
        except ConnectionResetError:
            return
        if content is None or not asks_for_stream(content):
            return
        until_close = self._scope["http_version"] == "1.0"
        held = HeldStream(
            self._send,
            dialect,
            head=response_fields(self._scope["headers"], self._throttler.spec.allowed_origins),
            on_begin=self._connection.stream_until_close if until_close else lambda: None,
            on_end=self._connection.end_stream if until_close else lambda _: None,
        )
        self._held, self._send = held, held
        held.speak(lambda: progress.text(self._throttler, arrived), every_s=progress.every_s)

    async def _wait_for_slot(self, arrived: float) -> PodTracker | None:
        """See `_wait`."""
        throttler = self._throttler
        deadline_s = self._limits.deadline_s
        status = HTTPStatus.SERVICE_UNAVAILABLE
        try:
            if deadline_s is None:
                return await throttler.wait()
            async with asyncio.timeout(deadline_s - (self._clock() - arrived)):
                return await throttler.wait()
        except TimeoutError:
            status = HTTPStatus.GATEWAY_TIMEOUT
            detail = f"no replica within the {deadline_s:g} s that the request allows (X-Pilotlight-Deadline)"
        except QueueFullError:
            detail = f"{throttler.waiting} requests already wait for {throttler.spec.key}"
        except RevisionRemovedError:
            detail = f"{throttler.spec.key} was removed while the request waited for a replica"
        except StartFailedError as error:
            await self._answer(start_failure(error.failure, throttler.spec.service))
            return None
        await self._answer(GatewayProblem(status, detail, retryable=True))
        return None

    async def _attempt(self, pod: PodTracker, body: RequestBody, held_s: float) -> _Failure | None:
        """Have one replica answer; why it did not begin to, or None if it did."""
        delivered, self._delivered = self._delivered, True
        try:
            response = await self._open(pod, body, held_s)
        except ConnectError:
            self._delivered = delivered
            self._throttler.quarantine(pod)
            return _Failure.REFUSED
        except ConnectionLostError as error:
            if error.reused:
                self._delivered = delivered
                return _Failure.STALE
            return _Failure.RESET
        except ConnectionResetError:
            return _Failure.RESET
        except ProtocolError:
            return _Failure.INVALID
        await self._relay(response, pod, held_s)
        return None

    async def _open(self, pod: PodTracker, body: RequestBody, held_s: float) -> UpstreamResponse:
        """Send the request to a replica; its response once the head is there."""
        scope, match = self._scope, self._match
        query: bytes = scope["query_string"]
        target = match.raw_path + b"?" + query if query else match.raw_path
        client = scope["client"]
        headers = for_replica(
            scope["headers"],
            client=client[0] if client else "",
            scheme=scope["scheme"],
            host=host_of(scope["headers"]),
            prefix=match.prefix,
            held_s=held_s,
            limits=self._limits_left(held_s),
            traceparent=self._traceparent,
        )
        if self._held is not None and self._held.begun:
            # The head says that the stream has no content coding.
            headers = [field for field in headers if field[0].lower() != b"accept-encoding"]
        upgrade = requested_upgrade(scope["headers"]) if self._connection.upgrading else None
        if upgrade:
            headers += ((b"connection", b"Upgrade"), (b"upgrade", upgrade))
        payload = await body.payload()
        if body.chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        return await self._pool.request(
            pod.address,
            scope["method"].encode("ascii"),
            target,
            headers,
            payload,
            chunked=body.chunked,
            may_switch=upgrade is not None,
        )

    async def _relay(self, response: UpstreamResponse, pod: PodTracker, held_s: float) -> None:
        """Pass a response to the client, piece by piece as it arrives."""
        self._started = True
        timeouts = self._timeouts
        timeouts.response_started()
        self.status = status = response.status
        try:
            timing = (b"server-timing", b"queue;dur=%.2f" % (held_s * 1000.0))
            if status == HTTPStatus.SWITCHING_PROTOCOLS:
                return await self._tunnel(response, pod, _upgrade_head(response, timing))
            used = self._retries_used
            if used:
                used += parse_retries(response.header(RETRIES_USED)) or 0
            headers = for_client(response.headers, status=status, retries_used=used)
            headers.append(timing)
            send, connection = self._send, self._connection
            begun = self._held is not None and self._held.begun
            until_close = (
                self._scope["http_version"] == "1.0"
                and not begun
                and response.header(b"content-length") is None
            )
            if until_close:
                connection.stream_until_close()
            await send({"type": "http.response.start", "status": status, "headers": headers})
            while True:
                piece = await response.read()
                if response.complete:
                    if until_close:
                        connection.end_stream(len(piece))
                    return await send({"type": "http.response.body", "body": piece})
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                if timeouts.watches_pauses:
                    timeouts.piece_arrived()
        except UpstreamError:
            self._connection.abort()
        finally:
            response.close()

    async def _tunnel(self, response: UpstreamResponse, pod: PodTracker, head: bytes) -> None:
        """Pass the bytes of an upgraded connection until one side closes it."""
        self._timeouts.connection_upgraded()
        pod.upgraded += 1
        pod.tell_drained()
        try:
            await ReplicaTunnel(self._connection, response).run(head)
        finally:
            pod.upgraded -= 1


def _upgrade_head(response: UpstreamResponse, timing: tuple[bytes, bytes]) -> bytes:
    lines = [b"HTTP/1.1 101 Switching Protocols"]
    lines += [name + b": " + value for name, value in (*response.headers, timing)]
    return b"\r\n".join((*lines, b"", b""))
