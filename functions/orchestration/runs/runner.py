"""The runs of one replica: taken up, their leases kept, and given back when the replica stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from functions.contract import StageRequest
from functions.orchestration.runs.config import RunsConfig
from functions.orchestration.runs.durable_steps import Grip
from functions.orchestration.runs.errors import DatabaseError
from functions.orchestration.runs.execution import RunExecution
from functions.orchestration.runs.values import Hold, Run, Step

if TYPE_CHECKING:
    from functions.orchestration.runs.store import RunStore

log = logging.getLogger(__name__)

_PURGE_S: Final = 600.0


@dataclass(slots=True)
class _Active:
    """A run that this replica works on."""

    grip: Grip
    task: asyncio.Task[Run | None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class RunRunner:
    """Durable runs at one replica.

    Args:
        config: bounds.
        store: where they are.
        execution: works on one run.
    """

    def __init__(self, config: RunsConfig, store: RunStore, execution: RunExecution) -> None:
        self.config = config
        self.store = store
        self.execution = execution
        self.replica = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        """Unique among all replicas that there ever were."""
        self.draining = False
        self._active: dict[str, _Active] = {}
        self._nudged = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Look after the runs from now on, in the background."""
        self._tasks = [asyncio.create_task(self._keep_leases()), asyncio.create_task(self._take_up())]
        self._tasks.append(asyncio.create_task(self._purge()))

    @property
    def active(self) -> int:
        """Runs that this replica works on."""
        return len(self._active)

    def reserve(self, run_id: str) -> bool:
        """Take a place for a run that is being stored; whether there is one."""
        if len(self._active) >= self.config.concurrency:
            return False
        self._active[run_id] = _Active(self._grip(run_id, 1))
        return True

    def forget(self, run_id: str) -> None:
        """Give the place up."""
        del self._active[run_id]

    def cancel(self, run_id: str) -> bool:
        """End what this replica does for a run; whether it did anything."""
        if (active := self._active.get(run_id)) is None:
            return False
        self._cancel(active)
        return True

    def nudge(self) -> None:
        """Look for runs now."""
        self._nudged.set()

    async def ended(self, run_id: str, seconds: float) -> bool:
        """Wait until this replica has done with a run; False at once if it does not work on it."""
        active = self._active.get(run_id)
        if active is None or active.task is None:
            return False
        await asyncio.wait({active.task}, timeout=seconds)
        return True

    def works_on(self, run_id: str) -> bool:
        """Whether this replica works on a run."""
        return run_id in self._active

    async def outcome(self, run_id: str, seconds: float) -> Run | None:
        """The run with its reply, if this replica works on it and it succeeds within some seconds."""
        active = self._active.get(run_id)
        if active is None or active.task is None:
            return None
        await asyncio.wait({active.task}, timeout=seconds)
        done = active.task.done() and not active.task.cancelled() and active.task.exception() is None
        return active.task.result() if done else None

    async def change_of(self, run_id: str, seconds: float) -> None:
        """Wait for something to happen to a run for at most some seconds; another replica's are looked at."""
        active = self._active.get(run_id)
        if active is None:
            await asyncio.sleep(min(0.5, seconds))
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(active.changed.wait(), min(1.0, seconds))

    def drain(self) -> None:
        """Take up nothing more; runs stop after the step that they are at."""
        self.draining = True
        for active in self._active.values():
            active.grip.stop()

    async def close(self, grace_s: float) -> None:
        """Give every run back: those whose step does not end within the grace period are cut off."""
        self.drain()
        for background in self._tasks:
            background.cancel()
        working = {active.task for active in self._active.values() if active.task is not None}
        if working:
            _, late = await asyncio.wait(working, timeout=grace_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=2.0)
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.store.database.close()

    def _grip(self, run_id: str, attempt: int) -> Grip:
        return Grip(Hold(run_id, self.replica, attempt), time.monotonic() + self.config.lease_seconds)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self.config.lease_seconds / 3)
            asked = time.monotonic()
            # The place of a run that is being stored is not a lease yet.
            working = {
                name: ", ".join(sorted(active.grip.working_on))[:500] or None
                for name, active in self._active.items()
                if active.task is not None
            }
            if not working:
                continue
            try:
                renewed = await self.store.renew(self.replica, working, lease_s=self.config.lease_seconds)
            except DatabaseError as error:
                log.warning("leases of runs cannot be renewed", extra={"reason": str(error)})
                continue
            cancelled = {run.id: run.cancel for run in renewed}
            for name in working:
                if (active := self._active.get(name)) is None:
                    continue
                if name not in cancelled:
                    active.grip.lose()
                    if active.task is not None:
                        active.task.cancel()
                    continue
                active.grip.renew(asked + self.config.lease_seconds)
                if cancelled[name]:
                    self._cancel(active)

    async def _take_up(self) -> None:
        while True:
            free = self.config.concurrency - len(self._active)
            if free > 0 and not self.draining:
                try:
                    found = await self.store.due(limit=free)
                    if found:
                        await self.claim(found)
                except DatabaseError as error:
                    log.warning("runs cannot be looked for", extra={"reason": str(error)})
            self._nudged.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._nudged.wait(), self.config.lease_seconds / 3)

    async def claim(self, run_ids: Sequence[str]) -> None:
        """Take up those of the runs that are due, and that nobody else takes up first.

        Raises:
            DatabaseError: see there.
        """
        wanted = [name for name in run_ids if name not in self._active]
        if self.draining or not wanted or len(self._active) >= self.config.concurrency:
            return
        claimed = await self.store.claim(
            wanted,
            replica=self.replica,
            lease_s=self.config.lease_seconds,
        )
        for run, steps in claimed:
            if run.id not in self._active:
                self.begin(run, steps, None)

    def begin(self, run: Run, steps: Sequence[Step], request: StageRequest | None) -> None:
        """Work on a run that this replica holds.

        Args:
            run: as it is stored.
            steps: what is recorded.
            request: of a new run; else it is read from the store.
        """
        active = self._active[run.id] = _Active(self._grip(run.id, run.attempt))
        if self.draining:
            active.grip.stop()
        work = self.execution.work(run, active.grip, steps, request, active.notify)
        active.task = asyncio.create_task(work)
        active.task.add_done_callback(lambda task: self._finished(run.id, active, task))

    def _finished(self, run_id: str, active: _Active, task: asyncio.Task[Run | None]) -> None:
        if self._active.get(run_id) is active:
            if len(self._active) >= self.config.concurrency:
                self.nudge()  # others are queued, perhaps
            del self._active[run_id]
        active.notify()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its lease ends, and the run is taken up again.
            log.error("a run was abandoned", exc_info=error, extra={"run": run_id})

    def _cancel(self, active: _Active) -> None:
        active.grip.cancelled = True
        if active.task is not None:
            active.task.cancel()

    async def _purge(self) -> None:
        while True:
            try:
                before = time.time() - self.config.retention_seconds
                while await self.store.purge(older_than=before):
                    pass
            except DatabaseError as error:
                log.warning("old runs cannot be deleted", extra={"reason": str(error)})
            await asyncio.sleep(_PURGE_S)
