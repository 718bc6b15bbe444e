"""HTTP below the MCP library: what each call carries, what it may read, and what became of it.

The library sends the posts of one connection from tasks of its own, with the context variables of the caller
(its streams carry them). So a call's header fields reach its posts, and the posts' fate reaches the call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

import httpx2

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""Of one response; an answer's own bound is smaller, and holds for its text."""
CONNECT_SECONDS: Final = 10.0
_CONNECTING = (httpx2.ConnectError, httpx2.ConnectTimeout)


@dataclass(slots=True)
class Exchange:
    """One call's posts.

    Attributes:
        headers: sent with each.
        status: of the last response; None: there was none.
        failure: why there was none.
        begun: whether the server may have begun to work on it.
    """

    headers: dict[str, str]
    status: int | None = None
    failure: str | None = None
    begun: bool = field(default=False)


current_exchange: ContextVar[Exchange | None] = ContextVar("current_exchange", default=None)


class CallTransport(httpx2.AsyncBaseTransport):
    """Sends with the fields of the current exchange, and reads no more than `MAX_BODY_BYTES`.

    A connection that fails is an answer with status 503: raised, it would end all calls of the connection.
    """

    def __init__(self) -> None:
        self._inner = httpx2.AsyncHTTPTransport(
            trust_env=False, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=16)
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response; its body is bounded."""
        if request.method == "GET" and "last-event-id" not in request.headers:
            # The server's own stream, which would be open, and hold it from going to zero, without end.
            return httpx2.Response(405, request=request)
        exchange = current_exchange.get()
        if exchange is not None:
            request.headers.update(exchange.headers)
        try:
            response = await self._inner.handle_async_request(request)
        except httpx2.TransportError as error:
            if exchange is not None:
                exchange.status, exchange.failure = None, f"{type(error).__name__}: {error}"
                exchange.begun = exchange.begun or not isinstance(error, _CONNECTING)
            return httpx2.Response(503, request=request)
        if exchange is not None:
            exchange.status, exchange.failure = response.status_code, None
            # What a full queue, a gateway without a replica or a lost session refuses has not been begun.
            exchange.begun = exchange.begun or response.status_code not in {401, 403, 404, 429, 503}
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _BoundedStream(response.stream)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class _BoundedStream(httpx2.AsyncByteStream):
    """A body. What is wrong with it is a `StreamError`, which ends one call alone."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for piece in self._inner:
                size += len(piece)
                if size > MAX_BODY_BYTES:
                    raise httpx2.StreamError(f"the response has more than {MAX_BODY_BYTES} bytes")
                yield piece
        except httpx2.TransportError as error:
            raise httpx2.StreamError(f"the response was cut off: {error or type(error).__name__}") from error

    async def aclose(self) -> None:
        await self._inner.aclose()


def open_client() -> httpx2.AsyncClient:
    """A client for one server: no cookies kept by name, no proxies, no time limit but for connecting."""
    return httpx2.AsyncClient(
        transport=CallTransport(), timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS), trust_env=False
    )
