"""uvicorn's HTTP protocol, with a response's head and its first bytes in one write.

uvicorn writes the head to the socket as soon as an application sends it. Each write is a system call and
wakes the client, which can do nothing with a head alone; on a virtual machine that costs 0.1 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_COPIED = 64 * 1024
"""Bytes up to which joining two pieces is cheaper than a second write."""


class _OneWrite:
    """A transport that keeps the first piece until the next one, or until the event loop's next iteration."""

    __slots__ = ("_flush", "_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self._flush: asyncio.Handle | None = None

    def write(self, data: bytes) -> None:
        """Write now, or together with the next piece."""
        if self._flush is None:
            self._head = data
            self._flush = self._loop.call_soon(self.flush)
            return
        if self._head is not None:
            if len(data) <= _COPIED:
                data, self._head = self._head + data, None
                self._flush.cancel()
            else:
                self.flush()
        self._transport.write(data)

    def flush(self) -> None:
        """Write the piece that was kept."""
        head, self._head = self._head, None
        if head is not None:
            with contextlib.suppress(RuntimeError):  # raised by uvloop if the connection was lost meanwhile
                self._transport.write(head)

    def close(self) -> None:
        """Write the piece that was kept, and close."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the transport is closing."""
        return self._transport.is_closing()


def in_one_write(cycle: RequestResponseCycle, loop: asyncio.AbstractEventLoop) -> None:
    """Write this response's head together with what the application sends right after it."""
    if cycle.scope["method"] == "HEAD":
        return  # no body follows
    cycle.transport = cast("asyncio.Transport", _OneWrite(cycle.transport, loop))


class OneWriteProtocol(HttpToolsProtocol):
    """One client's connection; given to `uvicorn.Config(http=...)`."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        in_one_write(cycle, self.loop)
        super()._start_asgi_task(cycle, app)
