"""The database of the runs: connections, transactions that several writers share, and errors in plain words.

All writes that are asked for while a transaction is under way go into the next one together. SQLite has one
writer in any case; Postgres gets as many as the pool has. The event loop never waits for the database:
writing and reading have threads of their own.

On SQLite a commit is in the file's journal (WAL, synchronous=NORMAL), which survives every process but not a
loss of power; `sync` waits until all that was committed before survives that too. Moving the journal's pages
into the file has a thread of its own, because that waits for the disk as well.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

from functions.orchestration.runs import sqlite_file
from functions.orchestration.runs.database_errors import explained
from functions.orchestration.runs.errors import DatabaseError, SchemaVersionError
from functions.orchestration.runs.schema import migrate

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sa.Connection], T]

_BATCH: Final = 64
"""Writes in one transaction at most."""
_BUSY_S: Final = 2.0
"""For so long SQLite waits for another process's transaction by itself."""
_CHECKPOINT: Final = 256
"""Writes of this process after which the journal's pages are moved into the file."""


@dataclass(slots=True)
class _Write:
    work: Work[Any]
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
        self._driver_error: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        self._local = threading.local()
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._writers = [
            threading.Thread(target=self._write_all, name=f"runs-writer-{number}", daemon=True)
            for number in range(1 if self.is_sqlite else pool)
        ]
        self._readers = concurrent.futures.ThreadPoolExecutor(pool, "runs-reader")
        self._syncer = concurrent.futures.ThreadPoolExecutor(1, "runs-syncer")
        self._committed = 0
        self._in_journal = 0
        self._synced = 0
        self._syncing = asyncio.Lock()
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

    async def write(self, work: Work[T]) -> T:
        """Do `work` in a transaction; it is committed when this returns, and survives every process.

        `work` may run twice, the first time in a transaction that was taken back.

        Args:
            work: executes statements; what it raises is raised here, and then nothing of it is done.

        Raises:
            DatabaseError: see there.
        """
        await self.open()
        loop = asyncio.get_running_loop()
        asked = _Write(work, loop.create_future(), loop)
        self._writes.put(asked)
        result: T = await asked.answer
        return result

    async def sync(self) -> None:
        """Return once all that was committed before survives a loss of power; on Postgres it does already.

        Those who wait at the same time share the wait for the disk.

        Raises:
            DatabaseError: the disk has a fault.
        """
        if not self.is_sqlite:
            return
        wanted = self._committed
        async with self._syncing:
            if self._synced >= wanted:
                return
            reached = self._committed
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._syncer, self._guarded, self._sync_file)
            self._synced = reached

    async def read(self, work: Work[T]) -> T:
        """What `work` reads; raises as `write`."""
        await self.open()

        def once() -> T:
            connection = self._own_connection(autocommit=True)
            try:
                return work(connection)
            except (sa.exc.DBAPIError, self._driver_error, OSError):
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
        if self.is_sqlite and self._in_journal:
            self._checkpoint()
        self._syncer.shutdown(wait=True, cancel_futures=True)
        self._engine.dispose()

    def _make_engine(self, writers: int, readers: int) -> sa.Engine:
        pool: dict[str, Any] = {
            "poolclass": QueuePool,
            "pool_size": writers + readers + 1,  # the last one migrates, and moves SQLite's journal
            "max_overflow": 0,
            "pool_timeout": 10,
        }
        if self.is_sqlite:
            engine = sa.create_engine(
                self._url, connect_args={"check_same_thread": False, "timeout": _BUSY_S}, **pool
            )
            sa.event.listen(engine, "connect", sqlite_file.prepare)
            return engine
        arguments = {"connect_timeout": 5, "application_name": "pilotlight-runs"}
        options = "-c idle_in_transaction_session_timeout=30000 -c statement_timeout=30000"
        return sa.create_engine(
            self._url, connect_args={**arguments, "options": options}, pool_pre_ping=True, **pool
        )

    def _migrate(self) -> None:
        if self.is_sqlite and self._url.database:
            sqlite_file.make(Path(self._url.database))
        with self._engine.connect() as connection, connection.begin():
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            migrate(connection)
        if self.is_sqlite and self._url.database:
            sqlite_file.sync_folder(Path(self._url.database).parent)

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
        raw = driver_connection(connection)
        try:
            if self.is_sqlite:
                raw.execute("BEGIN IMMEDIATE")
            results = [write.work(connection) for write in batch]
            self._finish(connection, raw, commit=True)
        except (sa.exc.DBAPIError, self._driver_error, OSError):
            self._drop(connection)
            raise
        except BaseException:  # of `work`: the connection is well
            self._finish(connection, raw, commit=False)
            raise
        self._committed += 1
        self._in_journal += len(batch)
        if self.is_sqlite and self._in_journal >= _CHECKPOINT:
            self._in_journal = 0
            self._syncer.submit(self._checkpoint)
        return results

    def _finish(self, connection: sa.Connection, raw: Any, *, commit: bool) -> None:
        """End the transaction, of which SQLAlchemy knows only if a statement of its own was in it."""
        ending = connection if connection.in_transaction() else raw
        if commit:
            ending.commit()
        else:
            ending.rollback()

    def _sync_file(self) -> None:
        sqlite_file.sync(str(self._url.database))

    def _checkpoint(self) -> None:
        """Move the journal's pages into the file, as far as no reader needs them."""
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").all()
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
            # The writer does it once the journal is long.
            log.warning("the journal of the runs cannot be moved into the file", extra={"reason": str(error)})

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
        return connection

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sa.exc.DBAPIError as error:
            raise explained(error.orig, self.name, lost=error.connection_invalidated) from error
        except self._driver_error as error:
            raise explained(error, self.name) from error
        except sa.exc.TimeoutError as error:
            raise DatabaseError("busy", f"{self.name}: all connections are in use") from error
        except SchemaVersionError as error:
            raise DatabaseError("version", f"{self.name}: {error}") from error
        except OSError as error:
            raise DatabaseError("away", f"{self.name}: {error.strerror or error}") from error


def driver_connection(connection: sa.Connection) -> Any:
    """The driver's own connection: a statement by it costs a tenth of one by SQLAlchemy."""
    return connection.connection.dbapi_connection
