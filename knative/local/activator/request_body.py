"""A request's body on its way to a replica. A small one is kept until the replica answers, for a retry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

RETAINED_BYTES = 64 * 1024
"""Up to this size, what was read of a body is kept until the replica answers; see also `peek`."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class RequestBody:
    """A body that can be sent once or, while all that was read of it is still kept, again.

    Args:
        headers: the request's, which frame the body; names in lower case.
        receive: ASGI's.
    """

    __slots__ = ("_complete", "_length", "_receive", "_retained", "replayable")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> None:
        self._receive = receive
        self._retained = bytearray()
        self._length: int | None = 0
        self._complete = False
        self.replayable = True
        """Whether `payload` can be sent to another replica."""
        for name, value in headers:
            if name == b"content-length":
                self._length = int(value)
            elif name == b"transfer-encoding":
                self._length = None
                break

    @property
    def chunked(self) -> bool:
        """Whether its length is unknown before its end."""
        return self._length is None

    async def peek(self, limit: int) -> bytes | None:
        """The whole body, which stays to be sent; None if it is longer than `limit`.

        May be cancelled: what was read stays.

        Raises:
            ConnectionResetError: the client disconnected before the body's end.
        """
        if self._length is not None and self._length > limit:
            return None
        while not self._complete:
            await self._read(keep=None)
            if len(self._retained) > limit:
                return None
        return bytes(self._retained)

    async def payload(self) -> bytes | AsyncIterator[bytes] | None:
        """What to send: None for no body, bytes for a small one, else an iterator over its pieces.

        Raises:
            ConnectionResetError: the client disconnected before the body's end.
        """
        if self._length == 0:
            return None
        whole = self._complete and self.replayable
        if self._length is None or (self._length > RETAINED_BYTES and not whole):
            return self._pieces()
        while not self._complete:
            await self._read()
        return bytes(self._retained)

    async def _pieces(self) -> AsyncIterator[bytes]:
        if self._retained:
            yield bytes(self._retained)
        while not self._complete:
            piece = await self._read()
            if piece:
                yield piece

    async def _read(self, keep: int | None = RETAINED_BYTES) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the client disconnected before its request was complete")
        piece: bytes = message.get("body", b"")
        self._complete = not message.get("more_body", False)
        if self.replayable:
            self._retained += piece
            if keep is not None and len(self._retained) > keep:
                self.replayable = False
                self._retained.clear()
        return piece
