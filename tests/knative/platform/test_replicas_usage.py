"""What replicas use is counted over all their processes."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from knative.local.kubelet import usage

MIB = 1 << 20
FAMILY = f"""
import os, sys, time
held = b"x" * {64 * MIB}
def busy(seconds):
    while time.process_time() < seconds:
        pass
if os.fork() == 0:  # ends at once: its time is its parent's from then on
    busy(0.2); os._exit(0)
os.wait()
if os.fork() == 0:
    os.setsid()
    more = b"y" * {32 * MIB}
    busy(0.1); print(os.getpid(), flush=True); time.sleep(60)
busy(0.1)
time.sleep(60)
"""


@pytest.fixture
def family() -> Iterator[tuple[int, int]]:
    """A process that holds 64 MiB, and its child in a session of its own that holds 32 MiB more."""
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY], start_new_session=True, stdout=subprocess.PIPE
    ) as root:
        child = int(root.stdout.readline())
        yield root.pid, child
        root.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_children_count_and_pages_they_share_count_once(family: tuple[int, int]):
    root, _ = family
    used = usage.of(root)
    assert 96 * MIB < used.memory_bytes < 128 * MIB
    assert used.cpu_s >= 0.35  # of the living, and of the child that has ended
    (quick,) = usage.sample([root], exact=False).values()
    assert quick.memory_bytes > used.memory_bytes + 60 * MIB


def test_each_replica_gets_its_own_and_one_that_is_gone_none(family: tuple[int, int]):
    root, child = family
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], start_new_session=True, stdin=subprocess.PIPE
    ) as other:
        both = usage.sample([root, other.pid])
        assert both[root].memory_bytes > 90 * MIB > both[other.pid].memory_bytes
        other.kill()
    assert usage.of(other.pid) is None
    os.kill(child, signal.SIGKILL)
    os.kill(root, signal.SIGKILL)
    os.waitid(os.P_PID, root, os.WEXITED | os.WNOWAIT)
    assert usage.of(root) is None  # a zombie is gone


def test_mapped_files_do_not_count(tmp_path: Path):
    big = tmp_path / "weights"
    with big.open("wb") as file:
        file.truncate(96 * MIB)
    reads = (
        "import mmap, sys; file = open(sys.argv[1], 'rb');"
        "held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); sum(held[::4096]); print('read'); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-uc", reads, str(big)],
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as reader:
        assert reader.stdout.readline() == b"read\n"
        found = [*usage.sample([reader.pid]).values(), *usage.sample([reader.pid], exact=False).values()]
        reader.kill()
    assert [used.memory_bytes < 48 * MIB for used in found] == [True, True]
