"""The replica's handle of its template process, from which engines are forked.

A `TemplateProcess` outlives the engines that it forks. Everything runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from functions.engines.vllm import openmp, template_protocol
from functions.engines.vllm.engine_process import GRACE_SECONDS, EngineProcess
from functions.engines.vllm.template_protocol import (
    EndEngine,
    EngineExited,
    ImportArchitecture,
    ImportFailed,
    ImportFinished,
    Order,
    Packet,
    StartEngine,
)
from functions.settings import process_environment


def template_environment() -> dict[str, str]:
    """The environment of a template process that this process starts."""
    inherited = process_environment()
    return {**inherited, **openmp.environment(inherited)}


class TemplateError(Exception):
    """The template process did not start or has ended; the message says why."""


class TemplateProcess:
    """A process that has imported vLLM. Made by `start`.

    `ended` is done, with its exit code, once the process is gone.

    Args:
        process: the template, or the command that restored it and ends with it.
        control: this process's end of the channel.
        restored: whether it was restored from a snapshot.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, control: socket.socket, *, restored: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        self._process = process
        self._control = control
        self.restored = restored
        control.setblocking(False)
        self._engines: dict[int, EngineProcess] = {}
        self._numbers = itertools.count(1)
        self._imported: asyncio.Future[ImportFinished] = loop.create_future()
        loop.add_reader(control, self._receive)
        self.ended: asyncio.Task[int] = loop.create_task(self._wait())

    @classmethod
    async def start(cls, *, environment: Mapping[str, str] | None = None) -> TemplateProcess:
        """Start the process; it begins to import at once.

        Args:
            environment: variables to add to this process's own.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "functions.engines.vllm.template", "--control", str(theirs.fileno())]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL,
                env={**template_environment(), **(environment or {})},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C at a terminal is for the replica's process to handle
            )
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def imported(self) -> ImportFinished:
        """Wait until vLLM is imported.

        Raises:
            TemplateError: it cannot be imported, or the process has ended.
        """
        return await asyncio.shield(self._imported)

    def import_architecture(self, directory: Path) -> None:
        """Order the import of the model classes that `config.json` in this folder names."""
        self._send(ImportArchitecture(str(directory)))

    def fork(self, argv: Sequence[str], *, cache_root: Path | None = None) -> EngineProcess:
        """Order an engine.

        Args:
            argv: vLLM's command line without `--uds`, which is added.
            cache_root: where the engine keeps what it compiles; vLLM's default when None.
        """
        directory = Path(tempfile.mkdtemp(prefix="pilotlight-"))
        engine = EngineProcess(next(self._numbers), directory, self._send)
        self._engines[engine.number] = engine
        if self.ended.done():
            self._ended_with_template(engine)
        else:
            arguments = (*argv, "--uds", str(engine.socket))
            root = "" if cache_root is None else str(cache_root)
            self._send(StartEngine(engine.number, arguments, str(engine.socket), str(directory), root))
        return engine

    async def close(self) -> None:
        """End the engines and the process, by force if need be."""
        for engine in self._engines.values():
            engine.declare_dead("the template process was stopped")
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        if not self._imported.done() and not self.ended.done():
            # While it imports it does not watch the channel, and it has no engine to end yet.
            self._process.kill() if self.restored else self._process.terminate()
        done, _ = await asyncio.wait({self.ended}, timeout=GRACE_SECONDS)
        if not done:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self.ended
        if self._imported.done() and not self._imported.cancelled():
            self._imported.exception()  # retrieved, or asyncio would log it

    def _send(self, order: Order) -> None:
        """Send an order; a template that has ended has no engine left to end."""
        with contextlib.suppress(OSError):
            self._control.send(template_protocol.encode(order))

    async def _wait(self) -> int:
        code = await self._process.wait()
        self._receive()
        if not self._imported.done():
            reason = signal.Signals(-code).name if code < 0 else f"status {code}"
            self._imported.set_exception(TemplateError(f"the template process ended with {reason}"))
        for engine in list(self._engines.values()):
            self._ended_with_template(engine)
        return code

    def _ended_with_template(self, engine: EngineProcess) -> None:
        """The template is gone, and the kernel has ended the engine with it (PR_SET_PDEATHSIG)."""
        self._engines.pop(engine.number, None)
        engine.declare_dead("the template process died")
        if not engine.gone.done():
            engine.gone.set_result(-signal.SIGKILL)
        shutil.rmtree(engine.directory, ignore_errors=True)

    def _receive(self) -> None:
        while True:
            try:
                data, pidfds, _, _ = socket.recv_fds(
                    self._control, template_protocol.MAX_PACKET_BYTES, template_protocol.MAX_PIDFDS
                )
            except OSError:  # nothing more for now, or closed
                return
            if not data:
                asyncio.get_running_loop().remove_reader(self._control)
                return
            self._handle(template_protocol.decode(data), pidfds)

    def _handle(self, packet: Packet, pidfds: Sequence[int]) -> None:
        if isinstance(packet, ImportFinished):
            if not self._imported.done():
                self._imported.set_result(packet)
        elif isinstance(packet, ImportFailed):
            if not self._imported.done():
                self._imported.set_exception(TemplateError(f"vLLM cannot be imported: {packet.cause}"))
        else:
            assert not isinstance(packet, (StartEngine, ImportArchitecture, EndEngine))
            engine = self._engines.get(packet.engine)
            if engine is not None:
                engine.handle(packet, pidfds)
            else:
                for descriptor in pidfds:
                    os.close(descriptor)
            if isinstance(packet, EngineExited):
                self._engines.pop(packet.engine, None)
