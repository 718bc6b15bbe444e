"""A driver's errors in plain words (pure)."""

from __future__ import annotations

import sqlite3
from typing import Final

from functions.orchestration.runs.errors import Cause, DatabaseError

_SQLITE: Final[dict[int, tuple[Cause, str]]] = {
    sqlite3.SQLITE_FULL: ("full", "the disk is full; make room"),
    sqlite3.SQLITE_READONLY: ("read-only", "cannot be written; must be writable by the stage's user"),
    sqlite3.SQLITE_CANTOPEN: ("away", "cannot be opened; its folder must exist and be writable"),
    sqlite3.SQLITE_PERM: (
        "read-only",
        "may not be opened; must be readable and writable by the stage's user",
    ),
    sqlite3.SQLITE_IOERR: ("away", "reading or writing fails; the disk or the file system has a fault"),
    sqlite3.SQLITE_BUSY: ("busy", "is locked by another process for too long"),
    sqlite3.SQLITE_LOCKED: ("busy", "is locked by another process for too long"),
    sqlite3.SQLITE_CORRUPT: ("damaged", "is damaged; restore it, or move it away"),
    sqlite3.SQLITE_NOTADB: ("damaged", "is no SQLite database; move it away"),
}


def _of_sqlite(error: sqlite3.Error, name: str) -> DatabaseError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    cause, words = _SQLITE.get(code, ("refused", f"refuses: {error}"))
    return DatabaseError(cause, f"{name} {words}")


def explained(original: BaseException | None, name: str, *, lost: bool = False) -> DatabaseError:
    """What is wrong with the database. Statements and values stay out of it: they may be private.

    Args:
        original: the driver's error.
        name: of the database, for messages.
        lost: the connection is gone.
    """
    if isinstance(original, sqlite3.Error):
        return _of_sqlite(original, name)
    state = getattr(original, "sqlstate", None) or ""
    short = (str(original).strip().splitlines() or [type(original).__name__])[0][:200]
    cause, words = _POSTGRES.get(state, ("refused", "refuses the stage"))
    if state not in _POSTGRES and (state[:2] in {"", "08", "57"} or lost):
        cause, words = "away", "cannot be reached"
    return DatabaseError(cause, f"{name} {words}: {short}")


_FULL: Final[tuple[Cause, str]] = ("full", "has no room left")
_OVERLOADED: Final[tuple[Cause, str]] = ("busy", "is overloaded")
_POSTGRES: Final[dict[str, tuple[Cause, str]]] = {
    "53100": _FULL,
    "53200": _FULL,
    "25006": ("read-only", "is read-only (a standby?); must be the primary"),
    "40001": _OVERLOADED,
    "40P01": _OVERLOADED,
    "53300": _OVERLOADED,
    "55P03": _OVERLOADED,
    "57014": _OVERLOADED,
}
"""By SQLSTATE (PostgreSQL's documentation, appendix A)."""
