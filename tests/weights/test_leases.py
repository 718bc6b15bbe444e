"""Leases end with their holders, whatever the holders' end."""

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
def keepers(folder):
    """Two, as two processes would have them; a lease lasts a second."""
    pair = [LeaseManager(folder / "scratch", seconds=1.0) for _ in range(2)]
    yield pair
    for keeper in pair:
        keeper.close()


def elsewhere(path, *, age: float) -> None:
    """A lease held on another host, last touched `age` seconds ago."""
    path.write_text(
        json.dumps({"token": "t", "host": "elsewhere", "boot": "b", "pid_namespace": "p", "pid": 1})
    )
    then = time.time() - age
    os.utime(path, (then, then))


def test_one_of_two_gets_it_and_the_other_once_it_is_given_back(folder, keepers):
    one, two = keepers
    path = folder / "lease"
    assert one.acquire(path)
    assert one.acquire(path), "who has it, has it"
    assert not two.acquire(path)
    one.release(path)
    assert two.acquire(path)


def test_a_holder_keeps_it_for_as_long_as_it_lives(folder, keepers):
    one, two = keepers
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


def test_a_dead_process_of_this_host_is_known_at_once(folder):
    path = folder / "lease"
    subprocess.run([sys.executable, "-c", TAKE_AND_DIE, folder / "scratch", path], check=False, timeout=30)
    assert path.exists()
    keeper = LeaseManager(folder / "scratch", seconds=3600)
    assert keeper.acquire(path)
    keeper.close()


def test_another_hosts_lease_holds_until_it_has_run_out(folder, keepers):
    path = folder / "lease"
    elsewhere(path, age=0.0)
    assert not keepers[0].acquire(path)
    elsewhere(path, age=5.0)
    assert keepers[0].acquire(path)


def test_announcements_are_seen_by_others_until_they_end(folder, keepers):
    one, two = keepers
    (folder / "leases").mkdir()
    one.publish(folder / "leases" / "a", ["x", "y"])
    assert list(two.published(folder / "leases")) == [["x", "y"]]
    one.publish(folder / "leases" / "a", ["z"])
    assert list(two.published(folder / "leases")) == [["z"]]
    one.close()
    assert list(two.published(folder / "leases")) == []


def test_dropping_does_not_take_a_successors_lease(folder, keepers):
    one, _ = keepers
    path = folder / "lease"
    one.acquire(path)
    elsewhere(path, age=0.0)  # somebody believed this one dead and took over
    one.release(path)
    assert path.exists()
