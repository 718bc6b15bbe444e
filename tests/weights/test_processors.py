"""The processors that a process may use, from files as kernels write them and in a real control group."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from knative.local.kubelet import cgroups
from knative.local.kubelet.limits import ResourceLimits
from weights import processors
from weights.cache.progress import default_concurrency

SEEN = len(os.sched_getaffinity(0))


V2 = "30 1 0:9 / AT rw - cgroup2 cgroup2 rw"
V1 = "31 1 0:8 / AT/memory rw - cgroup cgroup rw,memory\n32 1 0:7 / AT/cpu rw shared:3 - cgroup cgroup rw,cpuacct,cpu"
V1_IN_A_CONTAINER = "32 1 0:7 /docker/abc AT/cpu ro - cgroup cgroup rw,cpu,cpuacct"
HYBRID = f"{V1}\n33 1 0:6 / AT/unified rw - cgroup2 cgroup2 rw"


@pytest.mark.parametrize(
    ("mounts", "groups", "files", "granted"),
    [
        pytest.param(V2, "0::/", {"cpu.max": "50000 100000"}, 0.5, id="a container's own root"),
        pytest.param(V2, "0::/", {"cpu.max": "max 100000"}, None, id="no quota"),
        pytest.param(V2, "0::/", {}, None, id="the root of the machine"),
        pytest.param(
            V2,
            "0::/pods/a",
            {"pods/cpu.max": "30000 100000", "pods/a/cpu.max": "max 100000"},
            0.3,
            id="above",
        ),
        pytest.param(
            V2,
            "0::/pods/a",
            {"pods/cpu.max": "60000 100000", "pods/a/cpu.max": "20000 50000"},
            0.4,
            id="the least",
        ),
        pytest.param(V2, "0::/../b", {"cpu.max": "50000 100000"}, None, id="a group outside what is seen"),
        pytest.param(
            V1,
            "4:memory:/\n3:cpu,cpuacct:/a",
            {"cpu/a/cpu.cfs_quota_us": "25000", "cpu/a/cpu.cfs_period_us": "100000"},
            0.25,
            id="version 1",
        ),
        pytest.param(
            V1_IN_A_CONTAINER,
            "3:cpu,cpuacct:/docker/abc",
            {"cpu/cpu.cfs_quota_us": "75000", "cpu/cpu.cfs_period_us": "100000"},
            0.75,
            id="version 1, the path is the machine's",
        ),
        pytest.param(
            V1_IN_A_CONTAINER,
            "3:cpu,cpuacct:/docker/abc/a",
            {"cpu/a/cpu.cfs_quota_us": "75000", "cpu/a/cpu.cfs_period_us": "100000"},
            0.75,
            id="version 1, below it",
        ),
        pytest.param(
            HYBRID,
            "3:cpu,cpuacct:/\n0::/a",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000", "cpu.max": "1 1"},
            None,
            id="-1 is none",
        ),
        pytest.param(
            HYBRID, "3:memory:/\n0::/a", {"unified/a/cpu.max": "40000 100000"}, 0.4, id="hybrid, by version 2"
        ),
        pytest.param(V2, "0::/", {"cpu.max": "much"}, None, id="not understood"),
        pytest.param("what is this", "0\n:\nalso:not\n0::/x\x85y", {}, None, id="nothing understood"),
        pytest.param(V2, "0::/", {"cpu.max": "99900000 100000"}, None, id="more than there are"),
        pytest.param(None, None, {}, None, id="no groups"),
    ],
)
def test_the_least_quota_counts_and_never_more_than_there_are(tmp_path, mounts, groups, files, granted):
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    if mounts is not None:
        (tmp_path / "cgroup").write_text(groups + "\n")
        (tmp_path / "mountinfo").write_text(mounts.replace("AT", str(mounted)) + "\n")
    for name, text in files.items():
        (mounted / name).parent.mkdir(parents=True, exist_ok=True)
        (mounted / name).write_text(text + "\n")
    assert processors.available(tmp_path) == (SEEN if granted is None else granted)


def test_a_name_may_be_any_bytes(tmp_path):
    (tmp_path / "cgroup").write_bytes(b"0::/\xff\n")
    (tmp_path / "mountinfo").write_text(V2.replace("AT", str(tmp_path)) + "\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert processors.available(tmp_path) == 0.5


def test_in_a_real_group_it_is_the_groups_quota(tmp_path: Path):
    parent = cgroups.find_parent(f"pilotlight-test-{tmp_path.parent.name}-processors")
    if parent is None:
        pytest.skip("this machine permits no control groups")
    try:
        group = parent.make("half", ResourceLimits(memory_bytes=None, cpus=0.5))
        program = "from weights import processors; print(processors.available())"
        said = subprocess.run(
            [*group.wrapper, sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
    finally:
        parent.close()
    assert said.returncode == 0, said.stderr
    assert float(said.stdout) == 0.5


@pytest.mark.parametrize(("granted", "reads"), [(0.5, 16), (2.0, 16), (3.5, 28), (64.0, 64)])
def test_ranged_reads_are_as_many_as_the_processors_granted_can_serve(monkeypatch, granted, reads):
    monkeypatch.setattr(processors, "available", lambda: granted)
    assert default_concurrency() == reads
