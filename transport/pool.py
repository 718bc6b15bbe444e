"""A client's connections, kept for the next request."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass

from transport.connection import (
    Connection,
    ConnectionLostError,
    UpstreamError,
    UpstreamResponse,
    request_head,
)


@dataclass(frozen=True, slots=True)
class TlsAddress:
    """Host and port of a server that speaks TLS."""

    host: str
    port: int


Address = tuple[str, int] | str | TlsAddress
"""Host and port, or the path of a unix socket."""


class ConnectError(UpstreamError):
    """No connection could be opened, so nothing was sent."""


class UpstreamPool:
    """A client of any number of servers, without a limit on connections; needs a running loop.

    Args:
        idle_s: seconds after which an unused connection is closed. Less than the servers' own limit, so that
            no request is sent into a connection that the server is closing.
        connect_s: seconds that opening a connection may take.
        tls: context for servers at a `TlsAddress`.
    """

    def __init__(
        self,
        *,
        idle_s: float = 4.0,
        connect_s: float = 10.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle_s = idle_s
        self._connect_s = connect_s
        self._tls = tls
        self._idle: dict[Address, list[tuple[float, Connection]]] = {}
        """Unused connections with the instant since when; the longest unused one first."""
        self._open: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def request(
        self,
        address: Address,
        method: bytes,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes | AsyncIterable[bytes] | None = None,
        *,
        chunked: bool = False,
        may_switch: bool = False,
    ) -> UpstreamResponse:
        """Send a request; returns once the head of its response has arrived.

        Args:
            address: of the server.
            method: GET, ...
            target: path and query, as they go on the wire.
            headers: all fields of the request, `Host` and those that frame the body included; from a parsed
                message, so that none of them holds a line end.
            body: all of it, or its pieces.
            chunked: send the pieces in chunked transfer coding; the fields must announce it.
            may_switch: the request asks to switch protocols, so that the response may be a `101`.

        Raises:
            ConnectError: there is no connection; nothing was sent.
            ConnectionLostError: the connection ended without a response; `reused` says whether it was idle
                before.
            ProtocolError: what came is not a response.
        """
        kept = self._take(address)
        connection = kept or await self._connect(address)
        response = connection.ask(
            request_head(method, target, headers),
            body,
            chunked=chunked,
            is_head=method == b"HEAD",
            may_switch=may_switch,
        )
        try:
            await response.head()
        except BaseException as error:
            if isinstance(error, ConnectionLostError):
                error.reused = kept is not None
            response.close()
            raise
        return response

    def close(self) -> None:
        """Close all connections; pending reads raise ConnectionLostError."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._idle.clear()
        for connection in tuple(self._open):
            connection.abort()

    def _take(self, address: Address) -> Connection | None:
        idle = self._idle.get(address)
        while idle:
            since, connection = idle.pop()
            if not connection.closing and since + self._idle_s > self._loop.time():
                return connection
            connection.abort()
        return None

    async def _connect(self, address: Address) -> Connection:
        if self._closed:
            raise ConnectError("the pool is closed")
        make = functools.partial(
            Connection, self._loop, functools.partial(self._keep, address), self._open.discard
        )
        try:
            async with asyncio.timeout(self._connect_s):
                if isinstance(address, str):
                    _, connection = await self._loop.create_unix_connection(make, address)
                elif isinstance(address, TlsAddress):
                    _, connection = await self._loop.create_connection(
                        make, address.host, address.port, ssl=self._context()
                    )
                else:
                    _, connection = await self._loop.create_connection(make, *address)
        except OSError as error:  # TimeoutError is one
            raise ConnectError(str(error) or f"no connection within {self._connect_s:g} s") from error
        if connection.closing:
            raise ConnectError("the server closed the connection at once")
        self._open.add(connection)
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            raise ConnectError("the server speaks TLS, and this client has no certificate")
        return self._tls

    def _keep(self, address: Address, connection: Connection) -> None:
        if self._closed:
            connection.abort()
        if connection.closing:
            return
        self._idle.setdefault(address, []).append((self._loop.time(), connection))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._idle_s, self._sweep)

    def _sweep(self) -> None:
        """Close connections that were unused for too long."""
        self._sweeper = None
        limit = self._loop.time() - self._idle_s
        for address, idle in tuple(self._idle.items()):
            kept = []
            for since, connection in idle:
                if connection.closing:
                    continue
                if since <= limit:
                    connection.abort()
                else:
                    kept.append((since, connection))
            if kept:
                self._idle[address] = kept
            else:
                del self._idle[address]
        if self._idle:
            oldest = min(idle[0][0] for idle in self._idle.values())
            self._sweeper = self._loop.call_later(
                max(0.05, oldest + self._idle_s - self._loop.time()), self._sweep
            )
