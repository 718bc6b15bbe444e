"""The history survives restarts, damage and full disks; losing it never stops anything."""

import contextlib
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.warmpool.conftest import OFFICE, make_controller
from warmpool.adapters.history import SqliteHistory
from warmpool.domain.account import Account, AccountReading, RevisionReading
from warmpool.domain.cold_start import ColdStart
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import Demand

NOW = datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)
SERVICE = ("default", "generate")
POOL = ("default", "pool")
MONTH = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "history.db"


def test_cold_starts_survive_a_restart(path):
    history = SqliteHistory(path)
    for number in range(20):
        history.add_cold_start(
            SERVICE, ColdStart(NOW + timedelta(minutes=number), 10.0 + number, {"weights": 3.0})
        )
    assert history.flush()
    # No close: the process may be killed.
    again = SqliteHistory(path)
    known = again.cold_starts(SERVICE)
    assert (known.samples, known.p50, known.p95) == (20, timedelta(seconds=19), timedelta(seconds=28))
    assert again.cold_starts(("default", "other")) is None


def test_only_the_latest_cold_starts_count(path):
    history = SqliteHistory(path)
    for number in range(300):
        history.add_cold_start(
            SERVICE, ColdStart(NOW + timedelta(minutes=number), 500.0 if number < 100 else 5.0)
        )
    assert history.flush()
    assert SqliteHistory(path).cold_starts(SERVICE).p95 == timedelta(seconds=5)


def test_demand_is_kept_in_minutes(path):
    history = SqliteHistory(path)
    for second in range(0, 120, 15):
        reading = Demand(2.0 if second < 30 else 4.0, backlog=second, arrivals=3.0)
        history.add_demand(NOW.replace(second=0) + timedelta(seconds=second), {SERVICE: reading})
    assert history.flush()
    first, second = SqliteHistory(path).minutes(SERVICE, NOW - timedelta(hours=1))
    assert (first.concurrency, first.peak, first.arrivals, first.backlog) == (3.0, 4.0, 12.0, 45)
    assert (second.concurrency, second.arrivals) == (4.0, 12.0)
    assert second.at - first.at == timedelta(minutes=1)


def test_a_minute_written_in_two_parts_is_one(path):
    for _ in range(2):
        history = SqliteHistory(path)
        history.add_demand(NOW, {SERVICE: Demand(2.0, arrivals=1.0)})
        history.close()
    (minute,) = SqliteHistory(path).minutes(SERVICE, NOW - timedelta(hours=1))
    assert (minute.concurrency, minute.arrivals) == (2.0, 2.0)


def test_old_minutes_are_deleted(path):
    history = SqliteHistory(path)
    history.add_demand(NOW - timedelta(days=60), {SERVICE: Demand(1.0)})
    history.add_demand(NOW, {SERVICE: Demand(1.0)})
    history.save(NOW, {})
    assert history.flush()
    assert len(history.minutes(SERVICE, NOW - timedelta(days=90))) == 1


def test_an_account_survives_a_restart_to_the_cent(path):
    history = SqliteHistory(path)
    spent = {"window/office-hours": Decimal("12.3456789")}
    account = Account(MONTH, Decimal("12.3456789"), spent, idle_gpu_s=100.0, busy_gpu_s=7.0, floor_gpu_s=90.0)
    history.save(NOW, {POOL: account})
    assert history.flush()
    assert SqliteHistory(path).account(POOL) == account


def test_the_last_reading_survives_a_restart_so_that_the_time_between_is_charged(path):
    history = SqliteHistory(path)
    held = RevisionReading(Floor(1, 1, 3), 3)
    reading = AccountReading(
        NOW, {"generate-00001": held, "generate-00002": RevisionReading(NOTHING, 1)}, "hold"
    )
    history.save(NOW, {POOL: Account(MONTH, last=reading)})
    assert history.flush()
    last = SqliteHistory(path).account(POOL).last
    assert (last.at, last.reason, last.charged) == (NOW, "hold", Floor(1, 1, 3))


def test_a_damaged_file_is_set_aside_and_a_new_one_begun(path):
    history = SqliteHistory(path)
    history.add_cold_start(SERVICE, ColdStart(NOW, 10.0))
    history.close()
    path.write_bytes(b"this is not a database, and never was one" * 200)
    again = SqliteHistory(path)
    assert again.cold_starts(SERVICE) is None
    assert "damaged" in again.problem
    again.add_cold_start(SERVICE, ColdStart(NOW, 20.0))
    assert again.flush()
    assert SqliteHistory(path).cold_starts(SERVICE).p50 == timedelta(seconds=20)
    assert list(path.parent.glob("*.damaged-1"))


def test_a_file_damaged_while_it_is_open_does_not_stop_anything(path):
    history = SqliteHistory(path)
    for number in range(2000):
        history.add_demand(NOW + timedelta(minutes=number), {SERVICE: Demand(1.0)})
    assert history.flush()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    history.add_cold_start(SERVICE, ColdStart(NOW, 20.0))
    history.save(NOW + timedelta(hours=1), {POOL: Account(MONTH, Decimal(3))})
    assert history.flush()
    assert "damaged" in history.problem
    again = SqliteHistory(path)
    assert again.account(POOL).spent == 3
    assert again.cold_starts(SERVICE).p50 == timedelta(seconds=20)


def test_a_folder_that_cannot_be_made_is_reported_and_nothing_stops(tmp_path):
    (tmp_path / "file").write_text("")
    history = SqliteHistory(tmp_path / "file" / "history.db")
    history.add_cold_start(SERVICE, ColdStart(NOW, 20.0))
    history.save(NOW, {})
    assert history.cold_starts(SERVICE).p50 == timedelta(seconds=20)
    assert "cannot be opened" in history.problem
    assert history.flush()
    assert "cannot be opened" in history.problem


def test_a_locked_file_holds_up_nobody_and_is_written_when_it_is_free(path):
    history = SqliteHistory(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.perf_counter()
        history.add_demand(NOW, {SERVICE: Demand(1.0)})
        history.add_cold_start(SERVICE, ColdStart(NOW, 10.0))
        history.save(NOW, {POOL: Account(MONTH, Decimal(3))})
        assert history.account(POOL).spent == 3
        assert time.perf_counter() - started < 0.5
        assert history.flush(30)
        assert "locked" in history.problem
        history.add_demand(NOW, {SERVICE: Demand(3.0)})
        history.save(NOW + timedelta(minutes=1), {POOL: Account(MONTH, Decimal(4))})
        other.execute("ROLLBACK")
    assert history.flush(30)
    assert history.problem is None
    again = SqliteHistory(path)
    assert again.account(POOL).spent == 4
    assert again.cold_starts(SERVICE).samples == 1
    (minute,) = again.minutes(SERVICE, NOW - timedelta(hours=1))
    assert (minute.concurrency, minute.peak) == (2.0, 3.0)


def test_a_file_that_was_locked_at_the_start_is_read_later(path):
    before = SqliteHistory(path)
    before.add_cold_start(SERVICE, ColdStart(NOW, 10.0))
    before.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        history = SqliteHistory(path)
        assert history.cold_starts(SERVICE) is None
        assert "locked" in history.problem
        other.execute("ROLLBACK")
    assert history.flush()
    assert history.cold_starts(SERVICE).samples == 1
    assert history.problem is None


def test_a_value_that_cannot_be_stored_costs_one_row(path):
    history = SqliteHistory(path)
    history.add_demand(NOW, {("a", "b"): Demand(0.0, backlog=10**30), SERVICE: Demand(1.0)})
    for minute in range(2):
        history.save(NOW + timedelta(minutes=minute), {POOL: Account(MONTH, Decimal(3))})
        assert history.flush()
    again = SqliteHistory(path)
    assert again.account(POOL).spent == 3
    assert len(again.minutes(SERVICE, NOW - timedelta(hours=1))) == 1
    assert again.minutes(("a", "b"), NOW - timedelta(hours=1)) == []


FULL = """
import resource, signal, sys
from datetime import datetime, timedelta, UTC
from pathlib import Path
from warmpool.adapters.history import SqliteHistory
from warmpool.domain.observation import Demand
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
now = datetime(2026, 11, 24, 12, tzinfo=UTC)
history = SqliteHistory(Path(sys.argv[1]))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
for minute in range(20_000):
    history.add_demand(now - timedelta(minutes=minute), {("default", "generate"): Demand(1.0)})
history.save(now, {})
history.flush()
print(history.problem)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
history.save(now + timedelta(minutes=2), {})
history.flush()
print(history.problem)
print(len(history.minutes(("default", "generate"), now - timedelta(days=30))))
"""


def test_a_full_disk_is_reported_and_written_later(path):
    """The file-size limit of the process stands in for a full disk: SQLite sees the same failed write."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    error, after, minutes = done.stdout.splitlines()
    assert error.startswith("history cannot be written")
    assert after == "None"
    assert int(minutes) == 20_000


async def test_what_a_pool_has_cost_is_found_again_after_the_history_is_lost(
    knative, cluster, clock, tmp_path
):
    """The status of the pool has it too."""
    knative.service("generate")
    await knative.pool(limits={"budget": {"amount": 400}})
    controller = make_controller(cluster, clock=clock, history=SqliteHistory(tmp_path / "a.db"))
    for _ in range(70):
        await controller.tick()
        knative.settle()
        clock.on(timedelta(minutes=1))
    told = Decimal((await knative.status())["cost"]["toDate"])
    assert told > 1
    fresh = make_controller(cluster, clock=clock, history=SqliteHistory(tmp_path / "b.db"))
    await fresh.tick()
    assert fresh.states["default", "pool"].account.spent >= told


async def test_an_error_of_the_history_is_in_the_status_and_the_floor_holds(
    knative, cluster, clock, tmp_path
):
    (tmp_path / "file").write_text("")
    knative.service("generate")
    await knative.pool(windows=[OFFICE])
    controller = make_controller(cluster, clock=clock, history=SqliteHistory(tmp_path / "file" / "x.db"))
    await controller.tick()
    assert knative.min_scale("generate-00001") == "2"
    degraded = await knative.condition("Degraded")
    assert degraded["status"] == "True"
    assert "history cannot be opened" in degraded["message"]


def test_the_file_is_its_owners_alone_whatever_was_there(path):
    path.parent.mkdir()
    path.touch()
    path.chmod(0o644)
    history = SqliteHistory(path)
    history.add_cold_start(SERVICE, ColdStart(NOW, 10.0))
    assert history.flush()
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize("keep", ["history", "status"])
async def test_a_controller_that_was_away_charges_what_stood_there_meanwhile(
    knative, cluster, clock, tmp_path, keep
):
    """An hour without a controller, with the floor of two on two GPUs, costs two GPU hours."""
    knative.service("generate")
    await knative.pool(limits={"budget": {"amount": 400}})
    history = SqliteHistory(tmp_path / "a.db")
    controller = make_controller(cluster, clock=clock, history=history)
    for _ in range(20):
        await controller.tick()
        knative.settle()
        clock.on(timedelta(minutes=1))
    await controller.tick()
    before = controller.states[POOL].account.spent
    clock.on(timedelta(minutes=1))
    await controller.tick()
    assert history.flush()
    history.close()
    clock.on(timedelta(hours=1))
    kept = SqliteHistory(tmp_path / ("a.db" if keep == "history" else "b.db"))
    fresh = make_controller(cluster, clock=clock, history=kept)
    await fresh.tick()
    hourly = Decimal("0.8048")
    away = fresh.states[POOL].account.spent - before
    assert 2 * hourly * Decimal("0.98") <= away <= 2 * hourly * Decimal("1.05")
