"""Connections that are kept for the next request."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterable, Iterable

from transport.connection import Connection, UpstreamError, UpstreamResponse, request_head

Address = tuple[str, int] | str
"""Host and port, or the path of a unix socket."""


class ConnectError(UpstreamError):
    """There is no connection to be had: nothing was sent."""


class ConnectionPool:
    """A client of any number of servers, without a limit of connections; needs a running loop.

    Args:
        idle_s: a connection that nobody used for so long is closed. Less than the servers' own limit: who
            closes first never sends a request into a connection that is being closed.
        connect_s: so long may opening one take.
    """

    def __init__(self, *, idle_s: float = 4.0, connect_s: float = 10.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle_s = idle_s
        self._connect_s = connect_s
        self._idle: dict[Address, list[tuple[float, Connection]]] = {}
        """The longest unused one first."""
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
        """Send a request; its response once the head is there.

        Args:
            address: whom to ask.
            method: GET, ...
            target: path and query, as they go on the wire.
            headers: all fields of the request, `Host` and those that frame the body included; from a parsed
                message, so that none of them holds a line's end.
            body: all of it, or its pieces as they come.
            chunked: frame the pieces; the fields must say so.
            may_switch: the request asks for another protocol, so that the answer may be a `101`.

        Raises:
            ConnectError: no connection; nothing was sent.
            ConnectionLostError: the connection ended without an answer.
            ProtocolError: what came is no answer.
        """
        connection = self._take(address) or await self._connect(address)
        response = connection.ask(
            request_head(method, target, headers),
            body,
            chunked=chunked,
            is_head=method == b"HEAD",
            may_switch=may_switch,
        )
        try:
            await response.head()
        except BaseException:
            response.close()
            raise
        return response

    def close(self) -> None:
        """End all connections; whoever still reads from one gets ConnectionLostError."""
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
                else:
                    _, connection = await self._loop.create_connection(make, *address)
        except OSError as error:  # TimeoutError is one
            raise ConnectError(str(error) or f"no connection within {self._connect_s:g} s") from error
        if connection.closing:
            raise ConnectError("the server closed the connection at once")
        self._open.add(connection)
        return connection

    def _keep(self, address: Address, connection: Connection) -> None:
        if self._closed:
            connection.abort()
        if connection.closing:
            return
        self._idle.setdefault(address, []).append((self._loop.time(), connection))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._idle_s, self._sweep)

    def _sweep(self) -> None:
        """Close what nobody uses."""
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
