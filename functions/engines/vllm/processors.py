"""How many processors this process may use: those that it may run on, and what its control groups grant."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def available(proc: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> float:
    """Processors that this process may use at a time, a fraction where a group's quota is one.

    A container's limit of CPU is a quota of its control group (`cpu.max`, docs.kernel.org/admin-guide/
    cgroup-v2.html; `cpu.cfs_quota_us` in version 1) and changes nothing of the processors that it sees.

    Args:
        proc: in which groups the process is (cgroups(7)).
        mounted: where the groups' files are.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    seen = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return min([float(seen), *_quotas(proc, mounted)])


def _quotas(proc: Path, mounted: Path) -> Iterator[float]:
    """The quotas of all groups above the process, in processors."""
    try:
        lines = proc.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = mounted
        elif "cpu" in controllers.split(","):
            root = next(
                (mounted / name for name in (controllers, "cpu") if (mounted / name).is_dir()), mounted
            )
        else:
            continue
        # Inside a container the path may be one of the host's, of which only the end, the root, is here.
        group = Path(path.lstrip("/"))
        for folder in (root / group, *(root / above for above in group.parents)):
            if (quota := _quota(folder)) is not None:
                yield quota


def _quota(folder: Path) -> float | None:
    """What one group may use, in processors; None where it has no quota."""
    with contextlib.suppress(OSError, ValueError):
        if (file := folder / "cpu.max").exists():
            quota, period = file.read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        if quota != "max" and int(quota) > 0 and int(period) > 0:
            return int(quota) / int(period)
    return None
