"""The validating webhook of WarmPools: `POST /validate-warmpool` over TLS, called by the API server.

The certificate comes from the two files of a mounted Secret of type kubernetes.io/tls. They may come later
than the server and change at any time: kubelet mounts a new Secret, or a renewed certificate, within about a
minute.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from pathlib import Path
from typing import Final, Self

from aiohttp import web

from warmpool.domain.admission import review_request
from warmpool.ports import Clock

log = logging.getLogger(__name__)

VALIDATE_PATH: Final = "/validate-warmpool"
_MAX_BYTES: Final = 8 * 1024 * 1024
"""The largest review that is read: the API server stores objects of at most 1.5 MiB, and sends two."""
_CHECK_EVERY_S: Final = 10.0


class WebhookServer:
    """Serves the webhook as long as the context lasts and there is a certificate.

    Args:
        clock: says which dates have passed.
        folder: where `tls.crt` and `tls.key` are.
    """

    def __init__(self, clock: Clock, folder: Path, *, host: str, port: int) -> None:
        self._clock = clock
        self._files = (folder / "tls.crt", folder / "tls.key")
        self._address = (host, port)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._loaded: tuple[float, ...] | None = None
        self._runner: web.AppRunner | None = None
        self._checking: asyncio.Task[None] | None = None
        self.port: int | None = None
        """Where it listens; None: there is no certificate yet."""

    async def __aenter__(self) -> Self:
        """Start to serve, now or when the certificate is there.

        Raises:
            OSError: the port is in use.
        """
        if not await self.check():
            log.info("the webhook waits for a certificate in %s", self._files[0].parent)
        self._checking = asyncio.create_task(self._check_repeatedly(), name="webhook certificate")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._checking is not None:
            self._checking.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    async def check(self) -> bool:
        """Read the certificate if it is new, and listen once there is one; whether there is.

        Raises:
            OSError: the port is in use.
        """
        self._load()
        if self._loaded is not None and self._runner is None:
            await self._listen()
        return self._loaded is not None

    def _load(self) -> None:
        """Read the certificate if its files have changed; the old one stays in use if they cannot be read."""
        try:
            changed = tuple(file.stat().st_mtime for file in self._files)
            if changed != self._loaded:
                self._context.load_cert_chain(*self._files)
                self._loaded = changed
        except FileNotFoundError:
            return
        except OSError as problem:  # ssl.SSLError too: certificate and key are not of one pair (yet)
            log.warning("the webhook's certificate cannot be read: %s", problem)

    async def _listen(self) -> None:
        app = web.Application(client_max_size=_MAX_BYTES)
        app.router.add_post(VALIDATE_PATH, self._validate)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        host, port = self._address
        await web.TCPSite(self._runner, host, port, ssl_context=self._context).start()
        self.port = self._runner.addresses[0][1]
        log.info("the webhook listens on %s:%d", host, self.port)

    async def _check_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)
            try:
                await self.check()
            except OSError as problem:
                log.warning("the webhook cannot listen: %s", problem)
                self._runner = None

    async def _validate(self, request: web.Request) -> web.Response:
        try:
            review = json.loads(await request.read())
            # In a thread, because a spec may be as large as the API server allows.
            response = await asyncio.to_thread(review_request, review, self._clock.now())
        except (ValueError, RecursionError) as problem:
            return web.Response(status=400, text=str(problem))
        return web.json_response(response)
