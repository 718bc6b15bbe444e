"""The template process: it has imported vLLM, runs nothing, and forks engines on order.

    python -m functions.engines.vllm.template --control FD

One thread, one loop: orders from the app, deaths of children. Because it runs no torch operation and makes
no CUDA context, each fork starts with all code in place and shares its memory until it is written to. An
engine is a process group: its server, the engine core and workers that vLLM's own managers fork from it.
When the app's end of the channel closes, whatever the reason, the template ends all engines and itself.
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
from collections.abc import Iterator
from pathlib import Path

from functions.engines.vllm import template_protocol, vllm_internals

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 1.0


def die_with_parent(number: int) -> None:
    """Ask the kernel for this signal when the parent dies; 0 asks for none (prctl(2))."""
    _prctl(_PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


class Template:
    """The loop. `run` returns when the app is gone."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, template_protocol.StartEngine] = {}
        """First processes of the engines, by pid."""
        self._base: frozenset[str] = frozenset()

    def prepare(self) -> None:
        """Import everything and say so."""
        began = time.monotonic()
        with self._settling():
            version, device = vllm_internals.import_all()
        seconds = time.monotonic() - began
        self.say(
            template_protocol.Imported(
                seconds, len(self._base), version, device, vllm_internals.device_name()
            )
        )

    @contextlib.contextmanager
    def _settling(self) -> Iterator[None]:
        """What is made within stays for good.

        No collection looks at it: not meanwhile, where it would look through ever more modules, for more than
        a second in all, and find next to no garbage; nor later, neither here nor in an engine, where it would
        copy shared pages.
        """
        gc.disable()
        try:
            yield
        finally:
            gc.freeze()
            gc.enable()
        self._base = vllm_internals.module_names()

    def say(self, packet: template_protocol.Packet) -> None:
        """Tell the app; a channel that is closed is noticed by the loop."""
        with contextlib.suppress(OSError):
            self._control.send(template_protocol.encode(packet))

    def run(self) -> None:
        """Follow orders until the app's end closes."""
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
                    data = self._control.recv(template_protocol.MAX_PACKET)
                    if not data:
                        return
                    self._obey(template_protocol.decode(data))
        finally:
            signal.set_wakeup_fd(-1)
            for pid in list(self._children):
                self._end(pid, signal.SIGKILL)
            while self._children:
                self._reap(block=True)

    def _obey(self, packet: template_protocol.Packet) -> None:
        if isinstance(packet, template_protocol.StartEngine):
            self._fork(packet)
        elif isinstance(packet, template_protocol.ImportModel):
            with self._settling():
                vllm_internals.import_architecture(Path(packet.directory))
        elif isinstance(packet, template_protocol.KillEngine):
            for pid, order in self._children.items():
                if order.engine == packet.engine:
                    if packet.gently:
                        os.kill(pid, signal.SIGTERM)
                    else:
                        self._end(pid, signal.SIGKILL)

    def _fork(self, order: template_protocol.StartEngine) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        template = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = self._be_engine(order, template)
            finally:
                os._exit(status)
        # Both sides set the group, so that neither has to wait for the other (setpgid(2)).
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        self._children[pid] = order
        self.say(template_protocol.Forked(order.engine, pid))

    def _be_engine(self, order: template_protocol.StartEngine, template: int) -> int:
        """In the child: run the server; its exit code."""
        die_with_parent(signal.SIGKILL)
        if os.getppid() != template:
            return 1  # it died before the kernel knew our wish
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Whatever vLLM forks from here dies with the process that forked it.
        os.register_at_fork(after_in_child=lambda: die_with_parent(signal.SIGKILL))
        os.environ["TMPDIR"] = os.environ["VLLM_RPC_BASE_PATH"] = order.directory
        tempfile.tempdir = None  # read TMPDIR again
        if order.cache_root:
            os.environ["VLLM_CACHE_ROOT"] = order.cache_root
        vllm_internals.Observer(
            loading=lambda: self.say(template_protocol.Loading(order.engine)),
            loaded=lambda seconds: self.say(template_protocol.Loaded(order.engine, seconds)),
            read=lambda source, cache: self.say(template_protocol.Read(order.engine, source, cache)),
            trouble=lambda role, cause: self.say(template_protocol.Trouble(order.engine, role, cause)),
        ).attach()
        try:
            vllm_internals.serve(order.argv, lambda: self._serving(order))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - the cause goes to the app
            if isinstance(error, SystemExit) and error.code in {None, 0}:
                return 0
            if not isinstance(error, vllm_internals.OptionError):
                traceback.print_exc()
            self.say(template_protocol.Trouble(order.engine, "server", vllm_internals.describe(error)))
            return 1
        return 0

    def _serving(self, order: template_protocol.StartEngine) -> None:
        late = sorted(vllm_internals.module_names() - self._base)
        self.say(template_protocol.Serving(order.engine, vllm_internals.core_pids(), tuple(late[:500])))

    def _reap(self, *, block: bool = False) -> None:
        """Collect the engines whose first process has ended, with all that they left behind."""
        for pid in list(self._children):
            options = os.WEXITED | os.WNOWAIT | (0 if block else os.WNOHANG)
            if os.waitid(os.P_PID, pid, options) is None:
                continue
            # Still a zombie: its number cannot belong to anybody else yet.
            self._end(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            # The rest of its group, which has become ours by that (see main): killed, so soon gone.
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.waitpid(-pid, 0)
            order = self._children.pop(pid)
            shutil.rmtree(order.directory, ignore_errors=True)
            self.say(template_protocol.Exited(order.engine, os.waitstatus_to_exitcode(status)))

    @staticmethod
    def _end(pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)


def _hung_up(control: socket.socket) -> bool:
    """Whether the other end of the channel is closed already."""
    try:
        return not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def main() -> int:
    """Run a template; its exit code."""
    parser = argparse.ArgumentParser(prog="functions.engines.vllm.template")
    parser.add_argument("--control", type=int, required=True, help="descriptor of the channel to the app")
    options = parser.parse_args()
    control = socket.socket(fileno=options.control)
    # While importing it cannot look at the channel, so the kernel has to tell it.
    die_with_parent(signal.SIGTERM)
    if _hung_up(control):
        return 1  # it died before the kernel knew our wish
    # Orphans of an engine come to the template instead of to a container's first process, which may not reap.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    vllm_internals.quieten()
    template = Template(control)
    try:
        template.prepare()
    except (ImportError, OSError, RuntimeError) as error:
        traceback.print_exc()
        template.say(template_protocol.ImportFailed(vllm_internals.describe(error)))
        return 1
    die_with_parent(0)
    template.run()
    # Nothing is left to give back; taking vLLM's libraries apart would cost time and print their complaints.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
