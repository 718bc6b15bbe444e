"""A request's body on its way to a replica: what is small is kept, to be sent again if need be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

KEPT_BYTES = 64 * 1024
"""What was read of a body is kept up to this size until the replica answers, to be sent again."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Body:
    """A body, to be sent once or, while all of it that was read is still kept, again."""

    __slots__ = ("_complete", "_kept", "_length", "_receive", "replayable")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> None:
        self._receive = receive
        self._kept = bytearray()
        self._length: int | None = 0
        self._complete = False
        self.replayable = True
        for name, value in headers:
            if name == b"content-length":
                self._length = int(value)
            elif name == b"transfer-encoding":
                self._length = None
                break

    @property
    def chunked(self) -> bool:
        """Whether nobody knows its length before its end."""
        return self._length is None

    async def payload(self) -> bytes | AsyncIterator[bytes] | None:
        """What to send: nothing, the whole of a small body, or a stream."""
        if self._length == 0:
            return None
        if self._length is None or self._length > KEPT_BYTES:
            return self._stream()
        while not self._complete:
            await self._read()
        return bytes(self._kept)

    async def _stream(self) -> AsyncIterator[bytes]:
        if self._kept:
            yield bytes(self._kept)
        while not self._complete:
            piece = await self._read()
            if piece:
                yield piece

    async def _read(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the client went away before its request was complete")
        piece: bytes = message.get("body", b"")
        self._complete = not message.get("more_body", False)
        if self.replayable:
            self._kept += piece
            if len(self._kept) > KEPT_BYTES:
                self.replayable = False
                self._kept.clear()
        return piece
