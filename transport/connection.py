"""One connection to a server, which answers one request at a time (RFC 9112); llhttp reads the answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable
from typing import cast

import httptools

MAX_HEAD = 256 * 1024
"""A head that has not ended after so many bytes is none."""
HIGH_WATER = 256 * 1024
"""So many bytes of a body may wait for their reader; then the server is held back."""

Fields = list[tuple[bytes, bytes]]
_WITHOUT_BODY = frozenset({204, 304})
_SWITCHING = 101


class UpstreamError(ConnectionError):
    """The server did not answer, or not to the end."""


class ConnectionLostError(UpstreamError):
    """The connection ended before the answer did."""


class ProtocolError(UpstreamError):
    """What came is no HTTP/1.1 answer to the request."""


class UpstreamResponse:
    """The answer to one request: its head, and its body as it comes.

    Read it to the end or close it: until then the connection is taken.
    """

    __slots__ = (
        "_connection", "_ended", "_error", "_pieces", "_status", "_waiter", "_waiting", "headers", "is_head",
        "may_switch",
    )  # fmt: skip

    def __init__(self, connection: Connection, *, is_head: bool, may_switch: bool) -> None:
        self._connection = connection
        self._pieces: list[bytes] = []
        self._waiting = 0
        """Bytes that wait for their reader."""
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: UpstreamError | None = None
        self.is_head = is_head
        """It answers a HEAD: what its fields say of a body is not so."""
        self.may_switch = may_switch
        """The request asked for another protocol."""
        self._status: int | None = None
        self.headers: Fields = []
        """Its fields as they came."""

    @property
    def headed(self) -> bool:
        """Whether the head is there, as it is once `ConnectionPool.request` has given the response."""
        return self._status is not None

    @property
    def status(self) -> int:
        """Its status code, once it is `headed`."""
        assert self._status is not None
        return self._status

    @property
    def complete(self) -> bool:
        """Whether all of the body has been read."""
        return self._ended and not self._pieces

    def header(self, name: bytes) -> bytes | None:
        """The first field of this name (lower case)."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    async def read(self) -> bytes:
        """What has come of the body, at least a byte; nothing at its end.

        Raises:
            UpstreamError: it ends too early.
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
            UpstreamError: it ends too early.
        """
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Want no more of it. The server learns of it by its connection's end."""
        if not self._ended:
            self._connection.abort()

    def switch(self) -> tuple[asyncio.Transport, bytes]:
        """The connection of a `101`, whose protocol is the caller's now, and what came behind the head.

        Set a protocol on the transport and resume its reading.
        """
        self._ended = True
        return self._connection.hand_over()

    async def head(self) -> None:
        """Return once the head is there.

        Raises:
            UpstreamError: it does not come.
        """
        while self._status is None:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def _wait(self) -> None:
        """Return when something has come, or nothing will."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    # from the connection

    def wake(self) -> None:
        """Let the reader look."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def begin(self, status: int, headers: Fields) -> None:
        """The head is there."""
        self._status = status
        self.headers = headers

    def feed(self, data: bytes) -> bool:
        """More of the body; whether that is enough for now."""
        self._pieces.append(data)
        self._waiting += len(data)
        return self._waiting > HIGH_WATER

    def end(self) -> None:
        """All is there."""
        self._ended = self._error is None
        self.wake()

    def fail(self, error: UpstreamError) -> None:
        """No more will come."""
        if not self._ended and self._error is None:
            self._error = error
        self.wake()


class Connection(asyncio.Protocol):
    """One connection, to be taken by one request after the other.

    Args:
        loop: the running loop.
        on_free: hears when it can take the next request.
        on_lost: hears when it never can again.
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

    # what the pool and a response call

    @property
    def closing(self) -> bool:
        """It can take no request any more; the loop may not have told yet."""
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
        """Send a request: its head as bytes, its body at once or as it comes."""
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
        """Let the server go on."""
        transport = self._transport
        if self._is_paused and transport is not None and not transport.is_closing():
            self._is_paused = False
            transport.resume_reading()

    def abort(self) -> None:
        """End the connection now, whatever is on the way."""
        self._aborted = True
        if self._sender is not None:
            self._sender.cancel()
        if self._transport is not None and not self.lost:
            self._transport.abort()

    def hand_over(self) -> tuple[asyncio.Transport, bytes]:
        """Give the connection away, with what came last."""
        self._response = None
        self.lost = True
        self._on_lost(self)
        return cast("asyncio.Transport", self._transport), self._leftover

    # from the transport (asyncio.Protocol)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes from the server."""
        response = self._response
        if response is None:
            self.abort()  # nobody asked
            return
        headed = response.headed
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._pause()
            self._leftover = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self._fail(ProtocolError(f"no valid HTTP: {error}"))
        if not headed and not response.headed:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._fail(ProtocolError(f"a head of more than {MAX_HEAD} bytes"))
        response.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        if self.lost:
            return
        self.lost = True
        self._on_lost(self)
        if self._sender is not None:
            self._sender.cancel()
        response, self._response = self._response, None
        if response is not None:
            if not response.headed and self._head_bytes:
                response.fail(ProtocolError("the connection ended within the answer's head"))
            elif exc is None and not self._aborted and self._until_close and response.headed:
                response.end()
            else:
                response.fail(ConnectionLostError(str(exc) if exc else "the server closed the connection"))
        self.resume_writing()

    def pause_writing(self) -> None:
        """The server takes no more for now."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """The server takes more."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # from the parser (httptools)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._fields = []
        if self._response is None:
            self.abort()  # a second answer

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field."""
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is there."""
        response = self._response
        if response is None:
            return
        status = self._parser.get_status_code()
        if status < 200 and status != _SWITCHING:  # interim answers (RFC 9110, 15.2)
            return
        if status == _SWITCHING and not (response.may_switch and self._parser.should_upgrade()):
            self._fail(ProtocolError("the server switches to a protocol that nobody asked for"))
            return
        self._without_body = response.is_head or status in _WITHOUT_BODY
        self._until_close = not self._without_body and _ends_with_connection(self._fields)
        response.begin(status, self._fields)
        # A trailer's fields come later, and are none of the head (RFC 9110, 6.5.1).
        self._fields = []
        if self._without_body:
            self._finish(response)

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        response = self._response
        if response is None:
            self.abort()  # more than there should be
        elif response.feed(data):
            self._pause()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        response = self._response
        if response is not None and response.headed and response.status != _SWITCHING:
            self._finish(response)

    # inside

    def _finish(self, response: UpstreamResponse) -> None:
        response.end()
        self._response = None
        sender, self._sender = self._sender, None
        keeps = self._parser.should_keep_alive() and (sender is None or sender.done())
        if self._without_body:
            # The parser may wait for a body that the fields announce.
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
        except Exception as error:  # noqa: BLE001  # whatever the body's source raises ends the request
            self._fail(ConnectionLostError(f"the request's body could not be had: {error}"))


def request_head(method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The bytes of a request's head; what is given comes from a parsed message, without line ends."""
    lines = [b"%b %b HTTP/1.1" % (method, target)]
    lines += [b"%b: %b" % field for field in headers]
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def _ends_with_connection(fields: Fields) -> bool:
    """Whether a body is as long as its connection lasts (RFC 9112, 6.3)."""
    framed = False
    for name, value in fields:
        lower = name.lower()
        if lower == b"content-length":
            framed = True
        elif lower == b"transfer-encoding":  # the last coding of the last field is the outermost one
            framed = value.lower().rstrip().endswith(b"chunked")
    return not framed
