"""What the controller remembers across restarts, in one SQLite file.

Demand in one-minute buckets, the latest cold starts of each Service, and the account of each pool. Losing it
costs accuracy, never a floor: a damaged file is set aside and begun anew, a full disk is waited for, and
both are said.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from warmpool.domain.account import Account
from warmpool.domain.cold_start import (
    MAX_PHASE_SECONDS,
    MAX_SAMPLES,
    ColdStart,
    ColdStartSamples,
    ColdStartStats,
    is_duration,
)
from warmpool.domain.object_key import ObjectKey
from warmpool.domain.observation import Demand

log = logging.getLogger(__name__)
T = TypeVar("T")

MINUTES_KEPT: Final = timedelta(days=35)
"""Five weeks: enough for a forecast to see the same weekday four times."""
ACCOUNTS_KEPT: Final = timedelta(days=400)
_FLUSH: Final = timedelta(minutes=1)
_PURGE: Final = timedelta(hours=1)
_BUFFERED: Final = 200_000
"""Buckets kept in memory while the disk does not take them; then the oldest go."""

_ACCOUNT: Final = """SELECT spent, reasons, idle, busy, held FROM accounts
WHERE namespace = ? AND pool = ? AND since = ?"""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS minutes (
  namespace TEXT, service TEXT, minute INTEGER, readings INTEGER, concurrency REAL, peak REAL, arrivals REAL,
  backlog INTEGER, PRIMARY KEY (namespace, service, minute)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cold_starts (
  namespace TEXT, service TEXT, started REAL, seconds REAL, phases TEXT,
  PRIMARY KEY (namespace, service, started)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accounts (
  namespace TEXT, pool TEXT, since REAL, spent TEXT, reasons TEXT, idle REAL, busy REAL, held REAL,
  PRIMARY KEY (namespace, pool, since)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Minute:
    """The demand of one Service in one minute."""

    at: datetime
    concurrency: float
    """Requests in flight, the mean of the readings."""
    peak: float
    arrivals: float
    backlog: int | None


@dataclass(slots=True)
class _Bucket:
    readings: int = 0
    concurrency: float = 0.0
    peak: float = 0.0
    arrivals: float = 0.0
    backlog: int | None = None

    def add(self, demand: Demand) -> None:
        self.readings += 1
        self.concurrency += demand.concurrency
        self.peak = max(self.peak, demand.concurrency)
        self.arrivals += demand.arrivals or 0.0
        if demand.backlog is not None:
            self.backlog = max(self.backlog or 0, demand.backlog)


class SqliteHistory:
    """The history in a file. Belongs to one thread; no method raises because of the disk."""

    def __init__(self, path: Path) -> None:
        """Open or begin the file."""
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._problem: str | None = None
        self._notice: str | None = None
        self._buckets: dict[tuple[ObjectKey, int], _Bucket] = {}
        self._accounts: dict[tuple[ObjectKey, datetime], Account] = {}
        self._waiting: list[tuple[ObjectKey, ColdStart]] = []
        self._starts: defaultdict[ObjectKey, ColdStartSamples] = defaultdict(ColdStartSamples)
        self._flushed_at: datetime | None = None
        self._purged_at: datetime | None = None
        self._open()

    @property
    def problem(self) -> str | None:
        """What is wrong with the file, if something is."""
        return self._problem or self._notice

    def cold_starts(self, service: ObjectKey) -> ColdStartStats | None:
        """What the latest cold starts of a Service took."""
        known = self._starts.get(service)
        return known.stats() if known else None

    def add_cold_start(self, service: ObjectKey, start: ColdStart) -> None:
        """Remember one, on disk at once: there are few, and each is worth something."""
        self._starts[service].add(start)
        self._keep(service, start)

    def add_phases(self, service: ObjectKey, start: ColdStart) -> None:
        """Remember the phases of a start that was added before they were known: its row is replaced."""
        self._starts[service].add_phases(start.phases)
        self._keep(service, start)

    def account(self, pool: ObjectKey, since: datetime) -> Account | None:
        """What a pool had spent in the period that began at `since`."""
        values = (*pool, since.timestamp())
        row = self._on_disk(lambda connection: connection.execute(_ACCOUNT, values).fetchone(), None)
        if row is None:
            return None
        spent, reasons, idle, busy, held = row
        by_reason = {reason: Decimal(amount) for reason, amount in json.loads(reasons).items()}
        return Account(since, Decimal(spent), by_reason, idle, busy, held)

    def save(self, now: datetime, accounts: Mapping[ObjectKey, Account]) -> None:
        """Keep the accounts and what has gathered since, at most once a minute."""
        if self._flushed_at is not None and self._flushed_at <= now < self._flushed_at + _FLUSH:
            return
        self._flushed_at = now
        self._accounts |= {(pool, account.since): account for pool, account in accounts.items()}
        self.flush(now)

    def add_demand(self, now: datetime, demand: Mapping[ObjectKey, Demand]) -> None:
        """Add a reading to the minute it falls into."""
        minute = int(now.timestamp()) // 60
        for service, reading in demand.items():
            if reading.concurrency or reading.arrivals or reading.backlog:
                self._buckets.setdefault((service, minute), _Bucket()).add(reading)
        while len(self._buckets) > _BUFFERED:
            del self._buckets[next(iter(self._buckets))]

    def minutes(self, service: ObjectKey, since: datetime) -> Sequence[Minute]:
        """The minutes with demand since then, oldest first; those that are left out had none."""
        query = (
            "SELECT minute, readings, concurrency, peak, arrivals, backlog FROM minutes"
            " WHERE namespace = ? AND service = ? AND minute >= ? ORDER BY minute"
        )
        values = (*service, int(since.timestamp()) // 60)
        nothing: list[Any] = []
        rows = self._on_disk(lambda connection: connection.execute(query, values).fetchall(), nothing)
        return [
            Minute(
                datetime.fromtimestamp(minute * 60, UTC), total / max(1, readings), peak, arrivals, backlog
            )
            for minute, readings, total, peak, arrivals, backlog in rows
        ]

    def flush(self, now: datetime) -> None:
        """Write what has gathered."""
        works = (self._write_starts, self._write_buckets, self._write_accounts)
        done = [self._on_disk(work, otherwise=False) for work in works]  # each, whatever became of the others
        if all(done):
            self._problem = None
        if self._purged_at is None or not self._purged_at <= now < self._purged_at + _PURGE:
            self._on_disk(partial(self._purge, now=now), None)
            self._purged_at = now

    def close(self) -> None:
        """Write what has gathered and close the file."""
        self.flush(datetime.now(UTC))
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _keep(self, service: ObjectKey, start: ColdStart) -> None:
        self._waiting.append((service, start))
        self._on_disk(self._write_starts, otherwise=False)

    # ----------------------------------------------------------------------------------------- the file
    def _on_disk(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Do something with the file; what the disk does not take stays in memory and is tried again."""
        if self._connection is None:
            self._open()
        if self._connection is None:
            return otherwise
        try:
            with self._connection:
                done = work(self._connection)
        except sqlite3.OperationalError as problem:  # full, locked, gone: the file itself is sound
            self._problem = f"history cannot be written to {self._path}: {problem}"
            log.warning("%s", self._problem)
            return otherwise
        except sqlite3.DatabaseError as problem:
            self._set_aside(problem)
            return otherwise
        return done

    def _open(self) -> None:
        for attempt in range(2):
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                connection = sqlite3.connect(self._path, timeout=5)
                try:
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.execute("PRAGMA synchronous = NORMAL")
                    connection.executescript(_SCHEMA)
                    self._load(connection)
                except sqlite3.Error:
                    connection.close()
                    raise
            except (sqlite3.OperationalError, OSError) as problem:
                self._problem = f"history cannot be opened at {self._path}: {problem}"
                log.warning("%s", self._problem)
                return
            except sqlite3.DatabaseError as problem:
                self._set_aside(problem)
                if attempt:
                    return
            else:
                self._connection = connection
                self._problem = None
                return

    def _set_aside(self, problem: sqlite3.DatabaseError) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.damaged-{number}")).exists():
            number += 1
        with contextlib.suppress(OSError):
            self._path.rename(aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(OSError):
                self._path.with_name(self._path.name + suffix).unlink()
        self._notice = (
            f"the history file was damaged ({problem}); it is kept as {aside.name} and a new one begun"
        )
        log.error("%s", self._notice)

    def _load(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute(
            "SELECT namespace, service, started, seconds, phases FROM cold_starts"
            " ORDER BY namespace, service, started"  # the order of its key: nothing is sorted
        )
        loaded: defaultdict[ObjectKey, ColdStartSamples] = defaultdict(ColdStartSamples)
        for namespace, service, started, seconds, told in rows:
            start = ColdStart(datetime.fromtimestamp(started, UTC), seconds, _phases(told))
            loaded[namespace, service].add(start)
        for key, known in loaded.items():
            if len(known) >= len(self._starts.get(key, ())):
                self._starts[key] = known

    def _write_starts(self, connection: sqlite3.Connection) -> bool:
        connection.executemany(
            "INSERT OR REPLACE INTO cold_starts VALUES (?, ?, ?, ?, ?)",
            [
                (*service, start.started.timestamp(), start.seconds, json.dumps(dict(start.phases)))
                for service, start in self._waiting
            ],
        )
        for service in {service for service, _ in self._waiting}:
            connection.execute(
                "DELETE FROM cold_starts WHERE namespace = ? AND service = ? AND started NOT IN"
                " (SELECT started FROM cold_starts"
                " WHERE namespace = ? AND service = ? ORDER BY started DESC LIMIT ?)",
                (*service, *service, MAX_SAMPLES),
            )
        connection.commit()
        self._waiting.clear()
        return True

    def _write_buckets(self, connection: sqlite3.Connection) -> bool:
        connection.executemany(
            "INSERT INTO minutes VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET readings = readings + excluded.readings,"
            " concurrency = concurrency + excluded.concurrency, peak = max(peak, excluded.peak),"
            " arrivals = arrivals + excluded.arrivals,"
            " backlog = max(coalesce(backlog, excluded.backlog), coalesce(excluded.backlog, backlog))",
            [
                (*service, minute, got.readings, got.concurrency, got.peak, got.arrivals, got.backlog)
                for (service, minute), got in self._buckets.items()
            ],
        )
        connection.commit()
        self._buckets.clear()
        return True

    def _write_accounts(self, connection: sqlite3.Connection) -> bool:
        connection.executemany(
            "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *pool,
                    since.timestamp(),
                    str(account.spent),
                    json.dumps({reason: str(amount) for reason, amount in account.by_reason.items()}),
                    account.idle_gpu_s,
                    account.busy_gpu_s,
                    account.floor_gpu_s,
                )
                for (pool, since), account in self._accounts.items()
            ],
        )
        connection.commit()
        self._accounts.clear()
        return True

    def _purge(self, connection: sqlite3.Connection, *, now: datetime) -> None:
        oldest = int((now - MINUTES_KEPT).timestamp()) // 60
        connection.execute("DELETE FROM minutes WHERE minute < ?", (oldest,))
        connection.execute("DELETE FROM accounts WHERE since < ?", ((now - ACCOUNTS_KEPT).timestamp(),))


def _phases(told: str | None) -> Mapping[str, float]:
    """The phases in a row; none where somebody else wrote something else."""
    if not told or told == "{}":
        return {}
    try:
        phases = json.loads(told)
    except ValueError:
        return {}
    if not isinstance(phases, dict):
        return {}
    return {phase: seconds for phase, seconds in phases.items() if is_duration(seconds, MAX_PHASE_SECONDS)}
