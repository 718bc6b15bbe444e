"""Serving an app until it is told to stop or its replica fails: uvicorn, with our own meaning of the signals.

SIGTERM or SIGINT: not ready at once, requests in flight finish within the grace period, exit 0. A second
signal ends what is left at once. FAILED: the cause stays readable for a moment, then exit 1.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from functions.http.app import Surface, surface_of
from functions.lifecycle import State
from transport.one_write import OneWriteProtocol

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75
"""Longer than any proxy in front keeps a connection, so that never both ends use and close it at once."""


class StageServer(uvicorn.Server):
    """uvicorn that drains through the app's `Surface`."""

    def __init__(self, app: FastAPI) -> None:
        config = uvicorn.Config(
            app,
            http=OneWriteProtocol,
            loop="uvloop",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)
        self.surface: Surface = surface_of(app)
        self.exit_code = 0
        self._stopping: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does; modules and the app stay for good, and no collection looks at them again.

        It would take tens of milliseconds, in the middle of somebody's request.
        """
        await super().startup(sockets)
        gc.freeze()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replaces uvicorn's handlers, which stop listening at once and end the process by the signal."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self._on_signal, signal.Signals(number).name)
        failing = loop.create_task(self._watch_failure())
        try:
            yield
        finally:
            failing.cancel()
            for number in signals:
                loop.remove_signal_handler(number)

    def _on_signal(self, name: str) -> None:
        if self._stopping is not None:
            self.surface.abort()
            self.should_exit = True
            return
        log.info("draining", extra={"signal": name, "in_flight": self._in_flight()})
        self._stopping = asyncio.get_running_loop().create_task(self._drain())

    def _in_flight(self) -> int:
        return self.surface.door.in_flight if self.surface.door else 0

    async def _drain(self) -> None:
        try:
            await self.surface.drain()
        finally:
            self.should_exit = True

    async def _watch_failure(self) -> None:
        state = await self.surface.replica.wait_for(State.FAILED)
        if state is State.FAILED:
            self.exit_code = 1
            await asyncio.sleep(self.surface.settings.failure_seconds)
            self.should_exit = True


def serve(app: FastAPI, listening: socket.socket) -> int:
    """Serve on a listening socket until the end; the process's exit code."""
    server = StageServer(app)
    server.run(sockets=[listening])
    return server.exit_code
