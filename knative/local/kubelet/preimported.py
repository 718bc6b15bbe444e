"""Containers of one Python module, forked from a process that has imported it, instead of started by `exec`.

An optimisation only: whatever it cannot do exactly as `exec` would, it declines, and the container is started
by `exec`. It knows the module from its configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from knative.local import forkserver
from knative.local.kubelet import mount_namespace
from knative.local.kubelet.mount_namespace import BindMount
from knative.local.kubelet.process import Process, dies_with_parent

log = logging.getLogger(__name__)

_TIMEOUT_S = 2.0
"""For one fork, which takes milliseconds: after it the container is started by `exec`."""
_RETRY_S = 60.0
"""Seconds from one start of the forkserver to the next, should it fail."""
_READ_AT_START = (
    *("PYTHON", "LD_", "GLIBC_", "MALLOC_", "LANG", "LC_", "TMPDIR", "TEMP", "TMP", "TZ", "HOME", "XDG_"),
    *("SSL_", "OPENSSL_", "AIOHTTP_", "MULTIDICT_", "YARL_", "FROZENLIST_", "PROPCACHE_", "PYDANTIC_"),
    *("PROMETHEUS_", "OTEL_", "UVICORN_", "WEB_CONCURRENCY"),
)
"""Variables that the interpreter, the C library or a package reads once, by the beginning of their name. A
container in which one of them differs from the forkserver's is started by `exec`."""


@dataclass(frozen=True, slots=True)
class Preimported:
    """A module that containers run as `python -m MODULE ARGUMENTS`."""

    module: str
    imports: Sequence[str]
    """What is imported beforehand: neither of them may start a thread or read a container's variables."""


@dataclass(frozen=True, slots=True)
class Start:
    """A container that is to be started."""

    command: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    mounts: Sequence[BindMount]
    cgroups: Sequence[Path]


def read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that a process reads only once, at its start or in an import (pure)."""
    return {name: value for name, value in env.items() if name.startswith(_READ_AT_START)}


class Forkserver:
    """The process that replicas are forked from; started on demand, and again when it has died.

    Args:
        wanted: the module; None: every container is started by `exec`.
        env: the environment of every container, below its own variables.
        identity: variables that mark every process of the platform.
        folder: where containers run that name no folder.
    """

    def __init__(
        self,
        wanted: Preimported | None,
        env: Mapping[str, str],
        identity: Mapping[str, str],
        folder: Path,
    ) -> None:
        self._wanted = wanted
        # No secret: replicas inherit this process's memory, and its environment is what /proc shows of them.
        self._env = {"PATH": env.get("PATH", os.defpath), **read_at_start(env), **identity}
        self._folder = folder
        self._popen: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready = False
        self._next_start = 0.0

    @property
    def pid(self) -> int | None:
        """Its process; None while there is none."""
        return None if self._popen is None else self._popen.pid

    @property
    def is_ready(self) -> bool:
        """Whether it has imported all and can fork."""
        if self._control is not None and not self._ready:
            with contextlib.suppress(BlockingIOError):
                self._control.setblocking(False)
                if self._control.recv(len(forkserver.READY)) == forkserver.READY:
                    self._ready = True
                else:  # it said why, and would again
                    self.close()
                    self._next_start = math.inf
        return self._ready

    def suits(self, start: Start) -> bool:
        """Whether a forked process could not be told from one that was started by `exec`."""
        wanted = self._wanted
        return (
            wanted is not None
            and tuple(start.command[:3]) == (sys.executable, "-m", wanted.module)
            and start.folder.resolve() == self._folder.resolve()
            and read_at_start(start.env) == read_at_start(self._env)
            and (not start.mounts or os.geteuid() == 0)
            and not any("\0" in text for text in (*start.command, *start.env, *start.env.values()))
        )

    def prepare(self, start: Start) -> None:
        """A container that `suits` is ready: have the next one forked. Returns at once."""
        now = asyncio.get_running_loop().time()
        if not self.suits(start) or self._popen is not None or now < self._next_start:
            return
        assert self._wanted is not None
        self._next_start = now + _RETRY_S
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._popen = subprocess.Popen(  # noqa: S603  # a fixed command
                    [
                        *dies_with_parent(),
                        *(sys.executable, "-m", forkserver.__name__, *self._wanted.imports),
                    ],
                    env=self._env,
                    cwd=self._folder,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as problem:
                ours.close()
                log.warning("replicas are not forked: %s", problem)
                return
        self._control = ours

    def fork(self, start: Start, output: int) -> Process | None:
        """A forked container; None if it is to be started by `exec`.

        Args:
            start: the container.
            output: the file descriptor that takes both its streams.
        """
        if not self.suits(start) or not self.is_ready or self._control is None:
            return None
        ours, theirs = socket.socketpair()
        pid = None
        with ours, theirs:
            try:
                self._control.settimeout(_TIMEOUT_S)
                socket.send_fds(self._control, [b"f"], [theirs.fileno(), output])
                theirs.close()
                answer = self._control.recv(4, socket.MSG_WAITALL)
                if len(answer) != 4:
                    raise ConnectionError("it has ended")
                pid = int.from_bytes(answer, "little")
                ours.settimeout(_TIMEOUT_S)
                ours.sendall(_request(start))
            except OSError as problem:
                if pid is None:  # a process that was forked after all ends when its socket does
                    log.warning("the forkserver does not answer, replicas are started by exec: %s", problem)
                    self.close()
                    return None
        return Process.of_child(pid)

    def close(self) -> None:
        """End it. Replicas are not affected."""
        if self._control is not None:
            self._control.close()
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
        self._popen = self._control = None
        self._ready = False


def _request(start: Start) -> bytes:
    # The shell that puts a program into its control group or makes its mounts sets PWD.
    of_shell = {"PWD": str(start.folder.resolve())} if start.cgroups or start.mounts else {}
    return json.dumps(
        {
            "module": start.command[2],
            "arguments": list(start.command[3:]),
            "env": {**start.env, **of_shell},
            "cgroups": [str(folder) for folder in start.cgroups],
            "mounts": mount_namespace.bind_command(start.mounts),
        }
    ).encode(errors="surrogatepass")
