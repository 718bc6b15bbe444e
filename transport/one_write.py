"""uvicorn's HTTP protocol, but a response's head and its first bytes are one write.

uvicorn hands the head to the socket as soon as an application sends it. Each such call is a system call and
wakes the client, who can do nothing with a head alone; on a virtual machine that is a tenth of a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_COPIED = 64 * 1024
"""Up to so many bytes it is cheaper to join two pieces than to write them one after the other."""


class _OneWrite:
    """A transport that keeps the first piece, for as long as the event loop's present turn lasts."""

    __slots__ = ("_flush", "_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self._flush: asyncio.Handle | None = None

    def write(self, data: bytes) -> None:
        """Write, now or with what comes next."""
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
        """Write what was kept."""
        head, self._head = self._head, None
        if head is not None:
            with contextlib.suppress(RuntimeError):  # uvloop's, of a connection that was lost meanwhile
                self._transport.write(head)

    def close(self) -> None:
        """Write what was kept, and close."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it is."""
        return self._transport.is_closing()


def in_one_write(cycle: RequestResponseCycle, loop: asyncio.AbstractEventLoop) -> None:
    """Have a response's head written together with what its application sends right after it."""
    if cycle.scope["method"] == "HEAD":
        return  # nothing follows
    cycle.transport = cast("asyncio.Transport", _OneWrite(cycle.transport, loop))


class OneWriteProtocol(HttpToolsProtocol):
    """One client's connection; uvicorn's `http`."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        in_one_write(cycle, self.loop)
        super()._start_asgi_task(cycle, app)
