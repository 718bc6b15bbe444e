"""What the controller remembers across restarts, in one SQLite file that a thread of its own writes.

Demand by minute, the latest cold starts of each Service, and the account of each pool. Everything that a
decision needs is answered from memory, so that a slow or locked disk never holds up the control loop. Losing
the file costs accuracy, never a floor.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from warmpool.adapters.history_database import HistoryDatabase, read_minutes
from warmpool.adapters.history_tables import Batch, DemandMinute, MinuteTotals, StoredHistory
from warmpool.domain.account import Account
from warmpool.domain.cold_start import ColdStart, ColdStartSamples, ColdStartStats
from warmpool.domain.object_key import ObjectKey
from warmpool.domain.observation import Demand

log = logging.getLogger(__name__)

SAVE_EVERY: Final = timedelta(minutes=1)
_PURGE_EVERY: Final = timedelta(hours=1)
_MAX_MINUTES: Final = 200_000
"""Minutes of demand that are kept in memory while the disk takes none; then the oldest are dropped."""
_MAX_STARTS: Final = 10_000
"""The same for cold starts."""
_CLOSE_TIMEOUT_S: Final = 5.0


class SqliteHistory:
    """The history in a file. No method waits for the disk, except `flush` and `close`; none raises."""

    def __init__(self, path: Path) -> None:
        """Open the file or begin a new one, and start the thread that writes."""
        self._path = path
        self._database = HistoryDatabase(path)
        self._lock = threading.Lock()
        """Guards everything below; it is never held during a disk access."""
        self._starts: defaultdict[ObjectKey, ColdStartSamples] = defaultdict(ColdStartSamples)
        self._accounts: dict[ObjectKey, Account] = {}
        """The latest stored account of each pool."""
        self._pending = Batch()
        self._now: datetime | None = None
        """The time of the last save, by the caller's clock."""
        self._purged_at: datetime | None = None
        self._waiting: list[threading.Event] = []
        self._closing = False
        self._problem: str | None = None
        self._wake = threading.Event()
        self._load(self._database.open())
        self._problem = self._describe_problem()
        self._thread = threading.Thread(target=self._work, name="warm-pool history", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str | None:
        """What is wrong with the file; None: nothing."""
        return self._problem

    def cold_starts(self, service: ObjectKey) -> ColdStartStats | None:
        """Statistics of the latest cold starts of a Service; None while none is known."""
        with self._lock:
            known = self._starts.get(service)
            return known.stats() if known else None

    def add_cold_start(self, service: ObjectKey, start: ColdStart) -> None:
        """Record a cold start, which is written at once: there are few, and each is valuable."""
        with self._lock:
            self._starts[service].add(start)
            self._put_start(service, start)
        self._wake.set()

    def add_phases(self, service: ObjectKey, start: ColdStart) -> None:
        """Record the phases of a cold start that was added before they were known."""
        with self._lock:
            self._starts[service].add_phases(start.phases)
            self._put_start(service, start)
        self._wake.set()

    def account(self, pool: ObjectKey) -> Account | None:
        """The latest account of a pool, with its last reading."""
        with self._lock:
            return self._accounts.get(pool)

    def save(self, now: datetime, accounts: Mapping[ObjectKey, Account]) -> None:
        """Keep the accounts and have everything that is new written, at most once a minute."""
        with self._lock:
            if self._now is not None and self._now <= now < self._now + SAVE_EVERY:
                return
            self._now = now
            self._accounts |= accounts
            self._pending.accounts |= {(pool, account.since): account for pool, account in accounts.items()}
        self._wake.set()

    def add_demand(self, now: datetime, demand: Mapping[ObjectKey, Demand]) -> None:
        """Add a reading to the minute of `now`."""
        minute = int(now.timestamp()) // 60
        with self._lock:
            minutes = self._pending.minutes
            for service, reading in demand.items():
                if reading.concurrency or reading.arrivals or reading.backlog:
                    minutes.setdefault((service, minute), MinuteTotals()).add(reading)
            while len(minutes) > _MAX_MINUTES:
                del minutes[next(iter(minutes))]

    def minutes(self, service: ObjectKey, since: datetime) -> Sequence[DemandMinute]:
        """The stored minutes with demand since then, oldest first; a minute that is left out had none.

        Reads the disk: call it from a thread.
        """
        return read_minutes(self._path, service, since)

    def flush(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> bool:
        """Write what has gathered and wait for that; whether the attempt ended within the time."""
        done = threading.Event()
        with self._lock:
            self._waiting.append(done)
        self._wake.set()
        return done.wait(timeout_s)

    def close(self) -> None:
        """Write what has gathered and end the thread, which takes a few seconds at most."""
        with self._lock:
            self._closing = True
        self._wake.set()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _put_start(self, service: ObjectKey, start: ColdStart) -> None:
        starts = self._pending.starts
        starts[service, start.started] = start
        while len(starts) > _MAX_STARTS:
            del starts[next(iter(starts))]

    # ------------------------------------------------------------------------------------ the thread
    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                closing = self._closing
                waiting, self._waiting = self._waiting, []
            self._write_pending()
            for done in waiting:
                done.set()
            if closing:
                self._database.close()
                return

    def _write_pending(self) -> None:
        if not self._database.is_open:
            stored = self._database.open()
            with self._lock:
                self._load(stored)
        with self._lock:
            batch, self._pending = self._pending, Batch()
            purge_at = self._now if self._is_purge_due() else None
        left = batch
        try:
            left = self._database.write(batch, purge_at)
            if not self._database.is_open:  # set aside as damaged: the new file takes the rest
                self._database.open()
                left = self._database.write(left, None)
        except Exception:  # the thread has to live: the next attempt may succeed
            log.exception("the history could not be written")
        with self._lock:
            self._put_back(left)
            if purge_at is not None:
                self._purged_at = purge_at
            self._problem = self._describe_problem()

    def _is_purge_due(self) -> bool:
        now, before = self._now, self._purged_at
        return now is not None and (before is None or not before <= now < before + _PURGE_EVERY)

    def _put_back(self, left: Batch) -> None:
        """Keep what could not be written, beneath what has come since."""
        self._pending.starts = {**left.starts, **self._pending.starts}
        self._pending.accounts = {**left.accounts, **self._pending.accounts}
        for key, total in self._pending.minutes.items():
            left.minutes.setdefault(key, MinuteTotals()).add_totals(total)
        self._pending.minutes = left.minutes

    def _load(self, stored: StoredHistory | None) -> None:
        """Take over what the file holds; of a Service with more cold starts in memory, those count."""
        if stored is None:
            return
        loaded: defaultdict[ObjectKey, ColdStartSamples] = defaultdict(ColdStartSamples)
        for service, start in stored.starts:
            loaded[service].add(start)
        for service, known in loaded.items():
            if len(known) >= len(self._starts.get(service, ())):
                self._starts[service] = known
        self._accounts = {**stored.accounts, **self._accounts}

    def _describe_problem(self) -> str | None:
        return self._database.error or self._database.damage
