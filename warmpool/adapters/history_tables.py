"""The tables of the history: values as rows, and rows as values."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from warmpool.domain.account import Account, AccountReading, RevisionReading
from warmpool.domain.cold_start import MAX_PHASE_SECONDS, MAX_SAMPLES, ColdStart, is_duration
from warmpool.domain.floor import Floor
from warmpool.domain.object_key import ObjectKey
from warmpool.domain.observation import Demand

log = logging.getLogger(__name__)

MINUTES_KEPT: Final = timedelta(days=35)
"""Five weeks: enough for a forecast to see the same weekday four times."""
ACCOUNTS_KEPT: Final = timedelta(days=400)

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS minutes (
  namespace TEXT, service TEXT, minute INTEGER, readings INTEGER, concurrency REAL, peak REAL, arrivals REAL,
  backlog INTEGER, PRIMARY KEY (namespace, service, minute)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cold_starts (
  namespace TEXT, service TEXT, started REAL, seconds REAL, phases TEXT,
  PRIMARY KEY (namespace, service, started)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accounts (
  namespace TEXT, pool TEXT, since REAL, spent TEXT, reasons TEXT, idle REAL, busy REAL, held REAL,
  PRIMARY KEY (namespace, pool, since)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS account_readings (
  namespace TEXT, pool TEXT, at REAL, reason TEXT, revisions TEXT,
  PRIMARY KEY (namespace, pool)) WITHOUT ROWID;
"""
_INSERT_START: Final = "INSERT OR REPLACE INTO cold_starts VALUES (?, ?, ?, ?, ?)"
_DELETE_OLD_STARTS: Final = """DELETE FROM cold_starts WHERE namespace = ? AND service = ? AND started NOT IN
 (SELECT started FROM cold_starts WHERE namespace = ? AND service = ? ORDER BY started DESC LIMIT ?)"""
_ADD_MINUTE: Final = """INSERT INTO minutes VALUES (?, ?, ?, ?, ?, ?, ?, ?)
 ON CONFLICT DO UPDATE SET readings = readings + excluded.readings,
 concurrency = concurrency + excluded.concurrency, peak = max(peak, excluded.peak),
 arrivals = arrivals + excluded.arrivals,
 backlog = max(coalesce(backlog, excluded.backlog), coalesce(excluded.backlog, backlog))"""
_INSERT_ACCOUNT: Final = "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_LATEST_ACCOUNTS: Final = """SELECT namespace, pool, max(since), spent, reasons, idle, busy, held
 FROM accounts GROUP BY namespace, pool"""
_INSERT_READING: Final = "INSERT OR REPLACE INTO account_readings VALUES (?, ?, ?, ?, ?)"
_READINGS: Final = "SELECT namespace, pool, at, reason, revisions FROM account_readings"
_STARTS: Final = """SELECT namespace, service, started, seconds, phases FROM cold_starts
 ORDER BY namespace, service, started"""
_MINUTES: Final = """SELECT minute, readings, concurrency, peak, arrivals, backlog FROM minutes
 WHERE namespace = ? AND service = ? AND minute >= ? ORDER BY minute"""


@dataclass(slots=True)
class MinuteTotals:
    """The readings of one Service's demand in one minute, added up."""

    readings: int = 0
    concurrency: float = 0.0
    peak: float = 0.0
    arrivals: float = 0.0
    backlog: int | None = None

    def add(self, demand: Demand) -> None:
        """Add a reading."""
        concurrency = demand.concurrency or 0.0
        self.readings += 1
        self.concurrency += concurrency
        self.peak = max(self.peak, concurrency)
        self.arrivals += demand.arrivals or 0.0
        if demand.backlog is not None:
            self.backlog = max(self.backlog or 0, demand.backlog)

    def add_totals(self, other: MinuteTotals) -> None:
        """Add the readings of the same minute that were added up elsewhere."""
        self.readings += other.readings
        self.concurrency += other.concurrency
        self.peak = max(self.peak, other.peak)
        self.arrivals += other.arrivals
        if other.backlog is not None:
            self.backlog = max(self.backlog or 0, other.backlog)


@dataclass(frozen=True, slots=True)
class DemandMinute:
    """The demand of one Service in one minute."""

    at: datetime
    concurrency: float
    """Requests in flight, the mean of the readings."""
    peak: float
    arrivals: float
    backlog: int | None


@dataclass(slots=True)
class Batch:
    """What is to be written."""

    starts: dict[tuple[ObjectKey, datetime], ColdStart] = field(default_factory=dict)
    minutes: dict[tuple[ObjectKey, int], MinuteTotals] = field(default_factory=dict)
    """By Service and minute since the epoch."""
    accounts: dict[tuple[ObjectKey, datetime], Account] = field(default_factory=dict)
    """By pool and the beginning of its period."""


@dataclass(frozen=True, slots=True)
class StoredHistory:
    """What the file held when it was opened."""

    starts: Sequence[tuple[ObjectKey, ColdStart]]
    accounts: Mapping[ObjectKey, Account]
    """The latest account of each pool."""


def read_starts(connection: sqlite3.Connection) -> list[tuple[ObjectKey, ColdStart]]:
    """Every stored cold start, the oldest of each Service first."""
    return [
        ((namespace, service), ColdStart(datetime.fromtimestamp(started, UTC), seconds, _phases(phases)))
        for namespace, service, started, seconds, phases in connection.execute(_STARTS)
    ]


def read_minutes(connection: sqlite3.Connection, service: ObjectKey, since: datetime) -> list[DemandMinute]:
    """The minutes with demand since then, oldest first."""
    rows = connection.execute(_MINUTES, (*service, int(since.timestamp()) // 60))
    return [
        DemandMinute(
            datetime.fromtimestamp(minute * 60, UTC), total / max(1, readings), peak, arrivals, backlog
        )
        for minute, readings, total, peak, arrivals, backlog in rows
    ]


def read_accounts(connection: sqlite3.Connection) -> dict[ObjectKey, Account]:
    """The latest account of each pool; a row that cannot be read is left out."""
    found: dict[ObjectKey, Account] = {}
    for namespace, pool, since, spent, reasons, idle, busy, held in connection.execute(_LATEST_ACCOUNTS):
        with contextlib.suppress(ValueError, TypeError, AttributeError, InvalidOperation):
            by_reason = {reason: Decimal(amount) for reason, amount in json.loads(reasons).items()}
            begin = datetime.fromtimestamp(since, UTC)
            found[namespace, pool] = Account(begin, Decimal(spent), by_reason, idle, busy, held)
    for namespace, pool, at, reason, revisions in connection.execute(_READINGS):
        account = found.get((namespace, pool))
        if account is not None:
            with contextlib.suppress(ValueError, TypeError, AttributeError, OverflowError):
                found[namespace, pool] = replace(account, last=_reading(at, reason, revisions))
    return found


def _reading(at: float, reason: str, revisions: str) -> AccountReading:
    """The last reading of an account; price and GPUs are those of the next one."""
    found = {
        str(name): RevisionReading(Floor(hot, asleep, standby), replicas)
        for name, (hot, asleep, standby, replicas) in json.loads(revisions).items()
    }
    return AccountReading(datetime.fromtimestamp(at, UTC), found, str(reason))


def write_starts(connection: sqlite3.Connection, batch: Batch) -> None:
    """Add or replace cold starts, and delete the oldest of the same Services beyond those that count."""
    _execute_rows(
        connection,
        _INSERT_START,
        (
            (*service, start.started.timestamp(), start.seconds, json.dumps(dict(start.phases)))
            for (service, _), start in batch.starts.items()
        ),
    )
    services = {service for service, _ in batch.starts}
    connection.executemany(_DELETE_OLD_STARTS, [(*service, *service, MAX_SAMPLES) for service in services])


def write_minutes(connection: sqlite3.Connection, batch: Batch) -> None:
    """Add readings to their minutes."""
    _execute_rows(
        connection,
        _ADD_MINUTE,
        (
            (*service, minute, total.readings, total.concurrency, total.peak, total.arrivals, total.backlog)
            for (service, minute), total in batch.minutes.items()
        ),
    )


def write_accounts(connection: sqlite3.Connection, batch: Batch) -> None:
    """Add or replace accounts."""
    _execute_rows(
        connection,
        _INSERT_ACCOUNT,
        (
            (
                *pool,
                since.timestamp(),
                str(account.spent),
                json.dumps({reason: str(amount) for reason, amount in account.by_reason.items()}),
                account.idle_gpu_s,
                account.busy_gpu_s,
                account.floor_gpu_s,
            )
            for (pool, since), account in batch.accounts.items()
        ),
    )
    _execute_rows(
        connection,
        _INSERT_READING,
        (
            (*pool, last.at.timestamp(), last.reason, json.dumps(_held(last)))
            for (pool, _), account in batch.accounts.items()
            if (last := account.last) is not None
        ),
    )


def _held(reading: AccountReading) -> dict[str, tuple[int, int, int, int]]:
    """Floor (hot, asleep, standby) and replicas by Revision, of those that cost anything."""
    return {
        name: (held.hot, held.asleep, held.standby, revision.replicas)
        for name, revision in reading.revisions.items()
        if (held := revision.held).replicas
    }


def _execute_rows(connection: sqlite3.Connection, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Execute a statement for each row; a row with a value that SQLite cannot store is left out."""
    for row in rows:
        try:
            connection.execute(statement, row)
        except (OverflowError, sqlite3.InterfaceError, sqlite3.ProgrammingError, UnicodeError) as problem:
            log.warning("a row of the history cannot be stored: %s (%s)", row, problem)


def purge(connection: sqlite3.Connection, now: datetime) -> None:
    """Delete what is older than it is kept."""
    oldest = int((now - MINUTES_KEPT).timestamp()) // 60
    connection.execute("DELETE FROM minutes WHERE minute < ?", (oldest,))
    oldest_account = (now - ACCOUNTS_KEPT).timestamp()
    connection.execute("DELETE FROM accounts WHERE since < ?", (oldest_account,))
    connection.execute("DELETE FROM account_readings WHERE at < ?", (oldest_account,))


def _phases(stored: str | None) -> Mapping[str, float]:
    """The phases in a row; empty if there is something else."""
    try:
        phases = json.loads(stored or "{}")
    except ValueError:
        return {}
    if not isinstance(phases, dict):
        return {}
    return {phase: seconds for phase, seconds in phases.items() if is_duration(seconds, MAX_PHASE_SECONDS)}
