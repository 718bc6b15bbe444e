"""The app's view of its template process and of the engines forked from it.

Everything runs on the event loop. A `Template` outlives its engines; an `EngineProcess` is one life of one
engine, never restarted: who wants another asks the template again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from functions.engines.vllm import template_protocol
from weights import processors

log = logging.getLogger(__name__)

_GIVE_UP_SECONDS = 10.0
"""How long processes that were told to end may take before they are killed."""


class TemplateError(Exception):
    """The template process cannot be had; the message says why."""


class EngineStartError(Exception):
    """An engine died before it could answer; the message is the cause."""


class EngineProcess:
    """One engine: a process group under the template.

    `loading` is done once our loader reads the weights; `serving` once its server accepts requests; `dead`
    once it cannot answer any more, with the cause; `gone` once no process of it is left.
    """

    def __init__(self, number: int, directory: Path, template: Template) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.directory = directory
        self.socket = directory / "api.sock"
        self.pid: int | None = None
        self.core_pids: tuple[int, ...] = ()
        self.load_seconds = 0.0
        """Seconds that vLLM took to load the weights; the slowest worker's."""
        self.reads: list[template_protocol.Read] = []
        """Where the weights came from, one for each worker; complete a while after it serves."""
        self.late: tuple[str, ...] = ()
        self.loading: asyncio.Future[None] = loop.create_future()
        self.serving: asyncio.Future[None] = loop.create_future()
        self.dead: asyncio.Future[str] = loop.create_future()
        self.gone: asyncio.Future[int] = loop.create_future()
        self.troubles: list[template_protocol.Trouble] = []
        self._template = template
        self._watched: list[int] = []

    @property
    def alive(self) -> bool:
        """As far as anybody knows."""
        return not self.dead.done()

    async def wait_serving(self) -> None:
        """Wait until the server accepts requests.

        Raises:
            EngineStartError: it died before.
        """
        waited: set[asyncio.Future[Any]] = {self.serving, self.dead}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not self.serving.done():
            await self.gone  # what its other processes had to say has arrived by then
            raise EngineStartError(self.cause)

    @property
    def cause(self) -> str:
        """Why it died: before it served, the first error that any of its processes reported.

        The first, since vLLM's outer processes report the inner one's death as their own.
        """
        if self.serving.done() and self.dead.done():
            return self.dead.result()
        if self.troubles:
            return self.troubles[0].cause
        status = self.gone.result() if self.gone.done() else None
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            hint = " (often the kernel's answer to too little memory)" if -status == signal.SIGKILL else ""
            return f"the engine was ended by {name}{hint}"
        return self.dead.result() if self.dead.done() else f"the engine ended with status {status}"

    def kill(self, cause: str = "killed by order") -> None:
        """SIGKILL to every process of it, now."""
        self.declare_dead(cause)
        self._template.send(template_protocol.KillEngine(self.number))

    async def stop(self, grace: float = _GIVE_UP_SECONDS) -> None:
        """End it in order, and with force after `grace` seconds. Returns when nothing is left."""
        self._unwatch()
        if not self.gone.done():
            self._template.send(template_protocol.KillEngine(self.number, gently=True))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.gone), grace)
        self.declare_dead("stopped by order")
        if not self.gone.done():
            self._template.send(template_protocol.KillEngine(self.number))
            await asyncio.wait({self.gone}, timeout=_GIVE_UP_SECONDS)

    def declare_dead(self, cause: str) -> None:
        """It cannot answer any more."""
        self._unwatch()
        if not self.dead.done():
            self.dead.set_result(cause)

    def heard(self, packet: template_protocol.Packet) -> None:
        """Take in what the template or the engine reports."""
        if isinstance(packet, template_protocol.Forked):
            self.pid = packet.pid
        elif isinstance(
            packet, (template_protocol.Loading, template_protocol.Loaded, template_protocol.Read)
        ):
            self._heard_of_weights(packet)
        elif isinstance(packet, template_protocol.Trouble):
            self.troubles.append(packet)
        elif isinstance(packet, template_protocol.Serving):
            self.late, self.core_pids = packet.late, packet.pids
            for pid in packet.pids:
                self._watch(pid)
            if not self.serving.done():
                self.serving.set_result(None)
        elif isinstance(packet, template_protocol.Exited):
            if not self.gone.done():
                self.gone.set_result(packet.status)
            self.declare_dead(f"the engine's server ended with status {packet.status}")

    def _heard_of_weights(
        self, packet: template_protocol.Loading | template_protocol.Loaded | template_protocol.Read
    ) -> None:
        if isinstance(packet, template_protocol.Loading):
            if not self.loading.done():
                self.loading.set_result(None)
        elif isinstance(packet, template_protocol.Loaded):
            self.load_seconds = max(self.load_seconds, packet.seconds)
        else:
            self.reads.append(packet)
            counted = {"from_source": packet.from_source, "from_cache": packet.from_cache}
            log.info("weights read", extra={"engine": self.number, **counted})

    def _watch(self, pid: int) -> None:
        """Notice the death of a grandchild at once: its parent needs seconds to say so."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._core_died(pid)
            return
        self._watched.append(descriptor)
        asyncio.get_running_loop().add_reader(descriptor, self._core_died, pid)

    def _core_died(self, pid: int) -> None:
        if self.alive:
            log.error("engine core died", extra={"pid": pid, "engine": self.number})
            self.declare_dead(f"the engine core (process {pid}) died")
            self._template.send(template_protocol.KillEngine(self.number))

    def _unwatch(self) -> None:
        for descriptor in self._watched:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self._watched.clear()


class Template:
    """The process that has imported vLLM. Started once; `fork` gives an engine in milliseconds."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._process = process
        self._control = control
        self._engines: dict[int, EngineProcess] = {}
        self._numbers = itertools.count(1)
        self._imported: asyncio.Future[template_protocol.Imported] = loop.create_future()
        self.ended: asyncio.Task[int] = loop.create_task(self._wait())
        """Done when the process is gone, with its exit code."""
        loop.add_reader(control, self._receive)

    @classmethod
    async def start(cls, *, environment: Mapping[str, str] | None = None) -> Template:
        """Start the process; it imports in the background.

        Args:
            environment: more variables for vLLM.

        Raises:
            TemplateError: vLLM is not installed.
        """
        if importlib.util.find_spec("vllm") is None:
            raise TemplateError("vLLM is not installed; install pilotlight[cpu] or pilotlight[gpu]")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        command = [sys.executable, "-m", "functions.engines.vllm.template", "--control", str(theirs.fileno())]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_cpu_environment(), **(environment or {})},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C at a terminal is the app's to handle
            )
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    async def imported(self) -> template_protocol.Imported:
        """Wait until everything is imported.

        Raises:
            TemplateError: it cannot be.
        """
        return await asyncio.shield(self._imported)

    def import_model(self, directory: Path) -> None:
        """Order the import of the architecture that `config.json` in this folder names."""
        self.send(template_protocol.ImportModel(str(directory)))

    def fork(self, argv: Sequence[str], *, cache_root: Path | None = None) -> EngineProcess:
        """Order an engine; `argv` is vLLM's command line without `--uds`, which is added.

        `cache_root` is where it keeps what it compiles, if not in its usual place.
        """
        directory = Path(tempfile.mkdtemp(prefix="pilotlight-"))
        engine = EngineProcess(next(self._numbers), directory, self)
        self._engines[engine.number] = engine
        if self.ended.done():
            self._bury(engine)
        else:
            full = (*argv, "--uds", str(engine.socket))
            root = "" if cache_root is None else str(cache_root)
            self.send(
                template_protocol.StartEngine(engine.number, full, str(engine.socket), str(directory), root)
            )
        return engine

    def send(self, packet: template_protocol.Packet) -> None:
        """Tell the template; one that is gone needs no telling."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, OSError):
            self._control.send(template_protocol.encode(packet))

    async def close(self) -> None:
        """End the engines and the process, by force if need be."""
        for engine in self._engines.values():
            engine.declare_dead("the template was closed")
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        if not self._imported.done() and not self.ended.done():
            # While it imports it cannot see that the channel is closed, and has nothing to put in order.
            self._process.terminate()
        done, _ = await asyncio.wait({self.ended}, timeout=_GIVE_UP_SECONDS)
        if not done:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self.ended
        if self._imported.done() and not self._imported.cancelled():
            self._imported.exception()  # seen

    async def _wait(self) -> int:
        code = await self._process.wait()
        self._receive()
        if not self._imported.done():
            reason = signal.Signals(-code).name if code < 0 else f"status {code}"
            self._imported.set_exception(TemplateError(f"the template process ended with {reason}"))
        for engine in list(self._engines.values()):
            self._bury(engine)
        return code

    def _bury(self, engine: EngineProcess) -> None:
        """The template is gone, and the kernel has ended the engine with it."""
        self._engines.pop(engine.number, None)
        engine.declare_dead("the template process died")
        if not engine.gone.done():
            engine.gone.set_result(-signal.SIGKILL)
        with contextlib.suppress(OSError):
            for path in engine.directory.iterdir():
                path.unlink()
            engine.directory.rmdir()

    def _receive(self) -> None:
        while True:
            try:
                data = self._control.recv(template_protocol.MAX_PACKET)
            except (BlockingIOError, OSError):
                return
            if not data:
                asyncio.get_running_loop().remove_reader(self._control)
                return
            self._heard(template_protocol.decode(data))

    def _heard(self, packet: template_protocol.Packet) -> None:
        if isinstance(packet, template_protocol.Imported):
            if not self._imported.done():
                self._imported.set_result(packet)
        elif isinstance(packet, template_protocol.ImportFailed):
            if not self._imported.done():
                self._imported.set_exception(TemplateError(f"vLLM cannot be imported: {packet.cause}"))
        else:
            assert not isinstance(
                packet,
                (template_protocol.StartEngine, template_protocol.ImportModel, template_protocol.KillEngine),
            )
            engine = self._engines.get(packet.engine)
            if engine is not None:
                engine.heard(packet)
            if isinstance(packet, template_protocol.Exited):
                self._engines.pop(packet.engine, None)


def is_cpu_build() -> bool:
    """Whether the installed torch can use the processor only, as its version tells without an import."""
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def _cpu_environment() -> dict[str, str]:
    """OpenMP's settings, which count only at the start of the process that imports torch.

    vLLM sets the same for workers that it spawns: torch's own libgomp loaded first, so that torch and vLLM's
    kernels share one pool, and threads for all cores but one, which the scheduler and the server share. What
    a container may use counts, not what it sees: more threads than that would wait for its quota.
    """
    if not is_cpu_build():
        return {}
    threads = max(1, int(processors.available()) - 1)
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None and "gomp" not in os.environ.get("LD_PRELOAD", ""):
        found = sorted(Path(spec.origin).parent.glob("lib/libgomp*.so*"))
        if found:
            already = os.environ.get("LD_PRELOAD")
            environment["LD_PRELOAD"] = f"{already}:{found[0]}" if already else str(found[0])
    return environment
