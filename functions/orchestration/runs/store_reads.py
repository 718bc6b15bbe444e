"""What is read of the runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from functions.orchestration.runs.database import Database
from functions.orchestration.runs.rows import due, run_of, step_of
from functions.orchestration.runs.schema import events, runs, steps
from functions.orchestration.runs.statements import Statements
from functions.orchestration.runs.values import Event, Owner, Run, RunState, Step


class RunReads:
    """The runs of one agent, to be looked at.

    Args:
        database: where they are.
        clock: seconds since the epoch. The leases on Postgres follow the database's own clock.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self._clock = clock
        self._sql = Statements(is_sqlite=database.is_sqlite)

    async def get(self, run_id: str) -> Run | None:
        """A run."""

        def work(connection: sa.Connection) -> Run | None:
            row = self._sql.get_run.first(connection, {"run_id": run_id})
            return None if row is None else run_of(row)

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
        return await self.database.read(
            lambda connection: [run_of(row) for row in connection.execute(query).mappings()]
        )

    async def steps_of(self, run_id: str) -> list[Step]:
        """A run's steps in the order in which they ended."""
        query = sa.select(steps).where(steps.c.run_id == run_id).order_by(steps.c.finished, steps.c.name)
        return await self.database.read(
            lambda connection: [step_of(row) for row in connection.execute(query).mappings()]
        )

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
                sa.select(runs.c.id).where(due(self._now(connection))).order_by(runs.c.updated).limit(limit)
            )
            return list(connection.scalars(query))

        return await self.database.read(work)

    async def unfinished(self, *, limit: int) -> list[str]:
        """Runs that are due, and those that a replica works on."""

        def work(connection: sa.Connection) -> list[str]:
            wanted = sa.or_(due(self._now(connection)), runs.c.state == RunState.RUNNING.value)
            return list(
                connection.scalars(sa.select(runs.c.id).where(wanted).order_by(runs.c.updated).limit(limit))
            )

        return await self.database.read(work)

    def _now(self, connection: sa.Connection) -> float:
        if self.database.is_sqlite:
            return self._clock()
        return float(connection.scalar(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))) or 0.0)

    def _event(
        self, connection: sa.Connection, run_id: str, seq: int, kind: str, data: Mapping[str, Any]
    ) -> None:
        values = {"run_id": run_id, "seq": seq, "at": self._clock(), "kind": kind, "data": json.dumps(data)}
        self._sql.insert_event.run(connection, values)
