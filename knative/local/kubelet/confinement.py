"""How the limits of containers are held on this machine: by the kernel, or by looking at what they use.

Without control groups nothing can hold CPU, and memory is looked at once a second: a container over its
limit is killed, up to a second late, with what a cluster shows for it.
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

from knative.local.kubelet import cgroups, limits, usage
from knative.local.kubelet.cgroups import Group, Place
from knative.local.kubelet.limits import Limits
from knative.local.kubelet.process import Process

log = logging.getLogger(__name__)

_LOOK_S = 1.0


class Mechanism(StrEnum):
    """What holds the limits."""

    CGROUP_2 = "cgroup-v2"
    CGROUP_1 = "cgroup-v1"
    WATCH = "watch"
    """Memory is looked at once a second, CPU is not limited."""

    @property
    def limits_cpu(self) -> bool:
        """Whether CPU limits are held too."""
        return self is not Mechanism.WATCH


@dataclass(slots=True, eq=False)
class Confinement:
    """One run of one container and what it may use."""

    limits: Limits
    group: Group | None = None
    process: Process | None = field(default=None, init=False)
    found: int | None = field(default=None, init=False)
    """What it used when it was found over its memory limit."""

    @property
    def before(self) -> tuple[str, ...]:
        """What stands before the program's own words."""
        return () if self.group is None else self.group.before

    def exceeded(self) -> str | None:
        """What is to be said if it was killed for its memory; None if it wasn't."""
        allowed = self.limits.memory_bytes
        if allowed is None:
            return None
        if self.found is not None:
            return f"used {limits.shown(self.found)} of memory, over its limit of {limits.shown(allowed)}"
        if self.group is not None and self.group.ran_out():
            return f"needed more memory than its limit of {limits.shown(allowed)}, and used all of that"
        return None


class Confinements:
    """Gives each container with limits what holds them.

    Args:
        name: of the platform's control group.
        record: the file that remembers where the groups are, for the platform that starts after a crash;
            None: control groups are not used.
    """

    def __init__(self, name: str, record: Path | None) -> None:
        self._name = name
        self._record = record
        self._place: Place | None = None
        self._held: set[Confinement] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def mechanism(self) -> Mechanism:
        """What holds the limits."""
        if self._place is None:
            return Mechanism.WATCH
        return Mechanism.CGROUP_2 if self._place.version == 2 else Mechanism.CGROUP_1

    async def start(self) -> None:
        """Find out what this machine permits, and remove what an earlier platform left."""
        if self._record is not None:
            self._place = await asyncio.to_thread(self._find, self._record)
        if self._place is None:
            why = "switched off" if self._record is None else "not permitted here"
            log.info("control groups are %s: memory is looked at once a second, CPU is not limited", why)
        else:
            log.info("limits for memory and CPU are held by the kernel (%s)", self.mechanism)
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="memory limits")
        self._task.add_done_callback(_complain)

    def _find(self, record: Path) -> Place | None:
        with contextlib.suppress(OSError):
            if (left := Place.from_json(record.read_text())) is not None:
                left.close()
        place = cgroups.find(self._name)
        if place is not None:
            place.clear()
            record.write_text(place.to_json())
        return place

    async def stop(self) -> None:
        """Remove all groups. Nothing may run in them any more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._place is not None and self._record is not None:
            await asyncio.to_thread(self._place.close)
            self._record.unlink(missing_ok=True)

    def make(self, name: str, wanted: Limits) -> Confinement:
        """What holds a container's limits for one run; `name` is unique among the living.

        Raises:
            OSError: the system refuses.
        """
        if not wanted or self._place is None:
            return Confinement(wanted)
        return Confinement(wanted, self._place.make(name, wanted))

    def begin(self, confinement: Confinement, process: Process) -> None:
        """Hold a process to it from now on."""
        confinement.process = process
        if confinement.limits.memory_bytes is not None:
            self._held.add(confinement)

    async def end(self, confinement: Confinement) -> str | None:
        """The run is over: what is left of it is killed; returns what is to be said of its memory."""
        self._held.discard(confinement)
        said = confinement.exceeded()
        group = confinement.group
        if group is not None and not group.try_remove():
            await asyncio.to_thread(group.remove)
        return said

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                if self.mechanism is Mechanism.CGROUP_1:
                    await self._end_what_lost_a_part()
                elif self.mechanism is Mechanism.WATCH:
                    await self._end_what_uses_too_much()
            except (OSError, RuntimeError):  # no descriptor, no thread: the next look may have one
                log.exception("could not look at what containers use")

    async def _end_what_uses_too_much(self) -> None:
        watched = {held.process.pid: held for held in self._held if held.process is not None}
        if not watched:
            return
        over = await asyncio.to_thread(_over, {pid: held.limits for pid, held in watched.items()})
        for pid, used in over.items():
            confinement = watched[pid]
            if confinement in self._held:  # it hasn't ended meanwhile
                confinement.found = used
                _kill(confinement)

    async def _end_what_lost_a_part(self) -> None:
        """The kernel kills one process of a group of version 1; a cluster ends the container then."""
        held = tuple(self._held)
        if held:
            for confinement in await asyncio.to_thread(_lost_a_part, held):
                if confinement in self._held:
                    _kill(confinement)


def _lost_a_part(held: Sequence[Confinement]) -> list[Confinement]:
    """Those of whose processes the kernel has killed one. Blocking."""
    return [each for each in held if each.group is not None and each.group.ran_out()]


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (problem := task.exception()) is not None:
        log.critical("memory limits are no longer looked at", exc_info=problem)


def _over(held: dict[int, Limits]) -> dict[int, int]:
    """Who uses more memory than it may, and how much. Blocking."""

    def above(used: dict[int, usage.Usage]) -> dict[int, int]:
        return {
            pid: found.memory_bytes
            for pid, found in used.items()
            if (most := held[pid].memory_bytes) is not None and found.memory_bytes > most
        }

    # Cheap and too high first; what several processes share is counted once before anyone is killed.
    suspects = above(usage.sample(held, exact=False))
    return above(usage.sample(suspects)) if suspects else {}


def _kill(confinement: Confinement) -> None:
    if confinement.process is not None:
        confinement.process.signal(signal.SIGKILL)
    if confinement.group is not None:
        confinement.group.kill()
