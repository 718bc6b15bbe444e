"""What callers change of a run that no replica works on, and what retention deletes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from functions.orchestration.runs.rows import RELEASED, Row, run_of
from functions.orchestration.runs.schema import events, runs, steps
from functions.orchestration.runs.store_reads import RunReads
from functions.orchestration.runs.values import APPROVAL, ENDED, Run, RunState, StepState

_PURGED: Final = 200
"""Runs that are deleted in one transaction."""
_REFUSED: Final = '"approved": false'


class RunChanges(RunReads):
    """The runs of one agent, to be looked at and decided about."""

    async def cancel(self, run_id: str) -> Run | None:
        """Cancel a run: at once where nobody works on it, else as soon as its replica hears of it."""

        def work(connection: sa.Connection) -> Run | None:
            row = self._locked(connection, run_id)
            if row is None or (run := run_of(row)).state.ended:
                return None if row is None else run
            if run.state is RunState.RUNNING:
                return self._change(connection, run, {"cancel": True})
            values = {
                "state": RunState.CANCELLED.value,
                "cancel": True,
                "finished": self._clock(),
                **RELEASED,
            }
            return self._change(connection, run, values, {"state": RunState.CANCELLED})

        return await self.database.write(work)

    async def resume(self, run_id: str) -> Run | None:
        """Let a run that failed or was cancelled go on from its last finished step."""

        def work(connection: sa.Connection) -> Run | None:
            row = self._locked(connection, run_id)
            if row is None:
                return None
            run = run_of(row)
            if run.state not in {RunState.FAILED, RunState.CANCELLED} or run.request is None:
                return run
            values = {
                "state": RunState.QUEUED.value,
                "cancel": False,
                "error": None,
                "finished": None,
                "lost": 0,
                **RELEASED,
            }
            # A step that failed has all of its attempts again, and a refusal is asked for once more.
            connection.execute(
                sa.delete(steps).where(
                    steps.c.run_id == run_id,
                    sa.or_(
                        steps.c.state != StepState.DONE.value,
                        sa.and_(
                            steps.c.name.startswith(APPROVAL, autoescape=True),
                            steps.c.result.contains(_REFUSED),
                        ),
                    ),
                )
            )
            return self._change(connection, run, values, {"state": RunState.QUEUED})

        return await self.database.write(work)

    async def decide(self, run_id: str, step: str, decision: Mapping[str, Any]) -> Run | None:
        """Record a person's decision about a step that waits for it, and let the run go on.

        Returns:
            The run as it is now; unchanged where it does not wait for that.
        """

        def work(connection: sa.Connection) -> Run | None:
            row = self._locked(connection, run_id)
            if row is None:
                return None
            run = run_of(row)
            if run.state is not RunState.WAITING or run.waiting_for != f"approval {step}":
                return run
            now = self._clock()
            values = {
                "run_id": run_id,
                "name": APPROVAL + step,
                "state": StepState.DONE.value,
                "attempts": 1,
                "started": run.updated,
                "finished": now,
                "result": json.dumps(decision),
                "error": None,
                "usage": None,
            }
            self._sql.put_step.run(connection, values)
            changed = {"state": RunState.QUEUED.value, **RELEASED}
            event = {"state": RunState.QUEUED, "approved": decision["approved"]}
            return self._change(connection, run, changed, event)

        return await self.database.write(work)

    async def purge(self, *, older_than: float) -> int:
        """Delete runs that ended before an instant, a bounded number of them; how many there were."""

        def work(connection: sa.Connection) -> int:
            chosen = list(
                connection.scalars(
                    sa.select(runs.c.id)
                    .where(runs.c.finished < older_than, runs.c.state.in_([state.value for state in ENDED]))
                    .limit(_PURGED)
                )
            )
            for table, column in ((events, events.c.run_id), (steps, steps.c.run_id), (runs, runs.c.id)):
                connection.execute(sa.delete(table).where(column.in_(chosen)))
            return len(chosen)

        return await self.database.write(work)

    def _locked(self, connection: sa.Connection, run_id: str) -> Row | None:
        """A run's row, which nobody else changes until the transaction ends."""
        query = sa.select(runs).where(runs.c.id == run_id).with_for_update()
        return connection.execute(query).mappings().first()

    def _change(
        self,
        connection: sa.Connection,
        run: Run,
        values: Mapping[str, Any],
        event: Mapping[str, Any] | None = None,
    ) -> Run:
        """Change a run that nobody holds, within the transaction that has read it."""
        changed = {**values, "updated": self._clock(), "events": run.events + (event is not None)}
        row = (
            connection.execute(sa.update(runs).where(runs.c.id == run.id).values(changed).returning(*runs.c))
            .mappings()
            .one()
        )
        if event is not None:
            self._event(connection, run.id, run.events + 1, "state", event)
        return run_of(row)
