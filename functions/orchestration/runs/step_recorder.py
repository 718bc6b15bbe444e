"""The records of one run's steps, on their way to the store.

A record is committed before anything is called that comes after its step. The last step of a run has nothing
behind it but the run's end, so both go into one transaction: a record waits for what the run does next, and
for no longer than that takes to say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from functions.orchestration.runs.errors import DatabaseError
from functions.orchestration.runs.values import Hold, Step

if TYPE_CHECKING:
    from functions.orchestration.runs.store import RunStore

log = logging.getLogger(__name__)

AWAY_S: Final = 600.0
"""For how long a replica that has a result waits for a database that is away."""
_RETRY_S: Final = 0.25
_LONGEST_RETRY_S: Final = 5.0
_TURNS: Final = 8
"""Of the event loop: what a graph takes from the end of its last node to its reply, and some."""


class StepRecorder:
    """Records the steps of one run.

    Args:
        store: where they are recorded.
        hold: of the run.
        on_recorded: called after each transaction.
    """

    def __init__(self, store: RunStore, hold: Hold, on_recorded: Callable[[], None]) -> None:
        self._store = store
        self._hold = hold
        self._on_recorded = on_recorded
        self._kept: list[Step] = []
        self._writing = asyncio.Lock()
        self._failure: Exception | None = None
        self._background: asyncio.Task[None] | None = None

    def keep(self, step: Step) -> None:
        """Record a step with what follows it: the next `flush`, the run's end, or else in a moment."""
        if not self._kept:
            # Called unless the run's next step or its end comes first.
            asyncio.get_running_loop().call_soon(self._flush_in_background, _TURNS)
        self._kept.append(step)

    async def flush(self) -> None:
        """Return once every kept step is recorded; while the database is away, wait for it.

        Raises:
            LeaseLostError: another replica has the run.
            DatabaseError: it refuses, or stays away.
        """
        if self._kept or self._writing.locked() or self._failure is not None:
            await self._write()

    async def settle(self) -> Sequence[Step]:
        """The kept steps, which the caller records now; all before them are recorded. Raises as `flush`."""
        async with self._writing:
            if self._failure is not None:
                raise self._failure
            kept, self._kept = self._kept, []
            return kept

    def _flush_in_background(self, turns: int) -> None:
        if self._kept and turns:
            asyncio.get_running_loop().call_soon(self._flush_in_background, turns - 1)
        elif self._kept and self._background is None:
            self._background = asyncio.create_task(self._write_in_background())

    async def _write_in_background(self) -> None:
        # A failure is kept: whoever flushes next gets it.
        with contextlib.suppress(Exception):
            while self._kept:
                await self._write()
        self._background = None

    async def _write(self) -> None:
        async with self._writing:
            if self._failure is not None:
                raise self._failure
            kept, self._kept = self._kept, []
            if not kept:
                return
            try:
                await self._record(kept)
            except Exception as error:
                self._failure = error
                raise
            self._on_recorded()

    async def _record(self, steps: Sequence[Step]) -> None:
        began, pause = time.monotonic(), _RETRY_S
        while True:
            try:
                return await self._store.record_steps(self._hold, steps)
            except DatabaseError as error:
                if not error.passing or time.monotonic() - began > AWAY_S:
                    raise
                log.warning(
                    "a step cannot be recorded yet",
                    extra={"run": self._hold.run_id, "step": steps[0].name, "reason": str(error)},
                )
            await asyncio.sleep(pause)
            pause = min(_LONGEST_RETRY_S, 2 * pause)
