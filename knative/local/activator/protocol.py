"""uvicorn's HTTP protocol, extended by what a proxy needs and ASGI does not offer.

- A client that disconnects cancels its request at once, without a task per request that watches for it.
- A response that the replica breaks off is broken off here too, instead of ending as if it were complete.
- `Upgrade` (WebSocket or any other protocol) hands the connection's bytes to a tunnel.
- A request in absolute form is for the host that its target names (RFC 9112, 3.2.2).
"""

from __future__ import annotations

import asyncio
import sys
from http import HTTPStatus
from typing import Any, Protocol, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from knative.local.activator.problems import PROBLEM_JSON, GatewayProblem
from transport.headers import requested_upgrade
from transport.one_write import in_one_write
from transport.request_head import HeadLimitedProtocol

_UPGRADE_FIELDS = (b"connection", b"upgrade", b"http2-settings")
EXTENSION = "pilotlight.connection"
"""The ASGI scope's extension that holds the `ActivatorProtocol`."""


class Tunnel(Protocol):
    """Takes a connection's bytes once it has been upgraded."""

    def feed(self, data: bytes) -> None:
        """Bytes from the client."""

    def client_lost(self) -> None:
        """The client has disconnected."""

    def pause(self) -> None:
        """The client's buffer is full."""

    def resume(self) -> None:
        """The client takes bytes again."""


class ActivatorProtocol(HeadLimitedProtocol):
    """One client's connection, with limits on each request's head."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.running: RequestResponseCycle | None = None
        self.task: asyncio.Task[None] | None = None
        self.client_disconnected = False
        self.tunnel: Tunnel | None = None
        self.upgrading = False
        self.early = b""

    # called by uvicorn and by the parser

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        in_one_write(cycle, self.loop)
        self.running = cycle
        self.task = task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _unsupported_upgrade_warning(self) -> None:
        """Whether to upgrade is the replica's decision: nothing to warn of."""

    def on_message_begin(self) -> None:
        """A request's head begins."""
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["extensions"] = {EXTENSION: self}

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if self.parser.should_upgrade() and not self._upgrades():
            return  # it is parsed once more, as an ordinary request
        if not self.url.startswith(b"/") and b"://" in self.url:
            authority = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
            self.headers[:] = [(n, v) for n, v in self.headers if n != b"host"]
            self.headers.append((b"host", authority.rpartition(b"@")[2]))
            if httptools.parse_url(self.url).path is None:
                self.url += b"/"
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is complete."""
        if not self.parser.should_upgrade() or self._upgrades():
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self.tunnel is not None:
            self.tunnel.feed(data)
        elif self.upgrading:
            self.early += data
            self.transport.pause_reading()
        elif not self.refused:
            self.before_parsing(data)
            self._unset_keepalive_if_required()
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
                if not self._upgrades():
                    self._read_without_upgrade(rest)
                else:
                    self.upgrading = True
                    self.early = rest
                    # If the replica declines, the connection ends: what follows may be of either protocol.
                    self.cycle.keep_alive = False
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
            self.after_parsing()

    def refusal(self, status: HTTPStatus) -> tuple[bytes, bytes]:
        """Media type and body of the answer to a head that is beyond the limits."""
        return PROBLEM_JSON, GatewayProblem(status, status.description).body()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has disconnected."""
        super().connection_lost(exc)
        if self.tunnel is not None:
            self.tunnel.client_lost()
        cycle = self.running
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if self.task is not None and not self.task.done():
                self.client_disconnected = True
                self.task.cancel()

    def pause_writing(self) -> None:
        """The client's buffer is full."""
        if self.tunnel is not None:
            self.tunnel.pause()
        else:
            super().pause_writing()

    def resume_writing(self) -> None:
        """The client takes bytes again."""
        if self.tunnel is not None:
            self.tunnel.resume()
        else:
            super().resume_writing()

    def _upgrades(self) -> bool:
        """Whether the request may switch protocols; one with a body is treated as an ordinary request."""
        return requested_upgrade(self.headers) is not None and not any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 "))
            for name, value in self.headers
        )

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Parse a request again as an ordinary one: the parser has stopped before its body."""
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in self.headers if name not in _UPGRADE_FIELDS]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join((*lines, b"", rest)))

    # called by the activator

    def abort(self) -> None:
        """Close the connection so that the client sees that its response is incomplete."""
        if self.running is not None:
            self.running.disconnected = True
        if not self.transport.is_closing():
            self.transport.abort()

    def stream_until_close(self) -> None:
        """For an HTTP/1.0 client: a body of unknown length ends with the connection."""
        if self.running is not None:
            self.running.chunked_encoding = False
            self.running.expected_content_length = sys.maxsize

    def end_stream(self, last: int) -> None:
        """Only `last` more bytes follow."""
        if self.running is not None:
            self.running.expected_content_length = last

    def open_tunnel(self, head: bytes, tunnel: Tunnel) -> None:
        """Answer with `head`, a complete `101` response head, and pass all further bytes to `tunnel`."""
        if self.running is not None:
            self.running.disconnected = True  # nothing more is sent over ASGI
        self.transport.write(head)
        self.tunnel = tunnel
        early, self.early = self.early, b""
        if early:
            tunnel.feed(early)
        self.transport.resume_reading()
