"""Rows of the runs' tables as values, and values as rows (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

import sqlalchemy as sa

from functions.orchestration.runs.schema import runs
from functions.orchestration.runs.statements import STEP_COLUMNS
from functions.orchestration.runs.values import Owner, Run, RunState, Step, StepState

Row = Mapping[str, Any] | sa.RowMapping
RELEASED: Final[dict[str, Any]] = {
    "lease_owner": None,
    "lease_until": None,
    "waiting_for": None,
    "wake_at": None,
    "working_on": None,
}
"""Of a run that nobody holds and that waits for nothing."""
_FIELDS: Final = tuple(field.name for field in fields(Run) if field.name != "owner")


def due(now: float) -> sa.ColumnElement[bool]:
    """As `values.is_due`, in SQL."""
    return sa.or_(
        runs.c.state == RunState.QUEUED.value,
        sa.and_(
            runs.c.state == RunState.RUNNING.value,
            sa.or_(runs.c.lease_until.is_(None), runs.c.lease_until < now),
        ),
        sa.and_(runs.c.state == RunState.WAITING.value, runs.c.wake_at <= now),
    )


def row_of(run: Run) -> dict[str, Any]:
    """A run's row."""
    values = {field: getattr(run, field) for field in _FIELDS}
    owner = run.owner
    return {
        **values,
        "state": run.state.value,
        "owner_kind": owner.kind,
        "owner_name": owner.name,
        "owner_team": owner.team,
    }


def run_of(row: Row) -> Run:
    """The run in a row."""
    values = dict(row)
    owner = Owner(values.pop("owner_kind"), values.pop("owner_name"), values.pop("owner_team"))
    state = RunState(values.pop("state"))
    return Run(owner=owner, state=state, cancel=bool(values.pop("cancel")), **values)


def step_row(run_id: str, step: Step) -> dict[str, Any]:
    """A step's row."""
    values = {name: getattr(step, name, None) for name in STEP_COLUMNS}
    return {**values, "run_id": run_id, "state": step.state.value}


def step_of(row: Row) -> Step:
    """The step in a row."""
    values = {name: row[name] for name in STEP_COLUMNS if name != "run_id"}
    return Step(**{**values, "state": StepState(row["state"])})
