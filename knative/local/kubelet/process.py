"""One process group: started, waited for, signalled; and what an earlier platform left, ended.

A replica never outlives the platform. Three belts, each for what the one before misses: its first process is
killed by the kernel when the platform dies (`setpriv --pdeathsig`), its group is killed when its first
process ends, and a platform that starts ends every process that carries the mark of its state folder in its
environment, whatever group or session it is in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import psutil

MARK = "PILOTLIGHT_PLATFORM"
"""In every replica's environment: whose it is."""


class StartError(Exception):
    """The program can't be started; the text says why."""


@cache
def _dies_with_parent() -> tuple[str, ...]:
    """The prefix that makes the kernel kill a process when the one that started it is gone."""
    program = shutil.which("setpriv")
    if program is None:
        return ()
    words = (program, "--pdeathsig", "KILL", "--")
    probe = subprocess.run([*words, "true"], check=False, capture_output=True)  # noqa: S603  # fixed words
    return words if probe.returncode == 0 else ()


def resolve(program: str, env: Mapping[str, str], folder: Path) -> str:
    """The program's path.

    Raises:
        StartError: there is no such program, or it can't be executed.
    """
    if "/" in program:
        path = Path(folder, program)
        if not path.exists():
            raise StartError(f'exec: "{program}": no such file or directory')
        if not os.access(path, os.X_OK) or path.is_dir():
            raise StartError(f'exec: "{program}": permission denied')
        return str(path)
    found = shutil.which(program, path=env.get("PATH", os.defpath))
    if found is None:
        raise StartError(f'exec: "{program}": executable file not found in $PATH')
    return found


class Process:
    """A running program with everything it starts.

    `exited` resolves to its exit code; a signal becomes 128 and its number, as in a container's state.
    """

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.pid = popen.pid
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = loop.create_future()
        self._descriptor: int | None = os.pidfd_open(popen.pid)
        loop.add_reader(self._descriptor, self._ended)

    @classmethod
    def start(
        cls,
        words: Sequence[str],
        *,
        env: Mapping[str, str],
        folder: Path,
        output: int,
        before: Sequence[str] = (),
    ) -> Process:
        """Start `words` in a session of its own, both streams into `output`.

        `before` are words that set something up and then become the program by `exec`.

        Raises:
            StartError: the program or the folder doesn't exist, or the system refuses.
        """
        if not folder.is_dir():
            raise StartError(f"workingDir {folder} is no folder")
        program = resolve(words[0], env, folder)
        try:
            popen = subprocess.Popen(  # noqa: S603  # running the user's command is the purpose
                # Last before the program: a change of user namespace would undo it.
                [*before, *_dies_with_parent(), program, *words[1:]],
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as problem:
            raise StartError(f"cannot start {words[0]}: {problem}") from problem
        return cls(popen)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after `grace_s` seconds."""
        if not self.exited.done():
            self.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.exited), grace_s)
        if not self.exited.done():
            self.signal(signal.SIGKILL)
            await self.exited

    def _ended(self) -> None:
        """The first process has ended: the rest of its group goes too, as in a container."""
        if self._descriptor is None:
            return
        code = self._popen.poll()
        if code is None:
            return
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None
        self.signal(signal.SIGKILL)
        if not self.exited.done():
            self.exited.set_result(code if code >= 0 else 128 - code)


def marked(mark: str) -> list[psutil.Process]:
    """All processes whose environment carries `mark`."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def end_marked(mark: str, grace_s: float = 2.0) -> int:
    """End all processes that carry `mark`; returns how many there were. Blocking."""
    processes = marked(mark)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=grace_s)
    return len(processes)
