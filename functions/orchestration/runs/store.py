"""Runs in the database: every change is one transaction, and only the run's present replica may make it.

A replica holds a run by its lease and by the number of its attempt. Each of its writes asks for both in the
same statement, so a replica that was slow for longer than its lease changes nothing any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from functions.orchestration.runs.errors import LeaseLostError, TooManyRunsError
from functions.orchestration.runs.rows import due, row_of, run_of, step_of, step_row
from functions.orchestration.runs.schema import runs, steps
from functions.orchestration.runs.statements import Prepared
from functions.orchestration.runs.store_changes import RunChanges
from functions.orchestration.runs.values import Hold, Renewed, Run, RunState, Step, StepState


class RunStore(RunChanges):
    """The runs of one agent, to be worked on as well."""

    async def create(self, run: Run, *, max_unfinished: int, lease_s: float) -> tuple[Run, bool]:
        """Store a new run, or find the one that this caller made with the same key before.

        It survives every process; a loss of power only once `Database.sync` has returned.

        Returns:
            The run, and whether it is new.

        Raises:
            TooManyRunsError: see there.
        """
        values = row_of(run)
        by_owner = {"owner_kind": run.owner.kind, "owner_name": run.owner.name}
        by_key = {**by_owner, "idempotency_key": run.idempotency_key}
        at_most = {**by_owner, "at_most": max_unfinished}

        def work(connection: sa.Connection) -> tuple[Run, bool]:
            if run.idempotency_key is not None:
                first = self._sql.with_key.first(connection, by_key)
                if first is not None:
                    return run_of(first), False
            if self._sql.count_unfinished.scalar(connection, at_most) == max_unfinished:
                raise TooManyRunsError
            held = run.lease_owner is not None
            lease = {"lease_until": self._now(connection) + lease_s if held else None, "events": 1}
            if not self._sql.insert_run.run(connection, {**values, **lease}):
                # Another replica made it a moment ago, or this one did and was cut off.
                own = self._sql.get_run.first(connection, {"run_id": run.id})
                if own is not None:
                    return run_of(own), True
                return run_of(self._sql.with_key.first(connection, by_key) or {}), False
            self._event(connection, run.id, 1, "state", {"state": run.state, "attempt": run.attempt})
            return run, True

        return await self.database.write(work)

    async def claim(
        self, run_ids: Sequence[str], *, replica: str, lease_s: float
    ) -> list[tuple[Run, list[Step]]]:
        """Take up those of the runs that are due; of two replicas that ask, one gets each run."""

        def work(connection: sa.Connection) -> list[tuple[Run, list[Step]]]:
            now = self._now(connection)
            claimed = []
            for run_id in run_ids:
                query = sa.select(runs).where(runs.c.id == run_id, due(now)).with_for_update(skip_locked=True)
                row = connection.execute(query).mappings().first()
                if row is None:
                    continue
                before = run_of(row)
                lost = before.lost + 1 if before.state is RunState.RUNNING else 0
                changed = {
                    "state": RunState.RUNNING.value,
                    "attempt": before.attempt + 1,
                    "lost": lost,
                    "lease_owner": replica,
                    "lease_until": now + lease_s,
                    "wake_at": None,
                    "working_on": None,
                    "updated": self._clock(),
                    "started": before.started or self._clock(),
                    "events": before.events + 1,
                }
                connection.execute(sa.update(runs).where(runs.c.id == run_id).values(changed))
                self._event(
                    connection,
                    run_id,
                    before.events + 1,
                    "state",
                    {"state": RunState.RUNNING, "attempt": before.attempt + 1},
                )
                found = connection.execute(sa.select(steps).where(steps.c.run_id == run_id))
                claimed.append((run_of({**row, **changed}), [step_of(one) for one in found.mappings()]))
            return claimed

        return await self.database.write(work)

    async def renew(
        self, replica: str, working_on: Mapping[str, str | None], *, lease_s: float
    ) -> list[Renewed]:
        """Renew the leases of a replica's runs; those that are not in the result it has lost."""

        def work(connection: sa.Connection) -> list[Renewed]:
            now = self._now(connection)
            renewed = []
            for run_id, doing in working_on.items():
                query = (
                    sa.update(runs)
                    .where(
                        runs.c.id == run_id,
                        runs.c.lease_owner == replica,
                        runs.c.state == RunState.RUNNING.value,
                    )
                    .values(lease_until=now + lease_s, working_on=doing)
                    .returning(runs.c.cancel)
                )
                cancel = connection.execute(query).scalar()
                if cancel is not None:
                    renewed.append(Renewed(run_id, bool(cancel)))
            return renewed

        return await self.database.write(work)

    async def record_steps(self, hold: Hold, ended: Sequence[Step]) -> None:
        """Record how steps ended, in one transaction.

        Raises:
            LeaseLostError: see there.
        """
        await self.database.write(lambda connection: self._record(connection, hold, ended))

    async def end(
        self,
        hold: Hold,
        state: RunState,
        *,
        reply: str | None = None,
        error: str | None = None,
        ended: Sequence[Step] = (),
    ) -> None:
        """End a run.

        Args:
            hold: of the run.
            state: one of `ENDED`.
            reply: the answer as JSON.
            error: the problem as JSON.
            ended: steps that are recorded in the same transaction.

        Raises:
            LeaseLostError: see there.
        """
        values = {"finished": self._clock(), "reply": reply, "error": error}
        await self._let_go(hold, state, values, {"state": state}, ended)

    async def wait(self, hold: Hold, *, waiting_for: str, wake_at: float | None) -> None:
        """Let a run wait: nobody holds it until it is due.

        Raises:
            LeaseLostError: see there.
        """
        values = {"waiting_for": waiting_for, "wake_at": wake_at}
        await self._let_go(hold, RunState.WAITING, values, {"state": RunState.WAITING, **values})

    async def release(self, hold: Hold, *, ended: Sequence[Step] = ()) -> None:
        """Give a run back: the next replica goes on with it.

        Raises:
            LeaseLostError: see there.
        """
        await self._let_go(hold, RunState.QUEUED, {}, {"state": RunState.QUEUED}, ended)

    async def _let_go(
        self,
        hold: Hold,
        state: RunState,
        values: Mapping[str, Any],
        event: Mapping[str, Any],
        ended: Sequence[Step] = (),
    ) -> None:
        """Change a run so that nobody holds it any more."""
        unset = dict.fromkeys(("finished", "reply", "error", "waiting_for", "wake_at"))
        changed = {**unset, **values, "state": state.value}

        def work(connection: sa.Connection) -> None:
            self._record(connection, hold, ended)
            seq = self._advance(connection, hold, self._sql.let_go, changed)
            self._event(connection, hold.run_id, seq, "state", event)

        await self.database.write(work)

    def _record(self, connection: sa.Connection, hold: Hold, ended: Sequence[Step]) -> None:
        for step in ended:
            counting = self._sql.step_done if step.state is StepState.DONE else self._sql.step_not_done
            seq = self._advance(connection, hold, counting, {})
            self._sql.put_step.run(connection, step_row(hold.run_id, step))
            event = {
                "name": step.name,
                "state": step.state,
                "attempts": step.attempts,
                "seconds": round(step.finished - step.started, 6),
            }
            self._event(connection, hold.run_id, seq, "step", event)

    def _advance(
        self, connection: sa.Connection, hold: Hold, statement: Prepared, values: Mapping[str, Any]
    ) -> int:
        """Change a run that is held, and count an event; its number."""
        held = {"run_id": hold.run_id, "held_attempt": hold.attempt, "held_by": hold.replica}
        seq = statement.scalar(connection, {**values, **held, "now": self._clock()})
        if seq is None:
            raise LeaseLostError(hold.run_id)
        return int(seq)
