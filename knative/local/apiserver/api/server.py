"""The API's server: TLS and plain HTTP on one port.

`kubectl` and everything else that is built on client-go send a bearer token over TLS only; scrapers and
scripts on the same machine use plain HTTP. The first byte of a connection tells the two apart (a TLS
handshake begins with 0x16, which no HTTP method does); it is peeked at, and left in the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
from http import HTTPStatus

import uvicorn

from knative.local.apiserver.errors import ApiError
from transport.request_head import HeadLimitedProtocol

log = logging.getLogger(__name__)

_TLS_HANDSHAKE = 0x16
_REASONS = {HTTPStatus.REQUEST_TIMEOUT: "Timeout", HTTPStatus.REQUEST_URI_TOO_LONG: "RequestURITooLong"}


class ApiProtocol(HeadLimitedProtocol):
    """One client's connection; a head beyond the limits is answered with a Status."""

    def refusal(self, status: HTTPStatus) -> tuple[bytes, bytes]:
        """The Status as JSON."""
        problem = ApiError(status, _REASONS.get(status, ""), status.description or status.phrase)
        return b"application/json", json.dumps(problem.status()).encode()


class ApiServer(uvicorn.Server):
    """uvicorn with an accept loop of its own, which sees each connection's first byte.

    Args:
        config: uvicorn's.
        tls: for connections that begin with a TLS handshake.
        opening_timeout_s: how long the first byte, and after it the handshake, may take.
    """

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext, opening_timeout_s: float) -> None:
        super().__init__(config)
        self._tls = tls
        self._opening_timeout_s = opening_timeout_s
        self._accepting: list[asyncio.Task[None]] = []
        self._opening: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the sockets that `serve` was called with."""
        assert sockets is not None
        await self.lifespan.startup()
        self.servers = []
        for listener in sockets:
            listener.setblocking(False)  # the standard library's signature
            listener.listen(self.config.backlog)
            self._accepting.append(asyncio.get_running_loop().create_task(self._accept(listener)))
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, and end those that are there."""
        for task in (*self._accepting, *self._opening):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await super().shutdown(sockets)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as problem:  # out of file descriptors, or the client has gone already
                log.warning("accepting a connection to the API failed: %s", problem)
                await asyncio.sleep(0.1)
                continue
            task = loop.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        """Peek at the first byte and hand the connection to uvicorn's protocol."""
        loop = asyncio.get_running_loop()
        connection.setblocking(False)  # the standard library's signature
        try:
            async with asyncio.timeout(self._opening_timeout_s):
                first = await _peek(connection)
            if not first:
                connection.close()
                return
            if first[0] == _TLS_HANDSHAKE:
                await loop.connect_accepted_socket(
                    self._protocol,
                    connection,
                    ssl=self._tls,
                    ssl_handshake_timeout=self._opening_timeout_s,
                )
            else:
                await loop.connect_accepted_socket(self._protocol, connection)
        except (OSError, TimeoutError) as problem:  # TLS errors are OSErrors
            log.debug("a connection to the API broke while it was opened: %s", problem)
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn itself makes them
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


async def _peek(connection: socket.socket) -> bytes:
    """The first byte, which stays in the socket; empty if the client has gone."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(BlockingIOError):
            return connection.recv(1, socket.MSG_PEEK)
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(connection, _resolve, readable)
        try:
            await readable
        finally:
            loop.remove_reader(connection)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
