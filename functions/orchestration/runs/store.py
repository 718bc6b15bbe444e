"""Runs in the database: every change is one transaction, and only the run's present replica may make it.

A replica holds a run by its lease and by the number of its attempt. Each of its writes asks for both in the
same statement, so a replica that was slow for longer than its lease changes nothing any more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

import sqlalchemy as sa

from functions.orchestration.runs.database import Database
from functions.orchestration.runs.errors import LeaseLostError, TooManyRunsError
from functions.orchestration.runs.schema import events, runs, steps
from functions.orchestration.runs.statements import STEP_COLUMNS, Prepared, Statements
from functions.orchestration.runs.values import (
    APPROVAL,
    ENDED,
    Event,
    Hold,
    Owner,
    Renewed,
    Run,
    RunState,
    Step,
    StepState,
)

_PURGED: Final = 200
"""Runs that are deleted in one transaction."""


class RunStore:
    """The runs of one agent.

    Args:
        database: where they are.
        clock: seconds since the epoch. The leases on Postgres follow the database's own clock.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self._clock = clock
        self._sql = Statements(is_sqlite=database.is_sqlite)

    async def create(self, run: Run, *, max_unfinished: int, lease_s: float) -> tuple[Run, bool]:
        """Store a new run, or find the one that this caller made with the same key before.

        Returns:
            The run, and whether it is new.

        Raises:
            TooManyRunsError: see there.
        """
        values = _row(run)
        by_owner = {"owner_kind": run.owner.kind, "owner_name": run.owner.name}
        by_key = {**by_owner, "idempotency_key": run.idempotency_key}
        at_most = {**by_owner, "at_most": max_unfinished}

        def work(connection: sa.Connection) -> tuple[Run, bool]:
            if run.idempotency_key is not None:
                first = self._sql.with_key.run(connection, by_key).first()
                if first is not None:
                    return _run(first), False
            if self._sql.count_unfinished.run(connection, at_most).scalar() == max_unfinished:
                raise TooManyRunsError
            held = run.lease_owner is not None
            lease = {"lease_until": self._now(connection) + lease_s if held else None, "events": 1}
            made = self._sql.insert_run.run(connection, {**values, **lease})
            if made.rowcount == 0:  # another replica made it a moment ago, or this one did and was cut off
                own = connection.execute(sa.select(runs).where(runs.c.id == run.id)).first()
                if own is not None:
                    return _run(own), True
                return _run(self._sql.with_key.run(connection, by_key).one()), False
            self._event(connection, run.id, 1, "state", {"state": run.state, "attempt": run.attempt})
            return run, True

        # An accepted run survives a loss of power; a step that is lost by one is called again with its key.
        return await self.database.write(work, synced=True)

    async def get(self, run_id: str) -> Run | None:
        """A run."""

        def work(connection: sa.Connection) -> Run | None:
            row = self._sql.get_run.run(connection, {"run_id": run_id}).first()
            return None if row is None else _run(row)

        return await self.database.read(work)

    async def list_runs(
        self, owner: Owner | None, *, states: Sequence[RunState], before: str | None, limit: int
    ) -> list[Run]:
        """Runs, the newest first.

        Args:
            owner: whose; None: everybody's.
            states: only those; empty: all.
            before: only runs that are older than this one.
            limit: at most so many.
        """
        # What may be long stays where it is.
        chosen = [column for column in runs.c if column.name not in {"request", "reply"}]
        query = sa.select(*chosen).order_by(runs.c.id.desc()).limit(limit)
        if owner is not None:
            query = query.where(runs.c.owner_kind == owner.kind, runs.c.owner_name == owner.name)
        if states:
            query = query.where(runs.c.state.in_([state.value for state in states]))
        if before is not None:
            query = query.where(runs.c.id < before)
        return await self.database.read(lambda connection: [_run(row) for row in connection.execute(query)])

    async def steps_of(self, run_id: str) -> list[Step]:
        """A run's steps in the order in which they ended."""
        query = sa.select(steps).where(steps.c.run_id == run_id).order_by(steps.c.finished, steps.c.name)
        return await self.database.read(lambda connection: [_step(row) for row in connection.execute(query)])

    async def events_of(self, run_id: str, *, after: int, limit: int = 500) -> list[Event]:
        """A run's events behind the one with the number `after`."""
        query = (
            sa.select(events)
            .where(events.c.run_id == run_id, events.c.seq > after)
            .order_by(events.c.seq)
            .limit(limit)
        )
        return await self.database.read(
            lambda connection: [
                Event(row.seq, row.at, row.kind, row.data) for row in connection.execute(query)
            ]
        )

    async def due(self, *, limit: int) -> list[str]:
        """Runs that a replica is to take up now, those that wait longest first."""

        def work(connection: sa.Connection) -> list[str]:
            query = (
                sa.select(runs.c.id).where(_due(self._now(connection))).order_by(runs.c.updated).limit(limit)
            )
            return list(connection.scalars(query))

        return await self.database.read(work)

    async def unfinished(self, *, limit: int) -> list[str]:
        """Runs that are due, and those that a replica works on."""

        def work(connection: sa.Connection) -> list[str]:
            wanted = sa.or_(_due(self._now(connection)), runs.c.state == RunState.RUNNING.value)
            return list(
                connection.scalars(sa.select(runs.c.id).where(wanted).order_by(runs.c.updated).limit(limit))
            )

        return await self.database.read(work)

    async def claim(
        self, run_ids: Sequence[str], *, replica: str, lease_s: float
    ) -> list[tuple[Run, list[Step]]]:
        """Take up those of the runs that are due; of two replicas that ask, one gets each run."""

        def work(connection: sa.Connection) -> list[tuple[Run, list[Step]]]:
            now = self._now(connection)
            claimed = []
            for run_id in run_ids:
                query = (
                    sa.select(runs).where(runs.c.id == run_id, _due(now)).with_for_update(skip_locked=True)
                )
                row = connection.execute(query).first()
                if row is None:
                    continue
                before = _run(row)
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
                claimed.append((_run(row, changed), [_step(one) for one in found]))
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

    async def record_step(self, hold: Hold, step: Step) -> None:
        """Record how a step ended.

        Raises:
            LeaseLostError: see there.
        """
        counting = self._sql.step_done if step.state is StepState.DONE else self._sql.step_not_done
        values = {name: getattr(step, name, None) for name in STEP_COLUMNS}
        values |= {"run_id": hold.run_id, "state": step.state.value}
        event = {
            "name": step.name,
            "state": step.state,
            "attempts": step.attempts,
            "seconds": round(step.finished - step.started, 6),
        }

        def work(connection: sa.Connection) -> None:
            seq = self._advance(connection, hold, counting, {})
            self._sql.put_step.run(connection, values)
            self._event(connection, hold.run_id, seq, "step", event)

        await self.database.write(work)

    async def end(
        self, hold: Hold, state: RunState, *, reply: str | None = None, error: str | None = None
    ) -> None:
        """End a run.

        Args:
            hold: of the run.
            state: one of `ENDED`.
            reply: the answer as JSON.
            error: the problem as JSON.

        Raises:
            LeaseLostError: see there.
        """
        await self._let_go(
            hold, state, {"finished": self._clock(), "reply": reply, "error": error}, {"state": state}
        )

    async def wait(self, hold: Hold, *, waiting_for: str, wake_at: float | None) -> None:
        """Let a run wait: nobody holds it until it is due.

        Raises:
            LeaseLostError: see there.
        """
        values = {"waiting_for": waiting_for, "wake_at": wake_at}
        await self._let_go(hold, RunState.WAITING, values, {"state": RunState.WAITING, **values})

    async def release(self, hold: Hold) -> None:
        """Give a run back: the next replica goes on with it.

        Raises:
            LeaseLostError: see there.
        """
        await self._let_go(hold, RunState.QUEUED, {}, {"state": RunState.QUEUED})

    async def _let_go(
        self, hold: Hold, state: RunState, values: Mapping[str, Any], event: Mapping[str, Any]
    ) -> None:
        """Change a run so that nobody holds it any more."""
        unset = dict.fromkeys(("finished", "reply", "error", "waiting_for", "wake_at"))
        changed = {**unset, **values, "state": state.value}

        def work(connection: sa.Connection) -> None:
            seq = self._advance(connection, hold, self._sql.let_go, changed)
            self._event(connection, hold.run_id, seq, "state", event)

        await self.database.write(work)

    async def cancel(self, run_id: str) -> Run | None:
        """Cancel a run: at once where nobody works on it, else as soon as its replica hears of it."""

        def work(connection: sa.Connection) -> Run | None:
            row = connection.execute(sa.select(runs).where(runs.c.id == run_id).with_for_update()).first()
            if row is None or (run := _run(row)).state.ended:
                return None if row is None else run
            if run.state is RunState.RUNNING:
                return self._change(connection, run, {"cancel": True})
            values = {
                "state": RunState.CANCELLED.value,
                "cancel": True,
                "finished": self._clock(),
                **_RELEASED,
            }
            return self._change(connection, run, values, {"state": RunState.CANCELLED})

        return await self.database.write(work)

    async def resume(self, run_id: str) -> Run | None:
        """Let a run that failed or was cancelled go on from its last finished step."""

        def work(connection: sa.Connection) -> Run | None:
            row = connection.execute(sa.select(runs).where(runs.c.id == run_id).with_for_update()).first()
            if row is None:
                return None
            run = _run(row)
            if run.state not in {RunState.FAILED, RunState.CANCELLED} or run.request is None:
                return run
            values = {
                "state": RunState.QUEUED.value,
                "cancel": False,
                "error": None,
                "finished": None,
                "lost": 0,
                **_RELEASED,
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
            row = connection.execute(sa.select(runs).where(runs.c.id == run_id).with_for_update()).first()
            if row is None:
                return None
            run = _run(row)
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
            changed = {"state": RunState.QUEUED.value, **_RELEASED}
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

    def _now(self, connection: sa.Connection) -> float:
        if self.database.is_sqlite:
            return self._clock()
        return float(connection.scalar(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))) or 0.0)

    def _advance(
        self, connection: sa.Connection, hold: Hold, statement: Prepared, values: Mapping[str, Any]
    ) -> int:
        """Change a run that is held, and count an event; its number."""
        held = {"run_id": hold.run_id, "held_attempt": hold.attempt, "held_by": hold.replica}
        seq = statement.run(connection, {**values, **held, "now": self._clock()}).scalar()
        if seq is None:
            raise LeaseLostError(hold.run_id)
        return int(seq)

    def _change(
        self,
        connection: sa.Connection,
        run: Run,
        values: Mapping[str, Any],
        event: Mapping[str, Any] | None = None,
    ) -> Run:
        """Change a run that nobody holds, within the transaction that has read it."""
        changed = {**values, "updated": self._clock(), "events": run.events + (event is not None)}
        row = connection.execute(
            sa.update(runs).where(runs.c.id == run.id).values(changed).returning(*runs.c)
        ).one()
        if event is not None:
            self._event(connection, run.id, run.events + 1, "state", event)
        return _run(row)

    def _event(
        self, connection: sa.Connection, run_id: str, seq: int, kind: str, data: Mapping[str, Any]
    ) -> None:
        values = {"run_id": run_id, "seq": seq, "at": self._clock(), "kind": kind, "data": json.dumps(data)}
        self._sql.insert_event.run(connection, values)


_REFUSED: Final = '"approved": false'
_RELEASED: Final[dict[str, Any]] = {
    "lease_owner": None,
    "lease_until": None,
    "waiting_for": None,
    "wake_at": None,
    "working_on": None,
}


def _due(now: float) -> sa.ColumnElement[bool]:
    """As `values.is_due`, in SQL."""
    return sa.or_(
        runs.c.state == RunState.QUEUED.value,
        sa.and_(
            runs.c.state == RunState.RUNNING.value,
            sa.or_(runs.c.lease_until.is_(None), runs.c.lease_until < now),
        ),
        sa.and_(runs.c.state == RunState.WAITING.value, runs.c.wake_at <= now),
    )


def _row(run: Run) -> dict[str, Any]:
    values = {field: getattr(run, field) for field in _FIELDS}
    owner = run.owner
    return {
        **values,
        "state": run.state.value,
        "owner_kind": owner.kind,
        "owner_name": owner.name,
        "owner_team": owner.team,
    }


_FIELDS: Final = tuple(field.name for field in fields(Run) if field.name != "owner")


def _run(row: Any, changed: Mapping[str, Any] | None = None) -> Run:
    values = {**row._mapping, **(changed or {})}  # noqa: SLF001 - SQLAlchemy's documented name
    owner = Owner(values.pop("owner_kind"), values.pop("owner_name"), values.pop("owner_team"))
    state = RunState(values.pop("state"))
    return Run(owner=owner, state=state, cancel=bool(values.pop("cancel")), **values)


def _step(row: Any) -> Step:
    return Step(
        row.name,
        StepState(row.state),
        row.attempts,
        row.started,
        row.finished,
        row.result,
        row.error,
        row.usage,
    )
