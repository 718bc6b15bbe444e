"""The template process: it has imported vLLM, runs nothing, and forks engines on order.

    python -m functions.engines.vllm.template --control FD
    python -m functions.engines.vllm.template --park FOLDER [--model FOLDER]

The second form is written to disk once it has imported, and restored for a replica later (`snapshots`).

One thread and one loop handle orders from the replica's process and deaths of children. Because the template
runs no torch operation and makes no CUDA context, an engine forked from it starts with all code in memory and
shares that memory until it writes to it. An engine is a process group: its server, the engine core and the
workers that vLLM's own managers fork from it. When the replica's end of the channel closes, for whatever
reason, the template ends all engines and itself.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from functions.engines.vllm import template_protocol
from functions.engines.vllm.snapshots import parking
from functions.engines.vllm.template_protocol import (
    EndEngine,
    EngineExited,
    EngineForked,
    ErrorReported,
    ImportArchitecture,
    ImportFailed,
    ImportFinished,
    LoadingFinished,
    LoadingStarted,
    Packet,
    ServerReady,
    StartEngine,
    WeightsRead,
)
from functions.engines.vllm.vllm_internals import imports, server
from functions.engines.vllm.vllm_internals.command_line import OptionError
from functions.engines.vllm.vllm_internals.log_observer import LogObserver, describe

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 1.0
_MAX_LATE_IMPORTS = 500
"""Names in one packet, which has a size limit."""


def die_with_parent(number: int) -> None:
    """Have the kernel send this signal when the parent dies; 0 for none (prctl(2), PR_SET_PDEATHSIG)."""
    _prctl(_PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


class TemplateServer:
    """Follows the orders that come through the channel.

    Args:
        control: this process's end of the channel.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, StartEngine] = {}
        """The order that each engine's first process was forked for, by process id."""
        self._imported: frozenset[str] = frozenset()
        """Names of the modules that every engine finds imported."""

    def import_vllm(self) -> None:
        """Import what every engine needs, and report it; at once where that has been done."""
        began = time.monotonic()
        with _permanent_objects():
            version, device = imports.import_all()
        self._imported = imports.module_names()
        seconds = time.monotonic() - began
        self.send(ImportFinished(seconds, len(self._imported), version, device, imports.device_name()))

    def send(self, packet: Packet, pids: Sequence[int] = ()) -> None:
        """Send to the replica's process, with a pidfd for each process that the packet tells of.

        In its PID namespace, which may be another one, these processes have other ids. A closed channel is
        noticed by `run`.
        """
        descriptors = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                descriptors.append(os.pidfd_open(pid))
        try:
            with contextlib.suppress(OSError):
                socket.send_fds(self._control, [template_protocol.encode(packet)], descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def run(self) -> None:
        """Follow orders until the replica's end of the channel closes."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            while True:
                ready, _, _ = select.select([self._control.fileno(), woken], [], [], _POLL_SECONDS)
                if woken in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(woken, 4096)
                self._reap()
                if self._control.fileno() in ready:
                    data = self._control.recv(template_protocol.MAX_PACKET_BYTES)
                    if not data:
                        return
                    self._follow(template_protocol.decode(data))
        finally:
            signal.set_wakeup_fd(-1)
            for pid in list(self._children):
                _signal_group(pid, signal.SIGKILL)
            while self._children:
                self._reap(block=True)

    def _follow(self, order: Packet) -> None:
        if isinstance(order, StartEngine):
            self._fork(order)
        elif isinstance(order, ImportArchitecture):
            with _permanent_objects():
                imports.import_architecture(Path(order.directory))
            self._imported = imports.module_names()
        elif isinstance(order, EndEngine):
            for pid, started in self._children.items():
                if started.engine == order.engine:
                    if order.graceful:
                        os.kill(pid, signal.SIGTERM)
                    else:
                        _signal_group(pid, signal.SIGKILL)

    def _fork(self, order: StartEngine) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        template = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = self._run_engine(order, template)
            finally:
                os._exit(status)
        # Parent and child both set the group, so that neither has to wait for the other (setpgid(2)).
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        self._children[pid] = order
        self.send(EngineForked(order.engine), [pid])

    def _run_engine(self, order: StartEngine, template: int) -> int:
        """In the child: run the server; returns its exit code."""
        die_with_parent(signal.SIGKILL)
        if os.getppid() != template:
            return 1  # the template died before the kernel knew of the signal
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Each process that vLLM forks from here dies with the process that forked it.
        os.register_at_fork(after_in_child=lambda: die_with_parent(signal.SIGKILL))
        os.environ["TMPDIR"] = os.environ["VLLM_RPC_BASE_PATH"] = order.directory
        tempfile.tempdir = None  # makes tempfile read TMPDIR again
        if order.cache_root:
            os.environ["VLLM_CACHE_ROOT"] = order.cache_root
        LogObserver(
            on_loading=lambda: self.send(LoadingStarted(order.engine)),
            on_loaded=lambda seconds: self.send(LoadingFinished(order.engine, seconds)),
            on_read=lambda source, cache: self.send(WeightsRead(order.engine, source, cache)),
            on_error=lambda process, cause: self.send(ErrorReported(order.engine, process, cause)),
        ).install()
        try:
            server.serve(order.argv, lambda: self._report_ready(order))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - reported to the replica
            if isinstance(error, SystemExit) and error.code in {None, 0}:
                return 0
            if not isinstance(error, OptionError):
                traceback.print_exc()
            self.send(ErrorReported(order.engine, "server", describe(error)))
            return 1
        return 0

    def _report_ready(self, order: StartEngine) -> None:
        late = sorted(imports.module_names() - self._imported)
        cores = server.core_pids()
        self.send(ServerReady(order.engine, len(cores), tuple(late[:_MAX_LATE_IMPORTS])), cores)

    def _reap(self, *, block: bool = False) -> None:
        """Collect the engines whose first process has ended, with all processes that they left behind."""
        for pid in list(self._children):
            options = os.WEXITED | os.WNOWAIT | (0 if block else os.WNOHANG)
            if os.waitid(os.P_PID, pid, options) is None:
                continue
            # It is still a zombie, so its process id cannot belong to another process yet.
            _signal_group(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            # The rest of its group, now children of this process (PR_SET_CHILD_SUBREAPER) and killed.
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.waitpid(-pid, 0)
            order = self._children.pop(pid)
            shutil.rmtree(order.directory, ignore_errors=True)
            self.send(EngineExited(order.engine, os.waitstatus_to_exitcode(status)))


@contextlib.contextmanager
def _permanent_objects() -> Iterator[None]:
    """Keep the garbage collector away from what is made within the block, now and later.

    During an import it would traverse ever more modules, more than a second in all, and find next to no
    garbage. Later, here or in an engine, traversing them would copy pages that are shared.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _is_closed(control: socket.socket) -> bool:
    """Whether the other end of the channel is closed."""
    try:
        return not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def main() -> int:
    """Run a template; returns its exit code."""
    parser = argparse.ArgumentParser(prog="functions.engines.vllm.template")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--control", type=int, help="file descriptor of the channel")
    how.add_argument("--park", type=Path, help="folder for parked.json; orders come on the standard input")
    parser.add_argument(
        "--model", type=Path, help="folder with the config.json of a model to import before parking"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if options.park is None:
        control = socket.socket(fileno=options.control)
        # While it imports it does not watch the channel, so the kernel has to tell it.
        die_with_parent(signal.SIGTERM)
        if _is_closed(control):
            return 1  # the replica died before the kernel knew of the signal
    else:
        control = _park(options.park, options.model)
    # Orphans of an engine become children of the template; a container's first process may not reap them.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    imports.set_environment()
    template = TemplateServer(control)
    try:
        template.import_vllm()
    except (ImportError, OSError, RuntimeError) as error:
        traceback.print_exc()
        template.send(ImportFailed(describe(error)))
        return 1
    die_with_parent(0)
    template.run()
    # Skips the interpreter's shutdown: nothing is left to release, and it makes vLLM's libraries print
    # errors.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _park(folder: Path, model: Path | None) -> socket.socket:
    """Import everything, wait to be restored, and return the channel to the replica."""
    die_with_parent(signal.SIGKILL)
    parking.run_in_background(background=True)
    imports.set_environment()
    with _permanent_objects():
        imports.import_all()
        if model is not None:
            imports.import_architecture(model)
        gc.collect()
    return parking.park(folder)


if __name__ == "__main__":
    sys.exit(main())
