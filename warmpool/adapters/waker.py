"""One request to a Service, so that an autoscaler without data scales it from zero."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from warmpool.domain.object_key import ObjectKey

log = logging.getLogger(__name__)

PATH: Final = "/healthz/live"
"""Cheap on the project's own stages; any response of any other container will do."""


class HttpWaker:
    """Sends the request to the Service's own URL, or with its host name to a gateway."""

    def __init__(self, gateway: str | None = None, *, timeout_s: float = 60.0) -> None:
        """`gateway` is a URL that routes by Host; None: requests go to the Service's own URLs.

        `timeout_s` has to cover a cold start: the activator holds the request until a replica is ready.
        """
        self._gateway = gateway
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._under_way: set[asyncio.Task[None]] = set()

    async def wake(self, service: ObjectKey, urls: Sequence[str]) -> None:
        """Send one request to the first of `urls` that answers, in the background."""
        task = asyncio.create_task(self._send(service, urls), name=f"wake {service[0]}/{service[1]}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Cancel requests that are under way."""
        for task in tuple(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _send(self, service: ObjectKey, urls: Sequence[str]) -> None:
        async with aiohttp.ClientSession(timeout=self._timeout) as session:
            for url, headers in self._targets(urls):
                try:
                    async with session.get(url, headers=headers, allow_redirects=False) as response:
                        log.info("woke %s/%s: HTTP %d", *service, response.status)
                        return
                except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                    log.warning("wake-up of %s/%s by %s: %r", *service, url, error)

    def _targets(self, urls: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
        agent = {"User-Agent": "pilotlight-warmpool"}
        if self._gateway:
            base = self._gateway.rstrip("/")
            return [(base + PATH, {**agent, "Host": urlsplit(url).netloc}) for url in urls[:1]]
        return [(url.rstrip("/") + PATH, agent) for url in urls]
