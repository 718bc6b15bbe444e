"""An upgraded connection: bytes in both directions between a client and a replica until either closes it."""

from __future__ import annotations

import asyncio

from knative.local.activator.protocol import ActivatorProtocol
from transport.connection import UpstreamResponse


class ReplicaTunnel(asyncio.Protocol):
    """The replica's side of an upgraded connection, joined to the client's.

    Each side is read only while the other one's buffer has room.
    """

    def __init__(self, client: ActivatorProtocol, response: UpstreamResponse) -> None:
        self._client = client
        self._replica, self._leftover = response.switch()
        self._replica.set_protocol(self)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, head: bytes) -> None:
        """Send `head`, the replica's `101`, to the client and pass bytes both ways until one side closes."""
        self._client.open_tunnel(head + self._leftover, self)
        if self._replica.is_closing():
            self._end()
        else:
            self._replica.resume_reading()
        try:
            await self._ended
        finally:
            self._replica.close()
            self._client.transport.close()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    # from the replica (asyncio.Protocol)

    def data_received(self, data: bytes) -> None:
        """Bytes from the replica."""
        if not self._client.transport.is_closing():
            self._client.transport.write(data)

    def pause_writing(self) -> None:
        """The replica's buffer is full."""
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        """The replica takes bytes again."""
        if not self._client.transport.is_closing():
            self._client.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 asyncio's signature
        """The replica has disconnected."""
        self._end()

    # from the client (protocol.Tunnel)

    def feed(self, data: bytes) -> None:
        """Bytes from the client."""
        if not self._replica.is_closing():
            self._replica.write(data)

    def client_lost(self) -> None:
        """The client has disconnected."""
        self._end()

    def pause(self) -> None:
        """The client's buffer is full."""
        self._replica.pause_reading()

    def resume(self) -> None:
        """The client takes bytes again."""
        if not self._replica.is_closing():
            self._replica.resume_reading()
