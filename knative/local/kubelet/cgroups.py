"""Control groups: where this machine lets us make them, and one for each container with limits.

Version 2 (docs.kernel.org/admin-guide/cgroup-v2.html) where memory and CPU are controlled by it, version 1
else. Groups are made below the platform's own where that can be, so that a limit on the platform bounds its
replicas too; at the root of the hierarchy else, which is where a kubelet makes its own.
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

from knative.local.kubelet.limits import Limits

log = logging.getLogger(__name__)

_PERIOD_US = 100_000
_LEAST_QUOTA_US = 1_000
_CONTROLLERS = frozenset({"memory", "cpu"})
_OWN = "platform"
"""The group that the platform moves to where a group with processes may have no groups below it."""
_ENTER = """
while [ "$1" != "--" ]; do
  echo $$ > "$1/cgroup.procs" || exit 126
  shift
done
shift
exec "$@"
"""
_MOST_CPUS = 10_000
_TRIAL = Limits(memory_bytes=64 << 20, cpus=1.0)


@dataclass(frozen=True, slots=True)
class Group:
    """One container's group; version 1 has a folder for each resource, version 2 one for both."""

    memory: Path
    cpu: Path
    version: int

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders it is made of."""
        return tuple(dict.fromkeys((self.memory, self.cpu)))

    @property
    def before(self) -> tuple[str, ...]:
        """What stands before a program's own words so that it runs in the group."""
        return (shutil.which("sh") or "/bin/sh", "-c", _ENTER, "sh", *map(str, self.folders), "--")

    def limit(self, limits: Limits) -> None:
        """Have the kernel hold the limits."""
        # More processors than there are is no limit, and the kernel refuses what overflows its counter.
        cpus = None if limits.cpus is None else min(limits.cpus, _MOST_CPUS)
        quota = None if cpus is None else max(_LEAST_QUOTA_US, round(cpus * _PERIOD_US))
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

    def ran_out(self) -> bool:
        """Whether the kernel has killed a process of it for its memory limit."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        with contextlib.suppress(OSError):
            for line in (self.memory / name).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1]) > 0
        return False

    def kill(self) -> int:
        """Kill everything in it, whatever session it is in; returns how many processes there were."""
        pids = set(_numbers(self.folders))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def remove(self, timeout_s: float = 5.0) -> bool:
        """Kill what is in it and remove it. Blocking for as long as its processes take to end."""
        deadline = time.monotonic() + timeout_s
        while not self.try_remove():
            if time.monotonic() > deadline:
                log.warning("cannot remove the control group %s: it still has processes", self.memory)
                return False
            self.kill()
            time.sleep(0.005)
        return True

    def try_remove(self) -> bool:
        """Remove it if nothing is in it."""
        for folder in self.folders:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True


@dataclass(frozen=True, slots=True)
class Place:
    """Where a platform's groups are: a folder of its own in each hierarchy."""

    memory: Path
    cpu: Path
    version: int
    left: Path | None = None
    """The group that the platform may leave for one of its own below it."""

    def group(self, name: str) -> Group:
        """A container's group, which need not be there yet."""
        return Group(self.memory / name, self.cpu / name, self.version)

    def make(self, name: str, limits: Limits) -> Group:
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
        """Remove all groups with what is in them; returns how many there were. Blocking."""
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
        """Remove all that was made, and go back to where the platform was. Blocking."""
        self.clear()
        with contextlib.suppress(OSError):
            if self.left is not None and (self.memory / _OWN).is_dir():
                # First the limits go, then the platform comes back.
                _write(self.memory / "cgroup.subtree_control", "-memory -cpu")
                _write(self.left / "cgroup.subtree_control", "-memory -cpu")
                _write(self.left / "cgroup.procs", os.getpid())
        for folder in dict.fromkeys((self.memory / _OWN, self.memory, self.cpu)):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def to_json(self) -> str:
        """For `from_json`."""
        return json.dumps({"memory": str(self.memory), "cpu": str(self.cpu), "version": self.version})

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """What `to_json` wrote; None if it was cut short."""
        try:
            known = json.loads(text)
            return cls(Path(known["memory"]), Path(known["cpu"]), int(known["version"]))
        except (ValueError, KeyError, TypeError):
            return None


def find(name: str) -> Place | None:
    """A place for groups with memory and CPU limits, tried out; None where the machine permits none.

    Blocking.
    """
    for place in _candidates(name):
        try:
            if _works(place):
                return place
        except (OSError, subprocess.SubprocessError):
            pass
        place.close()
    return None


def _works(place: Place) -> bool:
    for folder in dict.fromkeys((place.memory, place.cpu)):
        folder.mkdir(exist_ok=True)
    if place.version == 2:
        _enable(place)
    group = place.make("trial", _TRIAL)
    try:
        trial = subprocess.run([*group.before, "true"], check=False, capture_output=True, timeout=5)  # noqa: S603  # fixed words
    finally:
        group.remove()
    return trial.returncode == 0


def _enable(place: Place) -> None:
    """Let the groups below the platform's own have limits (version 2)."""
    parent, own = place.memory.parent, place.memory
    if not set((parent / "cgroup.controllers").read_text().split()) >= _CONTROLLERS:
        raise OSError("memory and cpu are not controlled here")
    if not set((parent / "cgroup.subtree_control").read_text().split()) >= _CONTROLLERS:
        try:
            _write(parent / "cgroup.subtree_control", "+memory +cpu")
        except OSError:
            if parent != place.left or set(_numbers([parent])) != {os.getpid()}:
                raise
            # A group with limits below it may have no processes, the root excepted: the platform moves.
            (own / _OWN).mkdir(exist_ok=True)
            _write(own / _OWN / "cgroup.procs", os.getpid())
            _write(parent / "cgroup.subtree_control", "+memory +cpu")
    _write(own / "cgroup.subtree_control", "+memory +cpu")


def _candidates(name: str) -> Iterator[Place]:
    """Where groups could be, the best first."""
    mounts, own = _mounts(), _own()
    if (root := mounts.get("")) is not None:
        at = root / own.get("", "")
        yield Place(at / name, at / name, 2, left=at)
        if at != root:
            yield Place(root / name, root / name, 2)
    if (memory := mounts.get("memory")) is not None and (cpu := mounts.get("cpu")) is not None:
        # In a container the name of the own group may be that of the machine, which isn't seen there.
        at_memory, at_cpu = memory / own.get("memory", ""), cpu / own.get("cpu", "")
        yield Place(at_memory / name, at_cpu / name, 1)
        if (at_memory, at_cpu) != (memory, cpu):
            yield Place(memory / name, cpu / name, 1)


def _mounts() -> dict[str, Path]:
    """Where the hierarchies are, by controller; version 2's by the empty name (proc_pid_mountinfo(5))."""
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


def _own() -> dict[str, str]:
    """The platform's own group in each hierarchy, relative to its root, by the names of `_mounts`."""
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


def _numbers(folders: tuple[Path, ...] | list[Path]) -> Iterator[int]:
    """The processes in these folders."""
    for folder in folders:
        with contextlib.suppress(OSError):
            yield from map(int, (folder / "cgroup.procs").read_text().split())


def _write(path: Path, value: object) -> None:
    # Not write_text: it would make a file that isn't there, and in a control group's folder that says EPERM.
    with path.open("r+") as file:
        file.write(str(value))
