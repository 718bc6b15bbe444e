"""The replica's handle of one engine: the processes that the template forked for it.

An `EngineProcess` is one life of one engine and is never restarted; another engine is ordered from the
template. Everything runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from functions.engines.vllm.template_protocol import (
    EndEngine,
    EngineEvent,
    EngineExited,
    EngineForked,
    ErrorReported,
    LoadingFinished,
    LoadingStarted,
    ServerReady,
    WeightsRead,
)

log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""Time from the order to end to SIGKILL."""


class EngineStartError(Exception):
    """An engine ended before it could answer; the message is the cause."""


class EngineProcess:
    """One engine: a process group under the template.

    Args:
        number: of the engine, unique for its template.
        directory: its private folder, with the socket of its server.
        send: sends an order to the template.
    """

    def __init__(self, number: int, directory: Path, send: Callable[[EndEngine], None]) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.directory = directory
        self.socket = directory / "api.sock"
        self.pid: int | None = None
        """The server's process; None until it is forked."""
        self.core_pids: tuple[int, ...] = ()
        """The engine core processes, known once it serves."""
        self.load_seconds = 0.0
        """Seconds that vLLM took to load the weights; the slowest worker's."""
        self.reads: list[WeightsRead] = []
        """Where the weights came from, one entry per worker; complete some time after it serves."""
        self.late_imports: tuple[str, ...] = ()
        self.loading: asyncio.Future[None] = loop.create_future()
        """Done once a worker reads the weights."""
        self.serving: asyncio.Future[None] = loop.create_future()
        """Done once the server accepts requests."""
        self.dead: asyncio.Future[str] = loop.create_future()
        """Done once the engine cannot answer any more, with the cause."""
        self.gone: asyncio.Future[int] = loop.create_future()
        """Done once no process of it is left, with the exit status."""
        self.errors: list[ErrorReported] = []
        self._send = send
        self._pidfds: list[int] = []

    @property
    def alive(self) -> bool:
        """Whether it can still answer, as far as is known."""
        return not self.dead.done()

    async def wait_serving(self) -> None:
        """Wait until the server accepts requests.

        Raises:
            EngineStartError: it ended before.
        """
        waited: set[asyncio.Future[Any]] = {self.serving, self.dead}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not self.serving.done():
            await self.gone  # by then the error reports of its other processes have arrived
            raise EngineStartError(self.cause)

    @property
    def cause(self) -> str:
        """Why it ended.

        Before it served, that is the first error that any of its processes reported: vLLM's outer processes
        report the end of the inner ones as an error of their own.
        """
        if self.serving.done() and self.dead.done():
            return self.dead.result()
        if self.errors:
            return self.errors[0].cause
        status = self.gone.result() if self.gone.done() else None
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            hint = " (often the kernel's answer to too little memory)" if -status == signal.SIGKILL else ""
            return f"the engine was ended by {name}{hint}"
        return self.dead.result() if self.dead.done() else f"the engine ended with status {status}"

    def kill(self, cause: str = "killed on request") -> None:
        """SIGKILL to all of its processes, now."""
        self.declare_dead(cause)
        self._send(EndEngine(self.number))

    async def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Shut it down gracefully, by force after `grace` seconds. Returns when no process is left."""
        self._unwatch()
        if not self.gone.done():
            self._send(EndEngine(self.number, graceful=True))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.gone), grace)
        self.declare_dead("stopped on request")
        if not self.gone.done():
            self._send(EndEngine(self.number))
            await asyncio.wait({self.gone}, timeout=GRACE_SECONDS)

    def declare_dead(self, cause: str) -> None:
        """Record that it cannot answer any more; the first cause counts."""
        self._unwatch()
        if not self.dead.done():
            self.dead.set_result(cause)

    def handle(self, event: EngineEvent, pidfds: Sequence[int] = ()) -> None:
        """Take in an event from the template or from the engine.

        Args:
            event: about this engine.
            pidfds: of the processes that it tells of; closed by this object.
        """
        if isinstance(event, EngineForked):
            for descriptor in pidfds:
                self.pid = _pid_of(descriptor)
                os.close(descriptor)
        elif isinstance(event, (LoadingStarted, LoadingFinished, WeightsRead)):
            self._handle_loading(event)
        elif isinstance(event, ErrorReported):
            self.errors.append(event)
        elif isinstance(event, ServerReady):
            self._handle_ready(event, pidfds)
        elif isinstance(event, EngineExited):
            if not self.gone.done():
                self.gone.set_result(event.status)
            self.declare_dead(f"the engine's server ended with status {event.status}")

    def _handle_ready(self, event: ServerReady, pidfds: Sequence[int]) -> None:
        self.late_imports = event.late_imports
        self.core_pids = tuple(pid for pid in map(_pid_of, pidfds) if pid is not None)
        for descriptor in pidfds:
            self._pidfds.append(descriptor)
            asyncio.get_running_loop().add_reader(descriptor, self._core_died, _pid_of(descriptor))
        if len(pidfds) < event.cores:
            self._core_died(None)
        if not self.serving.done():
            self.serving.set_result(None)

    def _handle_loading(self, event: LoadingStarted | LoadingFinished | WeightsRead) -> None:
        if isinstance(event, LoadingStarted):
            if not self.loading.done():
                self.loading.set_result(None)
        elif isinstance(event, LoadingFinished):
            self.load_seconds = max(self.load_seconds, event.seconds)
        else:
            self.reads.append(event)
            counts = {"from_source": event.from_source, "from_cache": event.from_cache}
            log.info("weights read", extra={"engine": self.number, **counts})

    def _core_died(self, pid: int | None) -> None:
        """Its parent takes seconds to report the death of an engine core; a pidfd tells at once."""
        if self.alive:
            log.error("engine core died", extra={"pid": pid, "engine": self.number})
            self.declare_dead(
                "the engine core died" if pid is None else f"the engine core (process {pid}) died"
            )
            self._send(EndEngine(self.number))

    def _unwatch(self) -> None:
        for descriptor in self._pidfds:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self._pidfds.clear()


def _pid_of(pidfd: int) -> int | None:
    """The process id in this process's PID namespace; None once the process was reaped (pidfd_open(2))."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "Pid":
            return int(value) if int(value) > 0 else None
    return None
