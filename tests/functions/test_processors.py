"""How many processors a process may use, by files as kernels write them and in a real group."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from functions.engines.vllm import processors
from knative.local.replicas import cgroups
from knative.local.replicas.limits import Limits

SEEN = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("groups", "files", "granted"),
    [
        pytest.param("0::/", {"cpu.max": "50000 100000"}, 0.5, id="a container's own root"),
        pytest.param("0::/", {"cpu.max": "max 100000"}, None, id="no quota"),
        pytest.param("0::/", {}, None, id="the root of the machine"),
        pytest.param(
            "0::/pods/a", {"pods/cpu.max": "30000 100000", "pods/a/cpu.max": "max 100000"}, 0.3, id="above"
        ),
        pytest.param(
            "0::/pods/a",
            {"pods/cpu.max": "60000 100000", "pods/a/cpu.max": "20000 50000"},
            0.4,
            id="the least",
        ),
        pytest.param(
            "4:memory:/\n3:cpu,cpuacct:/a",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "25000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            0.25,
            id="version 1",
        ),
        pytest.param(
            "3:cpu:/kubepods/a\n0::/",
            {"cpu/cpu.cfs_quota_us": "75000", "cpu/cpu.cfs_period_us": "100000"},
            0.75,
            id="version 1, the path is the host's",
        ),
        pytest.param(
            "3:cpu:/",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            None,
            id="-1 is none",
        ),
        pytest.param("0::/", {"cpu.max": "much"}, None, id="not understood"),
        pytest.param("0::/", {"cpu.max": "99900000 100000"}, None, id="more than there are"),
        pytest.param(None, {}, None, id="no groups"),
    ],
)
def test_the_least_quota_counts_and_never_more_than_there_are(tmp_path, groups, files, granted):
    if groups is not None:
        (tmp_path / "cgroup").write_text(groups + "\n")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for name, text in files.items():
        (mounted / name).parent.mkdir(parents=True, exist_ok=True)
        (mounted / name).write_text(text + "\n")
    assert processors.available(tmp_path / "cgroup", mounted) == (SEEN if granted is None else granted)


def test_in_a_real_group_it_is_the_groups_quota(tmp_path: Path):
    place = cgroups.find(f"pilotlight-test-{tmp_path.parent.name}-processors")
    if place is None:
        pytest.skip("this machine permits no control groups")
    try:
        group = place.make("half", Limits(memory_bytes=None, cpus=0.5))
        program = "from functions.engines.vllm import processors; print(processors.available())"
        said = subprocess.run(
            [*group.before, sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
    finally:
        place.close()
    assert float(said.stdout) == 0.5
