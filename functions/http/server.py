"""Serving a stage until it is told to stop or its replica fails: uvicorn, with other handling of signals.

SIGTERM or SIGINT: readiness is 503 at once, requests in flight finish within the grace period, exit 0. A
second signal ends what is left at once. State FAILED: the cause stays readable for a moment, then exit 1.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import uvicorn

from functions.http.app import StageApp
from functions.http.problem_response import problem_body
from functions.lifecycle import State
from functions.problems import MEDIA_TYPE, ProblemError
from functions.settings import SettingsError
from knative import env_vars
from transport.mutual_tls import AUTHORITY, CERTIFICATE, KEY, MutualTls
from transport.one_write import OneWriteProtocol
from transport.request_head import HeadLimitedProtocol, HeadLimits, with_head_limits

log = logging.getLogger(__name__)

RENEWAL_SECONDS = 2
"""Between two looks for a new certificate."""
KEEP_ALIVE_SECONDS = 75
"""Longer than the proxies in front keep a connection, so that this end never closes one that they use."""


class StageProtocol(OneWriteProtocol, HeadLimitedProtocol):
    """One client's connection: heads are bounded, and refusals are problems."""

    def refusal(self, status: HTTPStatus) -> tuple[bytes, bytes]:
        """See `HeadLimitedProtocol`."""
        limits = self.head_limits
        detail = {
            HTTPStatus.REQUEST_TIMEOUT: f"the request's head did not arrive within {limits.timeout_s:g} s",
            HTTPStatus.REQUEST_URI_TOO_LONG: f"the target is longer than {limits.target_bytes} bytes",
            HTTPStatus.BAD_REQUEST: "Host is there more than once, must be there once",
        }.get(status, f"the header fields are longer than {limits.fields_bytes} bytes")
        return MEDIA_TYPE.encode(), problem_body(ProblemError(status, detail).problem)


class StageServer(uvicorn.Server):
    """uvicorn that drains through the application."""

    def __init__(self, app: StageApp) -> None:
        settings = app.settings
        tls = None if settings.tls_dir is None else _certified(settings.tls_dir)
        limits = HeadLimits(fields_bytes=settings.head_bytes, timeout_s=settings.head_seconds)
        config = uvicorn.Config(
            app,
            http=with_head_limits(StageProtocol, limits),
            loop="uvloop",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=5,
            ssl_context_factory=None if tls is None else lambda *_: tls.context,
        )
        super().__init__(config)
        self.app = app
        self._tls = tls
        self.exit_code = 0
        self._stopping: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, then exempt modules and the application from garbage collection.

        They stay until the end, and a full collection of them takes tens of milliseconds of some request.
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
        watching = [loop.create_task(self._watch_failure())]
        if self._tls is not None:
            watching.append(loop.create_task(_renew(self._tls)))
        try:
            yield
        finally:
            for task in watching:
                task.cancel()
            for number in signals:
                loop.remove_signal_handler(number)

    def _on_signal(self, name: str) -> None:
        if self._stopping is not None:
            self.app.abort()
            self.should_exit = True
            return
        log.info("draining", extra={"signal": name, "in_flight": self.app.in_flight})
        self._stopping = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        try:
            await self.app.drain()
        finally:
            self.should_exit = True

    async def _watch_failure(self) -> None:
        state = await self.app.replica.wait_for(State.FAILED)
        if state is State.FAILED:
            self.exit_code = 1
            await asyncio.sleep(self.app.settings.failure_seconds)
            self.should_exit = True


def _certified(folder: Path) -> MutualTls:
    try:
        return MutualTls.server(folder)
    except OSError as error:
        problem = f"must have {AUTHORITY}, {CERTIFICATE} and {KEY}: {error}"
        raise SettingsError((f"{env_vars.TLS_DIR} = {str(folder)!r}: {problem}",)) from error


async def _renew(tls: MutualTls) -> None:
    while True:
        await asyncio.sleep(RENEWAL_SECONDS)
        if tls.refresh():
            log.info("the server's certificate was replaced")


def serve(app: StageApp, listening: socket.socket) -> int:
    """Serve on a listening socket until the replica stops; the process's exit code."""
    server = StageServer(app)
    server.run(sockets=[listening])
    return server.exit_code
