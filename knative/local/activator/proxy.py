"""One request's way: wait for a slot, forward, stream back, try again where that is safe.

Tried again elsewhere is only what no replica has begun to answer: a refused connection (nothing was
delivered), or one reset before any byte of the response, if the body can be sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from http import HTTPStatus
from typing import Any, cast

from knative.local.activator import headers as fields
from knative.local.activator.body import Body, Receive
from knative.local.activator.deadlines import Deadlines
from knative.local.activator.problems import Problem
from knative.local.activator.protocol import EXTENSION, ActivatorProtocol
from knative.local.activator.routes import Match
from knative.local.activator.throttle import GoneError, Pod, QueueFullError, Revision
from knative.local.activator.tunnel import ReplicaTunnel
from transport import (
    ConnectError,
    ConnectionLostError,
    ConnectionPool,
    ProtocolError,
    UpstreamError,
    UpstreamResponse,
)

MAX_RESETS = 3
"""So often may replicas die under one request before it is answered with an error."""
RESET_PAUSE_S = 0.1
CLIENT_GONE = 499
"""What is counted for a request whose client did not wait for the answer (nginx's code)."""

Send = Callable[[dict[str, Any]], Awaitable[None]]


class _Failure(Enum):
    """Why a replica did not begin to answer."""

    REFUSED = "refused the connection"
    RESET = "ended the connection without an answer"
    NONSENSE = "gave no valid answer"


async def send_problem(send: Send, problem: Problem) -> None:
    """Answer with a problem document."""
    body = problem.body()
    headers = problem.headers(len(body))
    await send({"type": "http.response.start", "status": int(problem.status), "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Exchange:
    """One request and its response."""

    __slots__ = (
        "_clock", "_connection", "_deadlines", "_match", "_pool", "_receive", "_revision", "_scope", "_send",
        "_started", "_task", "status",
    )  # fmt: skip

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        clock: Callable[[], float],
        scope: dict[str, Any],
        receive: Receive,
        send: Send,
        match: Match,
        revision: Revision,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._scope = scope
        self._receive = receive
        self._send = send
        self._match = match
        self._revision = revision
        self._connection: ActivatorProtocol = scope["extensions"][EXTENSION]
        self._task = cast("asyncio.Task[None]", asyncio.current_task())
        self._deadlines = Deadlines(revision.spec, self._task)
        self._started = False
        self.status = CLIENT_GONE
        """What was answered."""

    async def run(self, began: float) -> None:
        """Answer the request, which arrived at `began`.

        Raises:
            asyncio.CancelledError: the client went away, or the server is stopping.
        """
        try:
            await self._forward(began)
        except asyncio.CancelledError:
            if self._deadlines.expired is None or self._connection.client_gone:
                raise
            self._task.uncancel()
            if self._started:
                self._connection.break_off()
            else:
                detail = f"no answer within {self._deadlines.expired}"
                await self._answer(Problem(HTTPStatus.GATEWAY_TIMEOUT, detail, retryable=True))
        finally:
            self._deadlines.stop()

    async def _answer(self, problem: Problem) -> None:
        self._started = True
        self.status = int(problem.status)
        await send_problem(self._send, problem)

    async def _forward(self, began: float) -> None:
        """Try replicas until one has begun to answer, or there is no sense in it."""
        revision = self._revision
        body = Body(self._scope["headers"], self._receive)
        resets = 0
        pod: Pod | None = None
        while True:
            pod = revision.acquire(avoid=pod) or await self._wait()
            if pod is None:
                return
            queued_s = self._clock() - began
            try:
                failure = await self._attempt(pod, body, queued_s)
            finally:
                revision.leave(pod)
            if failure is None:
                return
            if failure is _Failure.RESET:
                resets += 1
            if failure is _Failure.NONSENSE or resets > MAX_RESETS or not body.replayable:
                detail = f"replica {pod.endpoint.pod} {failure.value}"
                await self._answer(Problem(HTTPStatus.BAD_GATEWAY, detail, retryable=True))
                return
            if resets > 1:  # the first may have been a connection that was idle for too long
                await asyncio.sleep(RESET_PAUSE_S * resets)

    async def _wait(self) -> Pod | None:
        """A slot, once one is free; None: the request has been answered instead."""
        revision = self._revision
        try:
            return await revision.wait()
        except QueueFullError:
            detail = f"{revision.waiting} requests already wait for {revision.spec.key}"
        except GoneError:
            detail = f"{revision.spec.key} went away while the request waited for a replica"
        await self._answer(Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, retryable=True))
        return None

    async def _attempt(self, pod: Pod, body: Body, queued_s: float) -> _Failure | None:
        """Have one replica answer; what went wrong if it did not begin to."""
        try:
            response = await self._open(pod, body, queued_s)
        except ConnectError:
            self._revision.suspect(pod)
            return _Failure.REFUSED
        except (ConnectionLostError, ConnectionResetError):
            return _Failure.RESET
        except ProtocolError:
            return _Failure.NONSENSE
        await self._relay(response, queued_s)
        return None

    async def _open(self, pod: Pod, body: Body, queued_s: float) -> UpstreamResponse:
        """Send the request to a replica; its response once the head is there."""
        scope, match = self._scope, self._match
        query: bytes = scope["query_string"]
        target = match.raw_path + b"?" + query if query else match.raw_path
        client = scope["client"]
        headers = fields.to_replica(
            scope["headers"],
            client=client[0] if client else "",
            scheme=scope["scheme"],
            prefix=match.prefix,
        )
        headers.append((fields.HELD, b"%.4f" % queued_s))
        upgrade = fields.upgrade_of(scope["headers"]) if self._connection.upgrading else None
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

    async def _relay(self, response: UpstreamResponse, queued_s: float) -> None:
        """Pass a response on to the client, piece by piece as it comes."""
        self._started = True
        deadlines = self._deadlines
        deadlines.begun()
        self.status = status = response.status
        try:
            timing = (b"server-timing", b"queue;dur=%.2f" % (queued_s * 1000.0))
            if status == HTTPStatus.SWITCHING_PROTOCOLS:
                return await ReplicaTunnel(self._connection, response).run(_upgraded(response, timing))
            headers = fields.to_client(response.headers, status=status)
            headers.append(timing)
            send, connection = self._send, self._connection
            until_close = self._scope["http_version"] == "1.0" and response.header(b"content-length") is None
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
                if deadlines.watches_pauses:
                    deadlines.moved()
        except UpstreamError:
            self._connection.break_off()
        finally:
            response.close()


def _upgraded(response: UpstreamResponse, timing: tuple[bytes, bytes]) -> bytes:
    lines = [b"HTTP/1.1 101 Switching Protocols"]
    lines += [name + b": " + value for name, value in (*response.headers, timing)]
    return b"\r\n".join((*lines, b"", b""))
