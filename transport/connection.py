"""A client's connection to a server, one request at a time (RFC 9112); llhttp parses the responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable
from typing import cast

import httptools

MAX_HEAD = 256 * 1024
"""Bytes of a response's head at most."""
HIGH_WATER = 256 * 1024
"""Bytes of a response's body that may wait for their reader before reading from the server pauses."""

Fields = list[tuple[bytes, bytes]]
_WITHOUT_BODY = frozenset({204, 304})
_SWITCHING = 101


class UpstreamError(ConnectionError):
    """The server did not answer, or not completely."""


class ConnectionLostError(UpstreamError):
    """The connection ended before the response did."""

    reused = False
    """Whether the connection had served requests before, so that the server may have closed it as idle."""


class ProtocolError(UpstreamError):
    """What the server sent is not an HTTP/1.1 response to the request."""


class UpstreamResponse:
    """The response to one request: its head, and its body as it arrives.

    Read it to the end or close it; until then the connection serves no other request.
    """

    __slots__ = (
        "_connection", "_ended", "_error", "_pieces", "_status", "_waiter", "_waiting", "headers", "is_head",
        "may_switch",
    )  # fmt: skip

    def __init__(self, connection: Connection, *, is_head: bool, may_switch: bool) -> None:
        self._connection = connection
        self._pieces: list[bytes] = []
        self._waiting = 0
        """Bytes of the body that wait for their reader."""
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: UpstreamError | None = None
        self.is_head = is_head
        """The request was a HEAD: no body follows, whatever the fields say (RFC 9110, 9.3.2)."""
        self.may_switch = may_switch
        """The request asked to switch to another protocol, so that 101 is an expected status."""
        self._status: int | None = None
        self.headers: Fields = []
        """The header fields as they came."""

    @property
    def has_head(self) -> bool:
        """Whether the head has arrived; so once `UpstreamPool.request` has returned the response."""
        return self._status is not None

    @property
    def status(self) -> int:
        """The status code; only once the head has arrived."""
        assert self._status is not None
        return self._status

    @property
    def complete(self) -> bool:
        """Whether all of the body has been read."""
        return self._ended and not self._pieces

    def header(self, name: bytes) -> bytes | None:
        """The value of the first field of this name (lower case); None without one."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    async def read(self) -> bytes:
        """The part of the body that has arrived, at least one byte; empty at its end.

        Raises:
            UpstreamError: the body is cut off.
        """
        pieces = self._pieces
        while not pieces:
            if self._ended:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._waiting = 0
        if not self._ended:
            self._connection.resume()
        return data

    async def read_all(self) -> bytes:
        """The rest of the body.

        Raises:
            UpstreamError: the body is cut off.
        """
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Stop reading. An incomplete response closes its connection, which tells the server."""
        if not self._ended:
            self._connection.abort()

    def switch(self) -> tuple[asyncio.Transport, bytes]:
        """Hand over the connection of a `101`: its transport, and the bytes that came behind the head.

        The caller sets a protocol on the transport and resumes reading.
        """
        self._ended = True
        return self._connection.hand_over()

    async def head(self) -> None:
        """Return once the head has arrived.

        Raises:
            UpstreamError: it does not arrive.
        """
        while self._status is None:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def _wait(self) -> None:
        """Return when something has arrived, or when nothing will."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    # called by the connection

    def wake(self) -> None:
        """Let a waiting reader go on."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def begin(self, status: int, headers: Fields) -> None:
        """Take the head."""
        self._status = status
        self.headers = headers

    def feed(self, data: bytes) -> bool:
        """Take a piece of the body; whether so much waits that reading should pause."""
        self._pieces.append(data)
        self._waiting += len(data)
        return self._waiting > HIGH_WATER

    def end(self) -> None:
        """The body is complete."""
        self._ended = self._error is None
        self.wake()

    def fail(self, error: UpstreamError) -> None:
        """Nothing more will arrive."""
        if not self._ended and self._error is None:
            self._error = error
        self.wake()


class Connection(asyncio.Protocol):
    """One connection, used by one request after the other.

    Args:
        loop: the running loop.
        on_free: called when the connection can take the next request.
        on_lost: called when it cannot take any request again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_free: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._on_free = on_free
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._response: UpstreamResponse | None = None
        self._fields: Fields = []
        self._head_bytes = 0
        self._until_close = self._without_body = False
        self._leftover = b""
        self._sender: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._is_paused = False
        self._aborted = False
        self.lost = False

    # called by the pool and by a response

    @property
    def closing(self) -> bool:
        """Whether it takes no request any more; true before the loop has reported the loss."""
        return self.lost or self._transport is None or self._transport.is_closing()

    def ask(
        self,
        request: bytes,
        body: bytes | AsyncIterable[bytes] | None,
        *,
        chunked: bool,
        is_head: bool,
        may_switch: bool,
    ) -> UpstreamResponse:
        """Send a request: its head as bytes, its body at once or piece by piece."""
        response = self._response = UpstreamResponse(self, is_head=is_head, may_switch=may_switch)
        transport = cast("asyncio.Transport", self._transport)
        self._head_bytes = 0
        if body is None or body == b"":
            transport.write(request)
        elif isinstance(body, bytes):
            transport.writelines((request, body))
        else:
            transport.write(request)
            self._sender = self._loop.create_task(self._send(body, chunked=chunked))
        return response

    def resume(self) -> None:
        """Read on."""
        transport = self._transport
        if self._is_paused and transport is not None and not transport.is_closing():
            self._is_paused = False
            transport.resume_reading()

    def abort(self) -> None:
        """Close the connection at once."""
        self._aborted = True
        if self._sender is not None:
            self._sender.cancel()
        if self._transport is not None and not self.lost:
            self._transport.abort()

    def hand_over(self) -> tuple[asyncio.Transport, bytes]:
        """Give the transport away, with the bytes that were received and not parsed."""
        self._response = None
        self.lost = True
        self._on_lost(self)
        return cast("asyncio.Transport", self._transport), self._leftover

    # called by the transport (asyncio.Protocol)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse bytes from the server."""
        response = self._response
        if response is None:
            self.abort()  # bytes without a request
            return
        has_head = response.has_head
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._pause()
            self._leftover = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self._fail(ProtocolError(f"not valid HTTP: {error}"))
        if not has_head and not response.has_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._fail(ProtocolError(f"a head of more than {MAX_HEAD} bytes"))
        response.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if self.lost:
            return
        self.lost = True
        self._on_lost(self)
        if self._sender is not None:
            self._sender.cancel()
        response, self._response = self._response, None
        if response is not None:
            if not response.has_head and self._head_bytes:
                response.fail(ProtocolError("the connection ended within the response's head"))
            elif exc is None and not self._aborted and self._until_close and response.has_head:
                response.end()
            else:
                response.fail(ConnectionLostError(str(exc) if exc else "the server closed the connection"))
        self.resume_writing()

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """The socket's buffer has room again."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # called by the parser (httptools)

    def on_message_begin(self) -> None:
        """A response begins."""
        self._fields = []
        if self._response is None:
            self.abort()  # a second response to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field or a trailer field."""
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete."""
        response = self._response
        if response is None:
            return
        status = self._parser.get_status_code()
        if status < 200 and status != _SWITCHING:  # interim responses (RFC 9110, 15.2)
            return
        if status == _SWITCHING and not (response.may_switch and self._parser.should_upgrade()):
            self._fail(ProtocolError("the server switches protocols without being asked"))
            return
        self._without_body = response.is_head or status in _WITHOUT_BODY
        self._until_close = not self._without_body and _ends_with_connection(self._fields)
        response.begin(status, self._fields)
        # Trailer fields come later and are not merged into the head (RFC 9110, 6.5.1).
        self._fields = []
        if self._without_body:
            self._finish(response)

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        response = self._response
        if response is None:
            self.abort()  # more than the announced length
        elif response.feed(data):
            self._pause()

    def on_message_complete(self) -> None:
        """The response is complete."""
        response = self._response
        if response is not None and response.has_head and response.status != _SWITCHING:
            self._finish(response)

    # internal

    def _finish(self, response: UpstreamResponse) -> None:
        response.end()
        self._response = None
        sender, self._sender = self._sender, None
        keeps = self._parser.should_keep_alive() and (sender is None or sender.done())
        if self._without_body:
            # The parser would wait for the body that the fields announce.
            self._parser = httptools.HttpResponseParser(self)
        if not keeps:
            if sender is not None:
                sender.cancel()
            self.abort()
            return
        self.resume()
        self._on_free(self)

    def _fail(self, error: UpstreamError) -> None:
        if self._response is not None:
            self._response.fail(error)
        self.abort()

    def _pause(self) -> None:
        transport = self._transport
        if not self._is_paused and transport is not None and not transport.is_closing():
            self._is_paused = True
            transport.pause_reading()

    async def _send(self, body: AsyncIterable[bytes], *, chunked: bool) -> None:
        transport = cast("asyncio.Transport", self._transport)
        try:
            async for piece in body:
                if not piece:
                    continue
                transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n") if chunked else (piece,))
                while self._writable is not None:
                    await self._writable
            if chunked:
                transport.write(b"0\r\n\r\n")
        except Exception as error:  # noqa: BLE001  # whatever the source of the body raises
            self._fail(ConnectionLostError(f"the request's body could not be read: {error}"))


def request_head(method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The bytes of a request's head. The arguments come from a parsed message, so they hold no line ends."""
    lines = [b"%b %b HTTP/1.1" % (method, target)]
    lines += [b"%b: %b" % field for field in headers]
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def _ends_with_connection(fields: Fields) -> bool:
    """Whether a response's body ends with its connection (RFC 9112, 6.3)."""
    framed = False
    for name, value in fields:
        lower = name.lower()
        if lower == b"content-length":
            framed = True
        elif lower == b"transfer-encoding":  # the last coding of the last field is the outermost
            framed = value.lower().rstrip().endswith(b"chunked")
    return not framed
