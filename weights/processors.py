"""How many processors this process may use: by its CPU affinity and the CPU quotas of its control groups."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available(process: Path = Path("/proc/self")) -> float:
    """Processors that this process may use at a time; a fraction where a quota is one.

    The CPU limit of a container is a quota of its control group (`cpu.max`, docs.kernel.org/admin-guide/
    cgroup-v2.html; `cpu.cfs_quota_us` in version 1). The container still sees every processor of its node.

    Args:
        process: the folder of the process, with its `cgroup` (cgroups(7)) and `mountinfo`
            (proc_pid_mountinfo(5)).
    """
    affinity = getattr(os, "sched_getaffinity", None)  # on Linux
    seen = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quotas = [quota for folder in _folders(process) if (quota := _quota(folder)) is not None]
    return min([float(seen), *quotas])


def _folders(process: Path) -> Iterator[Path]:
    """The folder of the process's control group for CPU, and of all groups above it that are mounted here."""
    groups: dict[str, PurePosixPath] = {}
    for line in _lines(process / "cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            groups["cgroup2"] = PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            groups["cgroup"] = PurePosixPath(path)
    for line in _lines(process / "mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        if kind not in groups or (kind == "cgroup" and "cpu" not in options.rpartition(" ")[2].split(",")):
            continue
        root, at = map(PurePosixPath, before.split()[3:5])
        group = groups[kind]
        # In a container the path may be the node's, of which only the last part is mounted.
        below = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
        if ".." not in below.parts:
            yield from (Path(at) / one for one in (below, *below.parents))


def _lines(file: Path) -> list[str]:
    try:
        # Names of control groups may be any bytes but a newline.
        return [
            line for line in file.read_text(encoding="utf-8", errors="surrogateescape").split("\n") if line
        ]
    except OSError:
        return []


def _quota(folder: Path) -> float | None:
    """The quota of one control group, in processors; None where it has none."""
    with contextlib.suppress(OSError, ValueError):
        if (file := folder / "cpu.max").exists():
            quota, period = file.read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        if quota != "max" and int(quota) > 0 and int(period) > 0:
            return int(quota) / int(period)
    return None
