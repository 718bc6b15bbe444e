"""Bodies of responses, read up to a bound."""

from __future__ import annotations

from typing import Final

import aiohttp

MAX_BYTES: Final = 64 * 1024 * 1024
"""The longest body that is read: far more than the metrics of ten thousand Services need."""


class BodyTooLargeError(ValueError):
    """A body is longer than the bound."""


async def read_body(response: aiohttp.ClientResponse, limit: int = MAX_BYTES) -> bytes:
    """The whole body.

    Raises:
        BodyTooLargeError: it has more than `limit` bytes.
    """
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise BodyTooLargeError(f"the response has more than {limit} bytes")
    return bytes(body)
