"""The SQLite file of the runs: how it is made, set up, and brought to the disk."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any, Final

_LONGEST_JOURNAL: Final = 16_384
"""Pages of the journal at which a writer itself moves them: the thread that should does not keep up."""

_KEPT_JOURNAL: Final = 4_000_000
"""Bytes of the journal that stay on the disk once its pages are in the file."""


def make(path: Path) -> None:
    """An empty file for its user alone; SQLite gives the files beside it the same permissions."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        path.touch(mode=0o600)


def sync(path: str) -> None:
    """Bring all that was committed to the disk.

    This is what SQLite itself does after each commit with synchronous=FULL (https://www.sqlite.org/wal.html).
    """
    try:
        journal = os.open(f"{path}-wal", os.O_RDONLY)
    except FileNotFoundError:  # its pages are in the file, which was synced before the journal went
        return
    try:
        getattr(os, "fdatasync", os.fsync)(journal)
    finally:
        os.close(journal)


def sync_folder(folder: Path) -> None:
    """Bring the names of the file and its journal to the disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def prepare(connection: sqlite3.Connection, _record: Any) -> None:
    """Set a new connection up; a listener of SQLAlchemy's `connect`."""
    # Transactions are begun by this module, not by the driver.
    connection.isolation_level = None
    cursor = connection.cursor()
    for attempt in range(50):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # Changing the mode does not wait for others, as a transaction does; a read-only file keeps it.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or attempt == 49:
                if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY:
                    break
                raise
            time.sleep(0.02)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute(f"PRAGMA wal_autocheckpoint={_LONGEST_JOURNAL}")
    cursor.execute(f"PRAGMA journal_size_limit={_KEPT_JOURNAL}")
    # What is erased is overwritten: content may be private.
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()
