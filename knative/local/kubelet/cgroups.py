"""Control groups: where this machine permits them, and one for each container with limits.

Version 2 (docs.kernel.org/admin-guide/cgroup-v2.html) where it controls memory and CPU, else version 1.
Groups are made below the platform's own group where possible, so that a limit on the platform bounds its
containers too; else at the root of the hierarchy, where Kubernetes' kubelet makes its own. This module only
writes limits; the quota of the own process is read in `weights.processors`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from knative.local.kubelet.limits import ResourceLimits

log = logging.getLogger(__name__)

_PERIOD_US = 100_000
_MIN_QUOTA_US = 1_000
_CONTROLLERS = frozenset({"memory", "cpu"})
_OWN = "platform"
"""The group that the platform moves to, because a group with limited children may hold no processes."""
_ENTER = """
while [ "$1" != "--" ]; do
  echo $$ > "$1/cgroup.procs" || exit 126
  shift
done
shift
exec "$@"
"""
_MAX_CPUS = 10_000
_TRIAL = ResourceLimits(memory_bytes=64 << 20, cpus=1.0)


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One container's group: a folder for each resource with version 1, one for both with version 2."""

    memory: Path
    cpu: Path
    version: int

    @property
    def folders(self) -> tuple[Path, ...]:
        """Its folders, each once."""
        return tuple(dict.fromkeys((self.memory, self.cpu)))

    @property
    def wrapper(self) -> tuple[str, ...]:
        """The command prefix that runs a program in the group."""
        return (shutil.which("sh") or "/bin/sh", "-c", _ENTER, "sh", *map(str, self.folders), "--")

    def limit(self, limits: ResourceLimits) -> None:
        """Set the limits."""
        # More CPUs than the machine has are no limit, and the kernel refuses what overflows its counter.
        cpus = None if limits.cpus is None else min(limits.cpus, _MAX_CPUS)
        quota = None if cpus is None else max(_MIN_QUOTA_US, round(cpus * _PERIOD_US))
        if self.version == 2:
            if limits.memory_bytes is not None:
                _write(self.memory / "memory.max", limits.memory_bytes)
                _write(self.memory / "memory.oom.group", 1)
                with contextlib.suppress(OSError):  # a kernel without swap has no such file
                    _write(self.memory / "memory.swap.max", 0)
            if quota is not None:
                _write(self.cpu / "cpu.max", f"{quota} {_PERIOD_US}")
            return
        if limits.memory_bytes is not None:
            _write(self.memory / "memory.limit_in_bytes", limits.memory_bytes)
            with contextlib.suppress(OSError):
                _write(self.memory / "memory.memsw.limit_in_bytes", limits.memory_bytes)
        if quota is not None:
            _write(self.cpu / "cpu.cfs_period_us", _PERIOD_US)
            _write(self.cpu / "cpu.cfs_quota_us", quota)

    def was_oom_killed(self) -> bool:
        """Whether the kernel has killed a process of the group for its memory limit."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        with contextlib.suppress(OSError):
            for line in (self.memory / name).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1]) > 0
        return False

    def kill(self) -> int:
        """Kill every process in the group, whatever its session; returns how many there were."""
        pids = set(_pids(self.folders))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def remove(self, timeout_s: float = 5.0) -> bool:
        """Kill its processes and remove the group. Blocks for as long as they take to end."""
        deadline = time.monotonic() + timeout_s
        while not self.try_remove():
            if time.monotonic() > deadline:
                log.warning("cannot remove the control group %s: it still has processes", self.memory)
                return False
            self.kill()
            time.sleep(0.005)
        return True

    def try_remove(self) -> bool:
        """Remove the group if it has no processes."""
        for folder in self.folders:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True


@dataclass(frozen=True, slots=True)
class CgroupParent:
    """The folder in each hierarchy below which a platform's groups are."""

    memory: Path
    cpu: Path
    version: int
    own: Path | None = None
    """The platform's own group, if it may move from there to a group below."""

    def group(self, name: str) -> Cgroup:
        """A container's group, which need not exist yet."""
        return Cgroup(self.memory / name, self.cpu / name, self.version)

    def make(self, name: str, limits: ResourceLimits) -> Cgroup:
        """A new group with these limits.

        Raises:
            OSError: the system refuses.
        """
        group = self.group(name)
        for folder in group.folders:
            folder.mkdir(exist_ok=True)
        group.limit(limits)
        return group

    def clear(self) -> int:
        """Remove all groups and kill their processes; returns how many groups there were. Blocking."""
        names = {
            folder.name
            for parent in (self.memory, self.cpu)
            for folder in _folders(parent)
            if folder.name != _OWN
        }
        for name in names:
            self.group(name).remove()
        return len(names)

    def close(self) -> None:
        """Remove all groups, and move the platform back to its own group. Blocking."""
        self.clear()
        with contextlib.suppress(OSError):
            if self.own is not None and (self.memory / _OWN).is_dir():
                # A group with limited children may hold no processes: the limits go first.
                _write(self.memory / "cgroup.subtree_control", "-memory -cpu")
                _write(self.own / "cgroup.subtree_control", "-memory -cpu")
                _write(self.own / "cgroup.procs", os.getpid())
        for folder in dict.fromkeys((self.memory / _OWN, self.memory, self.cpu)):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def to_json(self) -> str:
        """For `from_json`."""
        return json.dumps({"memory": str(self.memory), "cpu": str(self.cpu), "version": self.version})

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """What `to_json` wrote; None if the text is incomplete."""
        try:
            known = json.loads(text)
            return cls(Path(known["memory"]), Path(known["cpu"]), int(known["version"]))
        except (ValueError, KeyError, TypeError):
            return None


def find_parent(name: str) -> CgroupParent | None:
    """Where groups with memory and CPU limits can be made, tried out; None where the machine permits none.

    Blocking.
    """
    for parent in _candidates(name):
        try:
            if _works(parent):
                return parent
        except (OSError, subprocess.SubprocessError):
            pass
        parent.close()
    return None


def _works(parent: CgroupParent) -> bool:
    for folder in dict.fromkeys((parent.memory, parent.cpu)):
        folder.mkdir(exist_ok=True)
    if parent.version == 2:
        _enable(parent)
    group = parent.make("trial", _TRIAL)
    try:
        trial = subprocess.run([*group.wrapper, "true"], check=False, capture_output=True, timeout=5)  # noqa: S603  # a fixed command
    finally:
        group.remove()
    return trial.returncode == 0


def _enable(parent: CgroupParent) -> None:
    """Enable the controllers for the groups below the platform's (version 2)."""
    above, folder = parent.memory.parent, parent.memory
    if not set((above / "cgroup.controllers").read_text().split()) >= _CONTROLLERS:
        raise OSError("memory and cpu are not controlled here")
    if not set((above / "cgroup.subtree_control").read_text().split()) >= _CONTROLLERS:
        try:
            _write(above / "cgroup.subtree_control", "+memory +cpu")
        except OSError:
            if above != parent.own or set(_pids([above])) != {os.getpid()}:
                raise
            # A group other than the root may not have processes and limited children: the platform moves.
            (folder / _OWN).mkdir(exist_ok=True)
            _write(folder / _OWN / "cgroup.procs", os.getpid())
            _write(above / "cgroup.subtree_control", "+memory +cpu")
    _write(folder / "cgroup.subtree_control", "+memory +cpu")


def _candidates(name: str) -> Iterator[CgroupParent]:
    """Where groups could be made, the best first."""
    mounts, own = _mounts(), _own_groups()
    if (root := mounts.get("")) is not None:
        at = root / own.get("", "")
        yield CgroupParent(at / name, at / name, 2, own=at)
        if at != root:
            yield CgroupParent(root / name, root / name, 2)
    if (memory := mounts.get("memory")) is not None and (cpu := mounts.get("cpu")) is not None:
        # In a container, the own group's path may be that of the machine, which is not visible there.
        at_memory, at_cpu = memory / own.get("memory", ""), cpu / own.get("cpu", "")
        yield CgroupParent(at_memory / name, at_cpu / name, 1)
        if (at_memory, at_cpu) != (memory, cpu):
            yield CgroupParent(memory / name, cpu / name, 1)


def _mounts() -> dict[str, Path]:
    """The mount of each hierarchy by controller, version 2's by the empty name (proc_pid_mountinfo(5))."""
    found: dict[str, Path] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            kind, _, options = after.split(maxsplit=2)
            at = Path(before.split()[4])
            if kind == "cgroup2":
                found[""] = at
            elif kind == "cgroup":
                found |= dict.fromkeys(_CONTROLLERS.intersection(options.split(",")), at)
    return found


def _own_groups() -> dict[str, str]:
    """The platform's own group in each hierarchy, relative to its root, with the keys of `_mounts`."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            found |= dict.fromkeys(controllers.split(","), path.strip("/"))
    return found


def _folders(parent: Path) -> list[Path]:
    try:
        return [folder for folder in parent.iterdir() if folder.is_dir()]
    except OSError:
        return []


def _pids(folders: tuple[Path, ...] | list[Path]) -> Iterator[int]:
    """The processes of these groups."""
    for folder in folders:
        with contextlib.suppress(OSError):
            yield from map(int, (folder / "cgroup.procs").read_text().split())


def _write(path: Path, value: object) -> None:
    # Not write_text, which would try to create a missing file and fail with a misleading EPERM.
    with path.open("r+") as file:
        file.write(str(value))
