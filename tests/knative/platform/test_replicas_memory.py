"""The memory of a container is that of all its processes."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from knative.local.kubelet import memory_usage

MIB = 1 << 20
FAMILY = f"""
import os, sys, time
held = b"x" * {64 * MIB}
if os.fork() == 0:
    os.setsid()
    more = b"y" * {32 * MIB}
    print(os.getpid(), flush=True); time.sleep(60)
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


def test_children_count_and_shared_pages_count_once(family: tuple[int, int]):
    root, _ = family
    (used,) = memory_usage.sample([root]).values()
    assert 96 * MIB < used < 128 * MIB
    (quick,) = memory_usage.sample([root], exact=False).values()
    assert quick > used + 60 * MIB


def test_each_container_has_its_own_memory_and_one_that_is_gone_has_none(family: tuple[int, int]):
    root, child = family
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], start_new_session=True, stdin=subprocess.PIPE
    ) as other:
        both = memory_usage.sample([root, other.pid])
        assert both[root] > 90 * MIB > both[other.pid]
        other.kill()
    assert memory_usage.sample([other.pid]) == {}
    os.kill(child, signal.SIGKILL)
    os.kill(root, signal.SIGKILL)
    os.waitid(os.P_PID, root, os.WEXITED | os.WNOWAIT)
    assert memory_usage.sample([root]) == {}  # a zombie has ended


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
        found = [memory_usage.sample([reader.pid], exact=exact)[reader.pid] for exact in (True, False)]
        reader.kill()
    assert [used < 48 * MIB for used in found] == [True, True]
