"""What replicas use: CPU time and memory of all their processes.

Read from /proc directly: one short file for each process of the machine tells parent, session and CPU time at
once, a fraction of what a library's objects cost, and this runs each second. A process belongs to a
replica when it is in its session or descends from one that does, a session of its own or not.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SHARED_OUT = ("Pss_Anon", "Pss_Shmem", "SwapPss")
_FULL = ("RssAnon", "RssShmem", "VmSwap")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes of one replica use together."""

    cpu_s: float
    """CPU seconds since the start, user and system, ended children included; never falls unless a child
    ends that its parent doesn't wait for."""
    memory_bytes: int
    """Anonymous and shared memory: what a limit counts and the kernel can't give back by dropping it. Files
    that are read or mapped are not in it."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.cpu_s + other.cpu_s, self.memory_bytes + other.memory_bytes)


@dataclass(frozen=True, slots=True)
class _Stat:
    parent: int
    session: int
    ticks: int
    zombie: bool


def of(root: int) -> Usage | None:
    """What the replica whose first process is `root` uses now; None when that process is gone."""
    return sample((root,)).get(root)


def sample(roots: Collection[int], *, exact: bool = True) -> dict[int, Usage]:
    """What each replica uses now, by its first process, which leads a session; one that is gone is left out.

    Blocking, one pass over the machine's processes for all of `roots`.

    Args:
        roots: the first processes.
        exact: count a page that several processes share once. Without, once for each: never less than the
            truth, and cheaper, for the kernel need not walk the processes' pages.
    """
    if not roots:
        return {}
    stats = dict(_all())
    wanted = frozenset(root for root in roots if root in stats and not stats[root].zombie)
    used = {root: Usage(0.0, 0) for root in wanted}
    owners: dict[int, int | None] = {}
    for pid, stat in stats.items():
        owner = _owner(pid, stats, wanted, owners)
        if owner is not None:
            used[owner] += Usage(stat.ticks / _TICKS_PER_S, 0 if stat.zombie else _memory(pid, exact=exact))
    return used


def _owner(
    pid: int, stats: dict[int, _Stat], roots: frozenset[int], known: dict[int, int | None]
) -> int | None:
    """The root that a process belongs to: by its session, else by the session of an ancestor."""
    line = []
    found: int | None = None
    while pid in stats and pid not in known:
        line.append(pid)
        if stats[pid].session in roots:
            found = stats[pid].session
            break
        # Marked before its parent is looked at: pids are read one after another, so a reused one could
        # make a ring.
        known[pid] = None
        pid = stats[pid].parent
    else:
        found = known.get(pid)
    known |= dict.fromkeys(line, found)
    return found


def _all() -> Iterator[tuple[int, _Stat]]:
    for entry in os.listdir(_PROC):  # noqa: PTH208  # names are wanted, and there are many
        if entry.isdigit():
            stat = _stat(int(entry))
            if stat is not None:
                yield int(entry), stat


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:  # it has just ended
        return None
    # The program's name, in parentheses, may hold anything: count from its end (proc_pid_stat(5)).
    state, parent, _, session, *rest = text.rpartition(")")[2].split()
    return _Stat(int(parent), int(session), sum(map(int, rest[7:11])), state in "ZX")


def _memory(pid: int, *, exact: bool) -> int:
    """Bytes; of what is shared, this process's part if `exact`."""
    if exact:
        try:
            return _kilobytes(pid, "smaps_rollup", _SHARED_OUT)
        except OSError:
            pass  # it has changed its user, or is ending
    try:
        return _kilobytes(pid, "status", _FULL)
    except OSError:
        return 0


def _kilobytes(pid: int, file: str, names: tuple[str, ...]) -> int:
    total = 0
    for line in (_PROC / str(pid) / file).read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name in names:
            total += int(value.split()[0])
    return total * 1024
