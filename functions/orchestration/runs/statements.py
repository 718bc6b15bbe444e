"""The statements of every step, compiled once, and executed by the driver itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from functions.orchestration.runs.database import driver_connection
from functions.orchestration.runs.schema import UNFINISHED_ROWS, events, runs, steps
from functions.orchestration.runs.values import RunState, StepState

STEP_COLUMNS: Final = tuple(column.name for column in steps.c)


class Prepared:
    """A statement in the driver's own words.

    Args:
        statement: with named parameters.
        dialect: of the database.
    """

    def __init__(self, statement: sa.Executable, dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        self._sql = str(compiled)
        self._order: list[str] | None = compiled.positiontup
        self._fixed: dict[str, Any] = {
            name: value for name, value in compiled.params.items() if value is not None
        }
        self._columns = tuple(column.name for column in getattr(statement, "selected_columns", ()))

    def run(self, connection: sa.Connection, values: Mapping[str, Any]) -> int:
        """Execute it; how many rows it has changed."""
        return int(self._execute(connection, values).rowcount)

    def first(self, connection: sa.Connection, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Its first row, by the columns' names."""
        row = self._execute(connection, values).fetchone()
        return None if row is None else dict(zip(self._columns, row, strict=True))

    def scalar(self, connection: sa.Connection, values: Mapping[str, Any]) -> Any:
        """The first value of its first row; None: there is no row."""
        row = self._execute(connection, values).fetchone()
        return None if row is None else row[0]

    def _execute(self, connection: sa.Connection, values: Mapping[str, Any]) -> Any:
        known = {**self._fixed, **values}
        raw = driver_connection(connection)
        if self._order is None:
            return raw.execute(self._sql, known)
        return raw.execute(self._sql, tuple([known[name] for name in self._order]))


class Statements:
    """Those of one kind of database."""

    def __init__(self, *, is_sqlite: bool) -> None:
        # paramstyle: the driver's, so that what is compiled here can be handed to it.
        dialect: sa.Dialect = (
            sqlite.dialect(paramstyle="qmark") if is_sqlite else postgresql.dialect(paramstyle="pyformat")  # type: ignore[no-untyped-call]
        )
        insert: Any = sqlite.insert if is_sqlite else postgresql.insert

        def prepared(statement: sa.Executable) -> Prepared:
            return Prepared(statement, dialect)

        parameter = sa.bindparam
        owned = sa.and_(
            runs.c.owner_kind == parameter("owner_kind"), runs.c.owner_name == parameter("owner_name")
        )
        # In the words of the index, or SQLite does not see that it fits.
        unfinished = sa.select(runs.c.id).where(owned, sa.text(UNFINISHED_ROWS))
        self.count_unfinished = prepared(
            sa.select(sa.func.count()).select_from(unfinished.limit(parameter("at_most")).subquery())
        )
        self.with_key = prepared(
            sa.select(runs).where(owned, runs.c.idempotency_key == parameter("idempotency_key"))
        )
        self.get_run = prepared(sa.select(runs).where(runs.c.id == parameter("run_id")))
        new: dict[str, Any] = {column.name: parameter(column.name) for column in runs.c}
        self.insert_run = prepared(insert(runs).values(new).on_conflict_do_nothing())
        self.insert_event = prepared(
            sa.insert(events).values({column.name: parameter(column.name) for column in events.c})
        )
        step = insert(steps).values({name: parameter(name) for name in STEP_COLUMNS})
        kept = {name: step.excluded[name] for name in STEP_COLUMNS if name not in {"run_id", "name"}}
        done: Any = sa.literal_column(f"'{StepState.DONE.value}'")
        self.put_step = prepared(
            step.on_conflict_do_update(
                index_elements=["run_id", "name"], set_=kept, where=steps.c.state != done
            )
        )
        running: Any = sa.literal_column(f"'{RunState.RUNNING.value}'")
        held = sa.and_(
            runs.c.id == parameter("run_id"),
            runs.c.attempt == parameter("held_attempt"),
            runs.c.lease_owner == parameter("held_by"),
            runs.c.state == running,
        )
        counted = {"events": runs.c.events + sa.literal_column("1"), "updated": parameter("now")}
        self.step_done = prepared(
            sa.update(runs)
            .where(held)
            .values(
                **counted,
                steps=runs.c.steps + sa.literal_column("1"),
                lost=sa.literal_column("0"),
            )
            .returning(runs.c.events)
        )
        self.step_not_done = prepared(sa.update(runs).where(held).values(**counted).returning(runs.c.events))
        let_go: dict[str, Any] = {
            name: parameter(name)
            for name in ("state", "finished", "reply", "error", "waiting_for", "wake_at")
        }
        gone = {name: sa.null() for name in ("lease_owner", "lease_until", "working_on")}
        self.let_go = prepared(
            sa.update(runs).where(held).values(**counted, **let_go, **gone).returning(runs.c.events)
        )
