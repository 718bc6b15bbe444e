"""A connection to an MCP server, held by a task of its own: the library's must be left by who entered it.

This module imports the library, which takes half a second; it is imported in a thread when a tool needs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx2
import mcp_types
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from functions.orchestration.tools.mcp_transport import MAX_BODY_BYTES, open_client

log = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 2.0
"""For the end of a session, which the server need not be told."""
_INFO = mcp_types.Implementation(name="pilotlight", version="1")


class Connection:
    """One connection.

    Args:
        name: of the server, for the log.
        url: of the endpoint.
    """

    def __init__(self, name: str, url: str) -> None:
        self._name = name
        self._url = url
        self._users = 0
        self._retired = False
        self._closing = asyncio.Event()
        self._opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        # It may fail before anyone waits, or after all who waited have left.
        self._opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        self._holder = asyncio.create_task(self._hold())

    async def client(self) -> Client:
        """The library's client, once it is connected.

        Raises:
            Exception: of many kinds, the library's own and those of groups: it cannot be.
        """
        try:
            return await asyncio.shield(self._opened)
        except asyncio.CancelledError:
            if self._opened.cancelled():
                raise ConnectionError("the connection was closed while it was being opened") from None
            raise

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A call is under way; a retired connection is closed when the last one has ended."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._close_if_retired()

    def retire(self) -> None:
        """No further call is made; it is closed as soon as none is under way."""
        self._retired = True
        self._close_if_retired()

    def _close_if_retired(self) -> None:
        if self._retired and not self._users:
            self._closing.set()
            if not self._opened.done():
                self._holder.cancel()

    @property
    def ended(self) -> bool:
        """Whether no call can be made any more."""
        return self._holder.done() or self._retired or self._closing.is_set()

    async def close(self) -> None:
        """End it; calls under way fail."""
        self._closing.set()
        _, pending = await asyncio.wait({self._holder}, timeout=CLOSE_SECONDS)
        if pending:
            self._holder.cancel()
            await asyncio.wait({self._holder})

    async def _hold(self) -> None:
        http: httpx2.AsyncClient = open_client()
        try:
            transport = streamable_http_client(self._url, http_client=http, max_sse_event_size=MAX_BODY_BYTES)
            async with http, Client(transport, client_info=_INFO) as client:
                self._opened.set_result(client)
                await self._closing.wait()
        except Exception as error:  # noqa: BLE001 - whoever waits gets it; of many kinds
            if not self._opened.done():
                self._opened.set_exception(error)
            else:
                log.info("an MCP connection has ended", extra={"target": self._name, "reason": repr(error)})
        finally:
            self._opened.cancel()
