"""A container's process group: started, awaited, signalled; and the processes that an earlier platform left.

No process outlives the platform. Three measures, each for what the one before misses: the kernel kills a
container's first process when the platform dies (`setpriv --pdeathsig`); its process group is killed when its
first process exits; and a platform that starts ends every process whose environment carries the identity of
its state folder, whatever group or session it is in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import psutil

PLATFORM_VARIABLE = "PILOTLIGHT_PLATFORM"
"""In the environment of every container: the identity of the platform that runs it."""


class ProcessStartError(Exception):
    """The program cannot be started; the message is that of a container runtime."""


@cache
def dies_with_parent() -> tuple[str, ...]:
    """The command prefix that makes the kernel kill a process when its parent dies."""
    program = shutil.which("setpriv")
    if program is None:
        return ()
    prefix = (program, "--pdeathsig", "KILL", "--")
    probe = subprocess.run([*prefix, "true"], check=False, capture_output=True)  # noqa: S603  # a fixed command
    return prefix if probe.returncode == 0 else ()


def resolve(program: str, env: Mapping[str, str], folder: Path) -> str:
    """A program's path.

    Raises:
        ProcessStartError: there is no such program, or it cannot be executed.
    """
    if "/" in program:
        path = Path(folder, program)
        if not path.exists():
            raise ProcessStartError(f'exec: "{program}": no such file or directory')
        if not os.access(path, os.X_OK) or path.is_dir():
            raise ProcessStartError(f'exec: "{program}": permission denied')
        return str(path)
    found = shutil.which(program, path=env.get("PATH", os.defpath))
    if found is None:
        raise ProcessStartError(f'exec: "{program}": executable file not found in $PATH')
    return found


class Process:
    """A running program and its process group.

    `exited` resolves to its exit code; death by a signal is 128 plus its number, as in a container's state.
    """

    def __init__(self, pid: int, poll: Callable[[], int | None]) -> None:
        self._poll = poll
        self.pid = pid
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = loop.create_future()
        self._descriptor: int | None = os.pidfd_open(pid)
        loop.add_reader(self._descriptor, self._on_exit)

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        folder: Path,
        output: int,
        wrapper: Sequence[str] = (),
    ) -> Process:
        """Start a program in a session of its own.

        Args:
            command: the program and its arguments.
            env: its whole environment.
            folder: where it runs.
            output: the file descriptor that takes both its streams.
            wrapper: a command prefix that prepares the process and then becomes the program by `exec`.

        Raises:
            ProcessStartError: the program or the folder does not exist, or the system refuses.
        """
        if not folder.is_dir():
            raise ProcessStartError(f"workingDir {folder} is not a folder")
        program = resolve(command[0], env, folder)
        try:
            popen = subprocess.Popen(  # noqa: S603  # running the user's command is the purpose
                # Last before the program: a change of user namespace would undo it.
                [*wrapper, *dies_with_parent(), program, *command[1:]],
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except (OSError, ValueError) as problem:  # ValueError: a null character
            raise ProcessStartError(f"cannot start {command[0]}: {problem}") from problem
        return cls(popen.pid, popen.poll)

    @classmethod
    def of_child(cls, pid: int) -> Process:
        """A child of this process that leads a session of its own, however it was made."""

        def poll() -> int | None:
            ended, status = os.waitpid(pid, os.WNOHANG)
            return os.waitstatus_to_exitcode(status) if ended else None

        return cls(pid, poll)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _on_exit(self) -> None:
        """The first process has exited: kill the rest of its group, as happens in a container."""
        if self._descriptor is None:
            return
        code = self._poll()
        if code is None:
            return
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None
        self.signal(signal.SIGKILL)
        if not self.exited.done():
            self.exited.set_result(code if code >= 0 else 128 - code)


def _processes_of(platform_id: str) -> list[psutil.Process]:
    """All processes whose environment carries the platform's identity."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(PLATFORM_VARIABLE) == platform_id:
                found.append(process)
    return found


def end_all(platform_id: str, grace_s: float = 2.0) -> int:
    """End all processes of a platform's containers; returns how many there were. Blocking."""
    processes = _processes_of(platform_id)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=grace_s)
    return len(processes)
