"""What is checked before a replay begins."""

from __future__ import annotations

import asyncio
import resource
from typing import Final
from urllib.parse import urlsplit

from pilotlight.replay.errors import ReplayError

_SPARE_FILES: Final = 64


async def check_reachable(url: str, timeout_s: float = 5.0) -> None:
    """Connect once, without a request: that would wake a function at zero.

    Raises:
        ReplayError: nobody listens.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError) as error:
        raise ReplayError(f"--url {url}: nobody answers there: {error or 'no connection in time'}") from error
    writer.close()


def check_files(max_in_flight: int) -> None:
    """Whether the process may have so many connections.

    Raises:
        ReplayError: it may not.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and max_in_flight + _SPARE_FILES > allowed:
        raise ReplayError(
            f"--max-in-flight {max_in_flight}: this shell allows {allowed} open files; "
            f"run `ulimit -n {max_in_flight + _SPARE_FILES}` before, or give fewer"
        )
