"""The database of the runs: connections, transactions that several writers share, and errors in plain words.

A transaction costs a wait for the disk, so all writes that are asked for while one is under way go into the
next one together. SQLite has one writer in any case; Postgres gets as many as the pool has. The event loop
never waits for the database: writing and reading have threads of their own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

from functions.orchestration.runs.errors import Cause, DatabaseError, SchemaVersionError
from functions.orchestration.runs.schema import migrate

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sa.Connection], T]

_BATCH: Final = 64
"""Writes in one transaction at most."""
_BUSY_MS: Final = 2000
"""Milliseconds for which SQLite waits for another process's transaction by itself."""


@dataclass(slots=True)
class _Write:
    work: Work[Any]
    synced: bool
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop

    def give(self, result: Any, error: BaseException | None) -> None:
        try:
            self.loop.call_soon_threadsafe(self._set, result, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.debug("an answer of the database came after the end")

    def _set(self, result: Any, error: BaseException | None) -> None:
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(result)
        else:
            self.answer.set_exception(error)


class Database:
    """A database of runs.

    Args:
        url: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`.
        pool: writers, and readers; SQLite has one writer.
    """

    def __init__(self, url: str, *, pool: int = 2) -> None:
        self._url = sa.make_url(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        if not self.is_sqlite:
            self._url = self._url.set(drivername="postgresql+psycopg")
        self._engine = self._make_engine(1 if self.is_sqlite else pool, pool)
        self._local = threading.local()
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._writers = [
            threading.Thread(target=self._write_all, name=f"runs-writer-{number}", daemon=True)
            for number in range(1 if self.is_sqlite else pool)
        ]
        self._readers = concurrent.futures.ThreadPoolExecutor(pool, "runs-reader")
        self._open = False
        self._opening = asyncio.Lock()

    @property
    def name(self) -> str:
        """For messages: kind and place, never the password."""
        if self.is_sqlite:
            return f"SQLite file {self._url.database}"
        return f"Postgres database {self._url.database} at {self._url.host}:{self._url.port or 5432}"

    async def open(self) -> None:
        """Connect and bring the tables to this version; does nothing once that has succeeded.

        Raises:
            DatabaseError: it is away, of a later version, or cannot be written.
        """
        async with self._opening:
            if self._open:
                return
            await asyncio.get_running_loop().run_in_executor(self._readers, self._guarded, self._migrate)
            for writer in self._writers:
                writer.start()
            self._open = True

    async def write(self, work: Work[T], *, synced: bool = False) -> T:
        """Do `work` in a transaction; it is committed when this returns.

        `work` may run twice, the first time in a transaction that was taken back.

        Args:
            work: executes statements; what it raises is raised here, and then nothing of it is done.
            synced: survives a loss of power too, not only of processes. (On Postgres everything does.)

        Raises:
            DatabaseError: see there.
        """
        await self.open()
        loop = asyncio.get_running_loop()
        asked = _Write(work, synced, loop.create_future(), loop)
        self._writes.put(asked)
        result: T = await asked.answer
        return result

    async def read(self, work: Work[T]) -> T:
        """What `work` reads; raises as `write`."""
        await self.open()

        def once() -> T:
            connection = self._own_connection(autocommit=True)
            try:
                return work(connection)
            except (sa.exc.DBAPIError, sqlite3.Error, OSError):
                self._drop(connection)
                raise

        return await asyncio.get_running_loop().run_in_executor(self._readers, self._guarded, once)

    async def close(self) -> None:
        """Finish what was asked for, and disconnect."""
        for _ in self._writers:
            self._writes.put(None)
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        for writer in self._writers:
            if writer.ident is not None:
                writer.join(5)
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()

    def _make_engine(self, writers: int, readers: int) -> sa.Engine:
        pool: dict[str, Any] = {
            "poolclass": QueuePool,
            "pool_size": writers + readers + 1,
            "max_overflow": 0,
            "pool_timeout": 10,
        }
        if self.is_sqlite:
            engine = sa.create_engine(
                self._url, connect_args={"check_same_thread": False, "timeout": _BUSY_MS / 1000}, **pool
            )
            sa.event.listen(engine, "connect", _prepare_sqlite)
            return engine
        arguments = {"connect_timeout": 5, "application_name": "pilotlight-runs"}
        options = "-c idle_in_transaction_session_timeout=30000 -c statement_timeout=30000"
        return sa.create_engine(
            self._url, connect_args={**arguments, "options": options}, pool_pre_ping=True, **pool
        )

    def _migrate(self) -> None:
        if self.is_sqlite and self._url.database:
            path = Path(self._url.database)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():  # SQLite gives the files beside it the same permissions
                path.touch(mode=0o600)
        with self._engine.connect() as connection, connection.begin():
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            migrate(connection)

    def _write_all(self) -> None:
        """A writer's thread."""
        ended = False
        while not ended:
            first = self._writes.get()
            if first is None:
                return
            batch = [first]
            while len(batch) < _BATCH:
                try:
                    further = self._writes.get_nowait()
                except queue.Empty:
                    break
                if further is None:
                    ended = True
                    break
                batch.append(further)
            self._write_batch(batch)

    def _write_batch(self, batch: list[_Write]) -> None:
        try:
            results = self._guarded(lambda: self._transaction(batch))
        except Exception as error:  # noqa: BLE001 - it belongs to who asked
            if len(batch) == 1:
                batch[0].give(None, error)
                return
            # One of them is at fault, or none: each gets a transaction of its own.
            for write in batch:
                self._write_batch([write])
            return
        for write, result in zip(batch, results, strict=True):
            write.give(result, None)

    def _transaction(self, batch: list[_Write]) -> list[Any]:
        connection = self._own_connection()
        try:
            # Begun even where `work` executes nothing, or it would not be ended.
            transaction = connection.begin()
            if self.is_sqlite:
                self._begin_sqlite(connection, synced=any(write.synced for write in batch))
            results = [write.work(connection) for write in batch]
            transaction.commit()
        except (sa.exc.DBAPIError, sqlite3.Error, OSError):
            self._drop(connection)
            raise
        except BaseException:  # of `work`: the connection is well
            transaction.rollback()
            raise
        return results

    def _drop(self, connection: sa.Connection) -> None:
        """The next work of this thread gets a new connection, so nothing is left of what has failed."""
        self._local.connection = None
        connection.invalidate()
        connection.close()

    def _own_connection(self, *, autocommit: bool = False) -> sa.Connection:
        """That of this thread, which keeps it."""
        connection: sa.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._engine.connect()
            if autocommit and not self.is_sqlite:  # SQLite has no transaction unless one is begun
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            self._local.connection = connection
            self._local.synced = None
        return connection

    def _begin_sqlite(self, connection: sa.Connection, *, synced: bool) -> None:
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        if self._local.synced != synced:
            raw.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
            self._local.synced = synced
        raw.execute("BEGIN IMMEDIATE")

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sa.exc.DBAPIError as error:
            raise _explained(error, self.name) from error
        except sqlite3.Error as error:
            raise _of_sqlite(error, self.name) from error
        except sa.exc.TimeoutError as error:
            raise DatabaseError("busy", f"{self.name}: all connections are in use") from error
        except SchemaVersionError as error:
            raise DatabaseError("version", f"{self.name}: {error}") from error
        except OSError as error:
            raise DatabaseError("away", f"{self.name}: {error.strerror or error}") from error


def _prepare_sqlite(connection: Any, _record: Any) -> None:
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
    # What is erased is overwritten: content may be private.
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


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


def _explained(error: sa.exc.DBAPIError, name: str) -> DatabaseError:
    """What is wrong with the database. Statements and values stay out of it: they may be private."""
    original = error.orig
    if isinstance(original, sqlite3.Error):
        return _of_sqlite(original, name)
    state = getattr(original, "sqlstate", None) or ""
    short = (str(original).strip().splitlines() or [type(original).__name__])[0][:200]
    cause, words = _POSTGRES.get(state, ("refused", "refuses the stage"))
    if state not in _POSTGRES and (state[:2] in {"", "08", "57"} or error.connection_invalidated):
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
