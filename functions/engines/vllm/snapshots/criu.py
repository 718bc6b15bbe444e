"""Running CRIU (https://criu.org, 4.1 or later), which writes processes to disk and restores them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from knative import env_vars

OLDEST = (4, 1)
"""Earlier releases cannot read the vDSO of current kernels."""

_CAP_SYS_ADMIN = 21
_CAP_CHECKPOINT_RESTORE = 40
_SECONDS = 10.0


class CriuError(Exception):
    """CRIU is not there, may not do what it is asked for, or failed; the message says why."""


@dataclasses.dataclass(frozen=True)
class Criu:
    """CRIU, as this process may use it. Made by `find_criu`."""

    program: str
    version: str
    privileged: bool
    """Whether processes can be restored into namespaces of their own (CAP_SYS_ADMIN). Otherwise CRIU has
    CAP_CHECKPOINT_RESTORE alone, and a process gets the id back that it had when it was written."""

    def dump_command(self, pid: int, folder: Path) -> list[str]:
        """Writes a process, which ends with that, into a folder."""
        return [*self._command("dump", folder, folder), "--tree", str(pid)]

    def restore_command(self, folder: Path, work_dir: Path, descriptor: int, pipe: str) -> list[str]:
        """Restores a process and stays its parent until it ends.

        With CAP_SYS_ADMIN it gets a PID namespace, in which its id is free whatever runs on the machine, and
        a view of `/proc` that shows this namespace. All of it ends with the command.

        Args:
            folder: what the process was written to.
            work_dir: private folder for the log.
            descriptor: of the read end of a pipe, takes the place of the pipe that the process read from.
            pipe: the latter's name, such as `pipe:[123]`.
        """
        command = [*self._command("restore", folder, work_dir), "--inherit-fd", f"fd[{descriptor}]:{pipe}"]
        if not self.privileged:
            return command
        return ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command]

    def _command(self, action: str, folder: Path, work_dir: Path) -> list[str]:
        options = [
            "--images-dir",
            str(folder),
            "--work-dir",
            str(work_dir),
            "--log-file",
            f"{action}.log",
            "-v1",
        ]
        # Control groups are the container's business. Files are checked before, by size and time.
        options += ["--manage-cgroups=ignore", "--file-validation", "filesize"]
        return [self.program, action, *options, *([] if self.privileged else ["--unprivileged"])]


def find_criu(environment: Mapping[str, str]) -> Criu:
    """CRIU on this machine.

    Raises:
        CriuError: there is none, it is too old, or this process may not use it.
    """
    program = environment.get(env_vars.CRIU) or shutil.which("criu")
    if program is None:
        raise CriuError("CRIU is not installed; must be there in version 4.1 or later")
    privileged = _has_capability(_CAP_SYS_ADMIN) and shutil.which("unshare") is not None
    if not privileged and not _has_capability(_CAP_CHECKPOINT_RESTORE) and not _has_file_capability(program):
        raise CriuError("this process has neither root's rights nor CAP_CHECKPOINT_RESTORE")
    try:
        output = subprocess.run(  # noqa: S603 - a program that the deployment names
            [program, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise CriuError(f"{program} does not run: {error}") from None
    found = re.search(r"(\d+)\.(\d+)(?:\.\d+)?", output)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        version = found[0] if found else output.strip()[:80]
        raise CriuError(f"{program} has version {version}, must be 4.1 or later")
    return Criu(program, found[0], privileged)


def log_tail(folder: Path, action: str) -> str:
    """The first error in CRIU's log of an action, for a message."""
    with contextlib.suppress(OSError):
        lines = (folder / f"{action}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if "Error" in line and "RLIMIT_NOFILE" not in line]
        if errors:
            return errors[0].strip()
    return "no error in its log"


def _has_capability(number: int) -> bool:
    """Whether this process has a capability in force (capabilities(7))."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return os.geteuid() == 0
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> number & 1)


def _has_file_capability(program: str) -> bool:
    """Whether the program's file gives capabilities to whoever runs it."""
    try:
        return bool(os.getxattr(program, "security.capability"))
    except OSError:
        return False
