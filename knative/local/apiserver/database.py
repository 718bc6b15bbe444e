"""The SQLite file of the store: read once at the start, written in few statements."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from knative.client.resources import Resource
from knative.local.apiserver.records import Change, EventType, Key, Record

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
  grp TEXT NOT NULL, version TEXT NOT NULL, plural TEXT NOT NULL, kind TEXT NOT NULL,
  namespaced INTEGER NOT NULL,
  namespace TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (grp, plural, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_UPSERT = """
INSERT OR REPLACE INTO objects
SELECT value ->> '$.key[0]', value ->> '$.key[1]', value ->> '$.key[2]', value ->> '$.key[3]',
       value ->> '$.key[4]', value ->> '$.key[5]', value ->> '$.key[6]', value -> '$.body'
FROM json_each(?)
"""
_DELETE = """
DELETE FROM objects WHERE (grp, plural, namespace, name) IN
  (SELECT value ->> '$[0]', value ->> '$[2]', value ->> '$[5]', value ->> '$[6]' FROM json_each(?))
"""
_FORMAT = 1
_OWNER_ONLY = 0o600


class Database:
    """The file. A connection may move to another thread, but only one thread may use it at a time."""

    def __init__(self, path: Path, *, busy_s: float) -> None:
        self.path = path
        self._busy_ms = round(busy_s * 1000)

    def connect(self) -> sqlite3.Connection:
        """Open the file; if there is none, make one.

        Raises:
            OSError: its mode can't be set.
            sqlite3.Error: it can't be opened, or is damaged.
            ValueError: it is of another format.
        """
        _make_private(self.path)
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA busy_timeout = {self._busy_ms}")
        connection.executescript(_SCHEMA)
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found == 0:
            connection.execute(f"PRAGMA user_version = {_FORMAT}")
        elif found != _FORMAT:
            raise ValueError(f"it was written in format {found}, and this version reads format {_FORMAT}")
        return connection

    def load(self, connection: sqlite3.Connection) -> tuple[list[Record], int]:
        """All objects, and the newest resourceVersion that was ever written."""
        records = []
        rows = connection.execute(
            "SELECT grp, version, plural, kind, namespaced, namespace, name, body FROM objects"
        )
        for group, version, plural, kind, namespaced, namespace, name, body in rows:
            key = Key(Resource(group, version, plural, kind, bool(namespaced)), namespace, name)
            obj = json.loads(body)
            records.append(Record(key, int(obj["metadata"]["resourceVersion"]), obj, body.encode()))
        row = connection.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
        newest = max((record.version for record in records), default=0)
        return records, max(newest, int(row[0]) if row else 0)

    def write(self, connection: sqlite3.Connection, changes: Sequence[Change]) -> None:
        """Write changes in one transaction.

        It has few statements, because each of them gives up the interpreter lock and has to get it back.
        """
        newest = {change.record.key: change for change in changes}
        kept = [change.record for change in newest.values() if change.type is not EventType.DELETED]
        gone = [change.record.key for change in newest.values() if change.type is EventType.DELETED]
        connection.execute("BEGIN IMMEDIATE")
        try:
            if kept:
                rows = b",".join(
                    b'{"key":' + json.dumps(_columns(record.key)).encode() + b',"body":' + record.raw + b"}"
                    for record in kept
                )
                connection.execute(_UPSERT, (f"[{rows.decode()}]",))
            if gone:
                connection.execute(_DELETE, (json.dumps([_columns(key) for key in gone]),))
            connection.execute(
                "INSERT OR REPLACE INTO meta VALUES ('version', ?)", (str(changes[-1].version),)
            )
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def read_meta(self, key: str) -> str | None:
        """One value of the `meta` table, or None."""
        with contextlib.closing(self.connect()) as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def write_meta(self, key: str, value: str) -> str:
        """Set one value of the `meta` table and return it."""
        with contextlib.closing(self.connect()) as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        return value


def _make_private(path: Path) -> None:
    """Make the file if there is none, and let only its owner read it: it holds Secrets and the API's token.

    SQLite gives the files of its write-ahead log the mode of the database.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWNER_ONLY))
    for file in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
        with contextlib.suppress(FileNotFoundError):
            file.chmod(_OWNER_ONLY)


def _columns(key: Key) -> list[str | int]:
    """A key as columns of the table."""
    res = key.resource
    return [
        res.group,
        res.version,
        res.plural,
        res.kind,
        int(res.namespaced),
        key.namespace,
        key.name,
    ]
