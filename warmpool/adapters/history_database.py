"""The SQLite file behind the history: opened, written in batches, and set aside when it is damaged.

What cannot be written (a full disk, a file that another process has locked) stays with the caller, who tries
again.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from warmpool.adapters import history_tables as tables
from warmpool.adapters.history_tables import Batch, DemandMinute, StoredHistory
from warmpool.domain.cold_start import ColdStart
from warmpool.domain.object_key import ObjectKey

log = logging.getLogger(__name__)

_BUSY_TIMEOUT_S: Final = 1.0
"""How long SQLite waits for another process that has locked the file."""


class HistoryDatabase:
    """The file. It is opened by one thread and then used by one thread, which may be another."""

    def __init__(self, path: Path) -> None:
        """The file is not touched before `open`."""
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self.error: str | None = None
        """Why the file could not be opened or written at the last attempt."""
        self.damage: str | None = None
        """That a damaged file was set aside, as long as this process runs."""

    @property
    def is_open(self) -> bool:
        """Whether there is a connection to the file."""
        return self._connection is not None

    def open(self) -> StoredHistory | None:
        """Open the file or begin a new one; None when that fails, and `error` says why."""
        for _ in range(2):  # a damaged file is set aside, and the second attempt begins a new one
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                _make_private(self._path)
                connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)
                try:
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.execute("PRAGMA synchronous = NORMAL")
                    connection.executescript(tables.SCHEMA)
                    stored = StoredHistory(tables.read_starts(connection), tables.read_accounts(connection))
                except sqlite3.Error:
                    connection.close()
                    raise
            except (sqlite3.OperationalError, OSError) as problem:
                self.error = f"history cannot be opened at {self._path}: {problem}"
                log.warning("%s", self.error)
                return None
            except sqlite3.DatabaseError as problem:
                self._set_aside(problem)
            else:
                self._connection = connection
                self.error = None
                return stored
        return None

    def write(self, batch: Batch, now: datetime | None) -> Batch:
        """Write a batch, and delete what is too old at `now`; returns what could not be written."""
        if self._connection is None:
            return batch
        left = Batch()
        self.error = None
        if not self._transaction(lambda connection: tables.write_starts(connection, batch)):
            left.starts = batch.starts
        if not self._transaction(lambda connection: tables.write_minutes(connection, batch)):
            left.minutes = batch.minutes
        if not self._transaction(lambda connection: tables.write_accounts(connection, batch)):
            left.accounts = batch.accounts
        if now is not None:
            self._transaction(lambda connection: tables.purge(connection, now))
        return left

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _transaction(self, work: Callable[[sqlite3.Connection], None]) -> bool:
        """Whether the work was committed; each table by itself, so that one does not hold up the others."""
        if self._connection is None:
            return False
        try:
            with self._connection:
                work(self._connection)
        except sqlite3.OperationalError as problem:  # full, locked, gone: the file itself is sound
            self.error = f"history cannot be written to {self._path}: {problem}"
            log.warning("%s", self.error)
            return False
        except sqlite3.DatabaseError as problem:
            self._set_aside(problem)
            return False
        return True

    def _set_aside(self, problem: sqlite3.DatabaseError) -> None:
        self.close()
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.damaged-{number}")).exists():
            number += 1
        with contextlib.suppress(OSError):
            self._path.rename(aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(OSError):
                self._path.with_name(self._path.name + suffix).unlink()
        self.damage = (
            f"the history file was damaged ({problem}); it is kept as {aside.name} and a new one was begun"
        )
        log.error("%s", self.damage)


def read_minutes(path: Path, service: ObjectKey, since: datetime) -> list[DemandMinute]:
    """The minutes with demand since then, oldest first; empty if the file cannot be read."""
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as connection:
            return tables.read_minutes(connection, service, since)
    except sqlite3.Error as problem:
        log.warning("history cannot be read from %s: %s", path, problem)
        return []


def read_cold_starts(path: Path, service: ObjectKey) -> list[ColdStart]:
    """The cold starts of a Service in a history file, oldest first; the file is not changed.

    Raises:
        OSError: there is no such file, or it is not a history.
    """
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as connection:
            return [start for key, start in tables.read_starts(connection) if key == service]
    except sqlite3.Error as problem:
        raise OSError(errno.EINVAL, f"not a history of the controller: {problem}", str(path)) from problem


def _make_private(path: Path) -> None:
    """Make the file if there is none, and let only its owner read it; SQLite's log files get its mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for file in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
        with contextlib.suppress(FileNotFoundError):
            file.chmod(0o600)
