"""Reading the body of a request, bounded in size and time; once for every path of a stage."""

import asyncio

from starlette.types import Message, Receive, Scope

from functions.contract import MAX_BODY_BYTES
from functions.problems import ProblemError


class ClientDisconnectedError(Exception):
    """The client has closed its connection, so there is nobody to answer."""


async def read_body(scope: Scope, receive: Receive, *, seconds: float, limit: int = MAX_BODY_BYTES) -> bytes:
    """The whole body.

    Args:
        scope: of the request, for `Content-Length`: a body that announces too much is refused unread.
        receive: of the request.
        seconds: how long the body may take to arrive.
        limit: bytes at most.

    Raises:
        ProblemError: 413 past `limit` bytes, 408 past `seconds`.
        ClientDisconnectedError: the client went away while sending.
    """
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0").lstrip(
        b"0"
    )
    # The server has checked that these are digits. A number of many digits is never made of them.
    if len(declared) > len(str(limit)) or int(declared or b"0") > limit:
        shown = declared[:20].decode("latin-1")
        raise ProblemError(413, f"Content-Length = {shown}, must be at most {limit} bytes")
    try:
        async with asyncio.timeout(seconds):
            return await _read(receive, limit)
    except TimeoutError:
        raise ProblemError(408, f"the body did not arrive within {seconds:g} s") from None


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already, then what `receive` gives."""
    unread = True

    async def replaying() -> Message:
        nonlocal unread
        if unread:
            unread = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replaying


async def _read(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise ProblemError(413, f"the body is longer than {limit} bytes")
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
