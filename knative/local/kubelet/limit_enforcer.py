"""Enforces the memory and CPU limits of containers: by control groups, or by sampling memory.

Where the machine permits no control groups, nothing limits CPU, and memory is sampled once a second: a
container over its limit is killed up to a second late, with the same status as on a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from knative.local.kubelet import cgroups, limits, memory_usage
from knative.local.kubelet.cgroups import Cgroup, CgroupParent
from knative.local.kubelet.limits import ResourceLimits
from knative.local.kubelet.process import Process

log = logging.getLogger(__name__)

_SAMPLE_INTERVAL_S = 1.0


class LimitMechanism(StrEnum):
    """What enforces limits."""

    CGROUP_V2 = "cgroup-v2"
    CGROUP_V1 = "cgroup-v1"
    SAMPLING = "sampling"
    """Memory is sampled once a second, CPU is not limited."""

    @property
    def limits_cpu(self) -> bool:
        """Whether CPU limits are enforced too."""
        return self is not LimitMechanism.SAMPLING


@dataclass(slots=True, eq=False)
class EnforcedLimits:
    """The limits of one run of a container, and what enforces them."""

    limits: ResourceLimits
    group: Cgroup | None = None
    process: Process | None = field(default=None, init=False)
    sampled_bytes: int | None = field(default=None, init=False)
    """The memory it used when a sample found it over its limit."""

    @property
    def wrapper(self) -> tuple[str, ...]:
        """The command prefix that runs the container in its control group."""
        return () if self.group is None else self.group.wrapper

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of its control group: a process enters it by its id in their `cgroup.procs`."""
        return () if self.group is None else self.group.folders

    def exceeded(self) -> str | None:
        """What to report if it was killed for its memory; None if it was not."""
        limit = self.limits.memory_bytes
        if limit is None:
            return None
        if self.sampled_bytes is not None:
            used = limits.format_bytes(self.sampled_bytes)
            return f"used {used} of memory, over its limit of {limits.format_bytes(limit)}"
        if self.group is not None and self.group.was_oom_killed():
            text = limits.format_bytes(limit)
            return f"needed more memory than its limit of {text}, and used all of that"
        return None


class LimitEnforcer:
    """Enforces the limits of every container that has some.

    Args:
        name: of the platform's control group.
        record: the file that remembers where the groups are, for the platform that starts after a crash;
            None: control groups are not used.
    """

    def __init__(self, name: str, record: Path | None) -> None:
        self._name = name
        self._record = record
        self._parent: CgroupParent | None = None
        self._running: set[EnforcedLimits] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def mechanism(self) -> LimitMechanism:
        """What enforces limits on this machine; known after `start`."""
        if self._parent is None:
            return LimitMechanism.SAMPLING
        return LimitMechanism.CGROUP_V2 if self._parent.version == 2 else LimitMechanism.CGROUP_V1

    async def start(self) -> None:
        """Find out what this machine permits, and remove the groups of an earlier platform."""
        if self._record is not None:
            self._parent = await asyncio.to_thread(self._find_parent, self._record)
        if self._parent is None:
            why = "switched off" if self._record is None else "not permitted here"
            log.info("control groups are %s: memory is sampled once a second, CPU is not limited", why)
        else:
            log.info("limits for memory and CPU are enforced by the kernel (%s)", self.mechanism)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="memory limits")
        self._task.add_done_callback(_log_failure)

    def _find_parent(self, record: Path) -> CgroupParent | None:
        with contextlib.suppress(OSError):
            if (left := CgroupParent.from_json(record.read_text())) is not None:
                left.close()
        parent = cgroups.find_parent(self._name)
        if parent is not None:
            parent.clear()
            record.write_text(parent.to_json())
        return parent

    async def stop(self) -> None:
        """Remove all groups. No process may be left in them."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._parent is not None and self._record is not None:
            await asyncio.to_thread(self._parent.close)
            self._record.unlink(missing_ok=True)

    def make(self, name: str, wanted: ResourceLimits) -> EnforcedLimits:
        """What enforces the limits of one run of a container; `name` is unique among those that run.

        Raises:
            OSError: the system refuses a control group.
        """
        if not wanted or self._parent is None:
            return EnforcedLimits(wanted)
        return EnforcedLimits(wanted, self._parent.make(name, wanted))

    def begin(self, enforced: EnforcedLimits, process: Process) -> None:
        """The container's process has started."""
        enforced.process = process
        if enforced.limits.memory_bytes is not None:
            self._running.add(enforced)

    async def end(self, enforced: EnforcedLimits) -> str | None:
        """The run is over: kill what is left of it. Returns what to report if it exceeded its memory."""
        self._running.discard(enforced)
        exceeded = enforced.exceeded()
        group = enforced.group
        if group is not None and not group.try_remove():
            await asyncio.to_thread(group.remove)
        return exceeded

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_SAMPLE_INTERVAL_S)
            try:
                if self.mechanism is LimitMechanism.CGROUP_V1:
                    await self._end_partly_killed()
                elif self.mechanism is LimitMechanism.SAMPLING:
                    await self._end_over_limit()
            except (OSError, RuntimeError):  # no descriptor or thread left: the next second may have one
                log.exception("could not sample the memory of containers")

    async def _end_over_limit(self) -> None:
        by_pid = {each.process.pid: each for each in self._running if each.process is not None}
        if not by_pid:
            return
        over = await asyncio.to_thread(_over_limit, {pid: each.limits for pid, each in by_pid.items()})
        for pid, used in over.items():
            enforced = by_pid[pid]
            if enforced in self._running:  # it has not ended meanwhile
                enforced.sampled_bytes = used
                _kill(enforced)

    async def _end_partly_killed(self) -> None:
        """With version 1 the kernel kills one process of a group; Kubernetes ends the whole container."""
        running = tuple(self._running)
        if running:
            for enforced in await asyncio.to_thread(_partly_killed, running):
                if enforced in self._running:
                    _kill(enforced)


def _partly_killed(running: Sequence[EnforcedLimits]) -> list[EnforcedLimits]:
    """The containers of which the kernel has killed a process for its memory. Blocking."""
    return [each for each in running if each.group is not None and each.group.was_oom_killed()]


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (problem := task.exception()) is not None:
        log.critical("memory limits are no longer enforced", exc_info=problem)


def _over_limit(running: dict[int, ResourceLimits]) -> dict[int, int]:
    """Bytes used by each container over its memory limit, by its first process. Blocking."""

    def above(used: dict[int, int]) -> dict[int, int]:
        return {
            pid: size
            for pid, size in used.items()
            if (limit := running[pid].memory_bytes) is not None and size > limit
        }

    # The cheap sample errs on the high side: only its suspects are measured exactly before one is killed.
    suspects = above(memory_usage.sample(running, exact=False))
    return above(memory_usage.sample(suspects)) if suspects else {}


def _kill(enforced: EnforcedLimits) -> None:
    if enforced.process is not None:
        enforced.process.signal(signal.SIGKILL)
    if enforced.group is not None:
        enforced.group.kill()
