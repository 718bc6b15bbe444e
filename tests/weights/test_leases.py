"""Leases end with their holders, however the holders end."""

import json
import os
import subprocess
import sys
import time

import pytest

from weights.cache.leases import LeaseManager


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scratch").mkdir()
    return tmp_path


@pytest.fixture
def managers(folder):
    """The managers of two processes; a lease expires after a second."""
    pair = [LeaseManager(folder / "scratch", seconds=1.0) for _ in range(2)]
    yield pair
    for manager in pair:
        manager.close()


def elsewhere(path, *, age: float) -> None:
    """A lease held on another host, last touched `age` seconds ago."""
    path.write_text(
        json.dumps({"token": "t", "host": "elsewhere", "boot": "b", "pid_namespace": "p", "pid": 1})
    )
    then = time.time() - age
    os.utime(path, (then, then))


def test_only_one_process_holds_a_lease_until_it_is_released(folder, managers):
    one, two = managers
    path = folder / "lease"
    assert one.acquire(path)
    assert one.acquire(path), "the holder may acquire it again"
    assert not two.acquire(path)
    one.release(path)
    assert two.acquire(path)


def test_a_live_holder_keeps_its_lease_beyond_its_term(folder, managers):
    one, two = managers
    path = folder / "lease"
    one.acquire(path)
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        assert not two.acquire(path)
        time.sleep(0.1)


TAKE_AND_DIE = """
import os, sys
from pathlib import Path
from weights.cache.leases import LeaseManager
LeaseManager(Path(sys.argv[1])).acquire(Path(sys.argv[2]))
os._exit(1)
"""


def test_the_lease_of_a_dead_process_on_this_host_has_expired_at_once(folder):
    path = folder / "lease"
    subprocess.run([sys.executable, "-c", TAKE_AND_DIE, folder / "scratch", path], check=False, timeout=30)
    assert path.exists()
    manager = LeaseManager(folder / "scratch", seconds=3600)
    assert manager.acquire(path)
    manager.close()


def test_another_hosts_lease_is_respected_until_it_expires(folder, managers):
    path = folder / "lease"
    elsewhere(path, age=0.0)
    assert not managers[0].acquire(path)
    elsewhere(path, age=5.0)
    assert managers[0].acquire(path)


def test_published_contents_are_read_by_others_until_the_lease_is_released(folder, managers):
    one, two = managers
    (folder / "leases").mkdir()
    one.publish(folder / "leases" / "a", ["x", "y"])
    assert list(two.published(folder / "leases")) == [["x", "y"]]
    one.publish(folder / "leases" / "a", ["z"])
    assert list(two.published(folder / "leases")) == [["z"]]
    one.close()
    assert list(two.published(folder / "leases")) == []


def test_releasing_leaves_the_lease_of_a_successor_alone(folder, managers):
    one, _ = managers
    path = folder / "lease"
    one.acquire(path)
    elsewhere(path, age=0.0)  # another process believed this one dead and took over
    one.release(path)
    assert path.exists()
