"""One request to a Service, to wake an autoscaler that has no data since it restarted."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol
from urllib.parse import urlsplit

import aiohttp

from warmpool.reconcile.views import ServiceView

log = logging.getLogger(__name__)

PATH: Final = "/healthz/live"
"""Cheap on the project's own stages; any answer of any other container wakes as well."""


class Waker(Protocol):
    """Wakes Services."""

    async def wake(self, service: ServiceView) -> None:
        """Send one request; its answer does not matter."""
        ...

    async def close(self) -> None:
        """Give up requests that are under way."""
        ...


class HttpWaker:
    """Sends the request to the Service's own URL, or with its host name to a gateway."""

    def __init__(self, gateway: str | None = None, *, patience_s: float = 60.0) -> None:
        """`gateway` is a URL that routes by Host; None uses the Service's address inside the cluster."""
        self._gateway = gateway
        self._patience_s = patience_s
        self._under_way: set[asyncio.Task[None]] = set()

    async def wake(self, service: ServiceView) -> None:
        """Send the request and return; an activator holds it until a replica is there."""
        task = asyncio.create_task(self._send(service), name=f"wake {service.key[0]}/{service.key[1]}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Give up requests that are under way."""
        for task in tuple(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _send(self, service: ServiceView) -> None:
        timeout = aiohttp.ClientTimeout(total=self._patience_s)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for url, headers in self._ways(service):
                try:
                    async with session.get(url, headers=headers, allow_redirects=False) as answer:
                        log.info("woke %s/%s: HTTP %d", *service.key, answer.status)
                        return
                except (aiohttp.ClientError, TimeoutError) as problem:
                    log.warning("wake-up of %s/%s by %s: %r", *service.key, url, problem)

    def _ways(self, service: ServiceView) -> list[tuple[str, dict[str, str]]]:
        agent = {"User-Agent": "pilotlight-warmpool"}
        urls = [url for url in (service.address, service.url) if url]
        if self._gateway:
            base = self._gateway.rstrip("/")
            return [(base + PATH, {**agent, "Host": urlsplit(url).netloc}) for url in urls[:1]]
        return [(url.rstrip("/") + PATH, agent) for url in urls]
