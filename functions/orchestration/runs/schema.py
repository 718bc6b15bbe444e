"""The tables of the runs' store, and the migrations that make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from functions.orchestration.runs.errors import SchemaVersionError

metadata = sa.MetaData()

version = sa.Table("pilotlight_schema", metadata, sa.Column("version", sa.Integer, nullable=False))

runs = sa.Table(
    "pilotlight_runs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("owner_kind", sa.Text, nullable=False),
    sa.Column("owner_name", sa.Text, nullable=False),
    sa.Column("owner_team", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("updated", sa.Double, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("lost", sa.Integer, nullable=False, default=0),
    sa.Column("started", sa.Double),
    sa.Column("finished", sa.Double),
    sa.Column("lease_owner", sa.Text),
    sa.Column("lease_until", sa.Double),
    sa.Column("wake_at", sa.Double),
    sa.Column("waiting_for", sa.Text),
    sa.Column("working_on", sa.Text),
    sa.Column("cancel", sa.Boolean, nullable=False, default=False),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("fingerprint", sa.Text),
    sa.Column("request", sa.Text),
    sa.Column("origin", sa.Text, nullable=False, default="{}"),
    sa.Column("reply", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("steps", sa.Integer, nullable=False, default=0),
    sa.Column("events", sa.Integer, nullable=False, default=0),
    # NULL differs from NULL, so runs without a key never meet.
    sa.UniqueConstraint("owner_kind", "owner_name", "idempotency_key", name="pilotlight_runs_once"),
)
UNFINISHED_ROWS: Final = "state IN ('queued', 'running', 'waiting')"
"""Few rows of many: what has ended is in none of the indices with this condition."""
sa.Index(
    "pilotlight_runs_due",
    runs.c.state,
    runs.c.wake_at,
    runs.c.lease_until,
    sqlite_where=sa.text(UNFINISHED_ROWS),
    postgresql_where=sa.text(UNFINISHED_ROWS),
)
_unfinished_of = sa.Index(
    "pilotlight_runs_unfinished_of",
    runs.c.owner_kind,
    runs.c.owner_name,
    sqlite_where=sa.text(UNFINISHED_ROWS),
    postgresql_where=sa.text(UNFINISHED_ROWS),
)
sa.Index("pilotlight_runs_finished", runs.c.finished)
sa.Index("pilotlight_runs_of", runs.c.owner_kind, runs.c.owner_name, runs.c.id)

steps = sa.Table(
    "pilotlight_steps",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("started", sa.Double, nullable=False),
    sa.Column("finished", sa.Double, nullable=False),
    sa.Column("result", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("usage", sa.Text),
)

events = sa.Table(
    "pilotlight_events",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)


def _first(connection: sa.Connection) -> None:
    metadata.create_all(connection)


def _count_unfinished(connection: sa.Connection) -> None:
    """Before, each new run had all runs of its caller read, ended ones too."""
    _unfinished_of.create(connection, checkfirst=True)


MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (_first, _count_unfinished)
"""Each takes the database from the version of its position to the next one; never changed, only added to."""


def migrate(connection: sa.Connection) -> None:
    """Bring the database to this program's version, within the connection's transaction.

    Two replicas that start at the same time do it one after the other.

    Raises:
        SchemaVersionError: the database is of a later version.
    """
    if connection.dialect.name == "postgresql":
        # Any fixed number: every replica asks for the same one, and it ends with the transaction.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(7110452137)"))
    version.create(connection, checkfirst=True)
    found = connection.scalar(sa.select(sa.func.max(version.c.version))) or 0
    if found > len(MIGRATIONS):
        raise SchemaVersionError(
            f"its tables have version {found}, this program knows {len(MIGRATIONS)}: "
            "it was written by a newer one; roll the stage forward again, or give it another database"
        )
    for position in range(found, len(MIGRATIONS)):
        MIGRATIONS[position](connection)
    if found < len(MIGRATIONS):
        connection.execute(sa.delete(version))
        connection.execute(sa.insert(version).values(version=len(MIGRATIONS)))
