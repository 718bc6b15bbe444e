"""The memory that containers use, all their processes together.

Read from /proc directly: one short file for each process of the machine tells its parent and session, which
costs a fraction of a library's objects, and this runs each second. A process belongs to a container when it
is in its session or descends from a process that is, whatever session it has made for itself.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PROPORTIONAL = ("Pss_Anon", "Pss_Shmem", "SwapPss")
_FULL = ("RssAnon", "RssShmem", "VmSwap")


@dataclass(frozen=True, slots=True)
class _Stat:
    parent: int
    session: int
    zombie: bool


def sample(roots: Collection[int], *, exact: bool = True) -> dict[int, int]:
    """Bytes that each container uses now, by its first process; a container without that is left out.

    Anonymous and shared memory count, which the kernel cannot reclaim by dropping it; files that are read or
    mapped do not. Blocks for one pass over the machine's processes, however many `roots` there are.

    Args:
        roots: the first processes, each the leader of a session.
        exact: divide a shared page among the processes that share it. Without, it counts for each of them:
            never too little, and cheaper, because the kernel need not walk page tables.
    """
    if not roots:
        return {}
    stats = dict(_all_stats())
    running = frozenset(root for root in roots if root in stats and not stats[root].zombie)
    used = dict.fromkeys(running, 0)
    owners: dict[int, int | None] = {}
    for pid, stat in stats.items():
        owner = _owner(pid, stats, running, owners)
        if owner is not None and not stat.zombie:
            used[owner] += _memory(pid, exact=exact)
    return used


def _owner(
    pid: int, stats: dict[int, _Stat], roots: frozenset[int], known: dict[int, int | None]
) -> int | None:
    """The root that a process belongs to: by its own session, else by that of an ancestor."""
    visited = []
    found: int | None = None
    while pid in stats and pid not in known:
        visited.append(pid)
        if stats[pid].session in roots:
            found = stats[pid].session
            break
        # Noted before its parent is looked at: stats are read one after another, so that a pid reused
        # meanwhile could make a cycle.
        known[pid] = None
        pid = stats[pid].parent
    else:
        found = known.get(pid)
    known |= dict.fromkeys(visited, found)
    return found


def _all_stats() -> Iterator[tuple[int, _Stat]]:
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
    # The program's name, in parentheses, may hold anything: count fields after it (proc_pid_stat(5)).
    state, parent, _, session, *_ = text.rpartition(")")[2].split()
    return _Stat(int(parent), int(session), state in "ZX")


def _memory(pid: int, *, exact: bool) -> int:
    if exact:
        try:
            return _kilobytes(pid, "smaps_rollup", _PROPORTIONAL)
        except OSError:
            pass  # it has changed its user, or is ending
    try:
        return _kilobytes(pid, "status", _FULL)
    except OSError:
        return 0


def _kilobytes(pid: int, file: str, names: tuple[str, ...]) -> int:
    """Bytes: the sum of these lines of a file in /proc, which are in kilobytes."""
    total = 0
    for line in (_PROC / str(pid) / file).read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name in names:
            total += int(value.split()[0])
    return total * 1024
