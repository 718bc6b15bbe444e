"""Waking Services ahead: one cheap request each, so that their cold starts run side by side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp

from triggers.delivery.target import Address

log = logging.getLogger(__name__)

PATH: Final = "/healthz/live"
"""Cheap on the project's own stages; any answer of any other container will do."""
IDLE_S: Final = 10.0
"""Seconds after its last answer for which a Service counts as awake."""


class Waker:
    """Wakes the Services of one trigger in the background."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        addresses: Sequence[Address],
        patience_s: float,
        woke: Callable[[], None],
    ) -> None:
        """`patience_s` has to cover a cold start; `woke` is called for each request that is sent."""
        self._session = session
        self._addresses = addresses
        self._timeout = aiohttp.ClientTimeout(total=patience_s)
        self._woke = woke
        self._answered: dict[Address, float] = {}
        self._under_way: dict[Address, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """Wake those that have not answered lately and are not being woken."""
        now = asyncio.get_running_loop().time()
        for address in self._addresses:
            answered = self._answered.get(address)
            if address in self._under_way or (answered is not None and now - answered < IDLE_S):
                continue
            self._woke()
            self._under_way[address] = asyncio.create_task(self._send(address))

    async def close(self) -> None:
        """Cancel requests that are under way."""
        under_way = tuple(self._under_way.values())
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _send(self, address: Address) -> None:
        headers = {"User-Agent": "pilotlight-trigger"}
        if address.host is not None:
            headers["Host"] = address.host
        try:
            async with self._session.get(
                address.url, headers=headers, timeout=self._timeout, allow_redirects=False
            ):
                self._answered[address] = asyncio.get_running_loop().time()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The event itself waits for the Service; waking it ahead is only for speed.
            log.debug("waking %s: %r", address.host or address.url, error)
            await asyncio.sleep(1)
        finally:
            self._under_way.pop(address, None)
