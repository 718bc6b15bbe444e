"""Limits on what a client may send before its request is known: size and time of the head, and of trailers.

uvicorn has no such limits when it parses with httptools: a head that never ends is kept in memory, and a
connection that sends half of one stays open. The answers are those of RFC 9110 (408, 414) and RFC 6585 (431).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar, TypeVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_LINGER_S = 0.5
"""How long a refused connection is still read from (and discarded), so that its client sees the answer."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """What one request's head may take."""

    target_bytes: int = 16 * 1024
    """Path and query; above it 414. RFC 9110, 4.1, asks for at least 8,000 bytes."""
    fields_bytes: int = 64 * 1024
    """All header fields together, or all trailers; above it 431."""
    timeout_s: float = 10.0
    """Seconds from the head's first byte (or from the connection) to its end; after it 408."""


class HeadLimitedProtocol(HttpToolsProtocol):
    """One client's connection, with limits on each request's head.

    A subclass that overrides `data_received` without calling this one calls `before_parsing` and
    `after_parsing` itself, and drops what comes once `refused` is set.
    """

    head_limits: ClassVar[HeadLimits] = HeadLimits()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.refused = False
        self._in_head = False
        self._unparsed = 0
        """Bytes received since the parser last finished a head, a piece of a body or a message."""
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """A client is there; its first request has to come in time."""
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if not self.refused:
            self.before_parsing(data)
            super().data_received(data)
            self.after_parsing()

    def before_parsing(self, data: bytes) -> None:
        """Count bytes that the parser is about to get."""
        self._unparsed += len(data)

    def after_parsing(self) -> None:
        """Apply the limits to what the parser has made of the bytes."""
        if self.refused or self.transport.is_closing() or self.transport.get_protocol() is not self:
            self._stop_head_timer()
            return
        limits = self.head_limits
        if self._in_head and len(self.url) > limits.target_bytes:
            self.refuse(HTTPStatus.REQUEST_URI_TOO_LONG)
        elif self._unparsed > limits.target_bytes + limits.fields_bytes:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._in_head or self.cycle is None or self.cycle.response_complete:
            self._start_head_timer()
        else:
            self._stop_head_timer()

    def refuse(self, status: HTTPStatus) -> None:
        """Answer a head that goes beyond the limits, and end the connection."""
        self.refused = True
        self._stop_head_timer()
        if self.cycle is None or self.cycle.response_complete:  # else another request's answer is under way
            media_type, body = self.refusal(status)
            lines = (
                b"HTTP/1.1 %d %s" % (status, status.phrase.encode()),
                b"content-type: " + media_type,
                b"content-length: %d" % len(body),
                b"connection: close",
                b"",
                body,
            )
            self.transport.write(b"\r\n".join(lines))
            self.loop.call_later(_LINGER_S, self.transport.close)
        else:
            self.transport.close()

    def refusal(self, status: HTTPStatus) -> tuple[bytes, bytes]:
        """Media type and body of the answer to a refused head."""
        return b"text/plain; charset=utf-8", f"{status.description or status.phrase}\n".encode()

    # what the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer, which nobody reads."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._in_head = False
        self._unparsed = 0
        if self.refused:
            return
        if len(self.url) > self.head_limits.target_bytes:
            self.refuse(HTTPStatus.REQUEST_URI_TOO_LONG)
        elif sum(len(name) + len(value) + 4 for name, value in self.headers) > self.head_limits.fields_bytes:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif sum(name == b"host" for name, _ in self.headers) > 1:
            self.refuse(HTTPStatus.BAD_REQUEST)  # RFC 9112, 3.2: servers must not choose between two hosts
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._unparsed = 0
        if not self.refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._unparsed = 0
        if not self.refused:
            super().on_message_complete()

    # time

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_limits.timeout_s, self._head_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        if self._in_head:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:  # nothing was asked, so nothing is answered
            self.refused = True
            self.transport.close()


_Protocol = TypeVar("_Protocol", bound=HeadLimitedProtocol)


def with_head_limits(protocol: type[_Protocol], limits: HeadLimits) -> type[_Protocol]:
    """`protocol` with these limits; give it to `uvicorn.Config(http=...)`."""
    return type(protocol.__name__, (protocol,), {"head_limits": limits})
