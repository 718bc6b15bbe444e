"""Limits where the machine permits control groups: the kernel enforces them, and no group is left behind."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from knative.client.resources import SERVICE
from knative.local.kubelet import cgroups
from knative.local.kubelet.limit_enforcer import LimitEnforcer, LimitMechanism
from knative.local.kubelet.limits import ResourceLimits
from knative.local.kubelet.process import Process
from tests.knative.platform.conftest import LocalCluster, service, until

MIB = 1 << 20
HUNGRY = "held = b'x' * (96 << 20); import time; time.sleep(60)"


@pytest.fixture(scope="module", autouse=True)
def permitted() -> None:
    parent = cgroups.find_parent("pilotlight-test-trial")
    if parent is None:
        pytest.skip("this machine permits no control groups")
    parent.close()


@pytest.fixture
async def enforcer(tmp_path: Path) -> AsyncIterator[LimitEnforcer]:
    made = LimitEnforcer(f"pilotlight-test-{tmp_path.parent.name}-{tmp_path.name}", tmp_path / "cgroups")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen]]:
    """Processes that are killed when the test ends."""
    started: list[subprocess.Popen] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def groups_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


async def test_the_kernel_kills_a_container_that_exceeds_its_memory_limit(local: LocalCluster):
    body = service(
        "a",
        container={"command": ["python", "-c", HUNGRY], "resources": {"limits": {"memory": "48Mi"}}},
    )
    await local.cluster.create(SERVICE, body)
    found = await local.revision_condition("a-00001", "False", "ContainerHealthy")
    assert found["reason"] == "ExitCode137"
    assert "needed more memory than its limit of 48Mi" in found["message"]
    (pod,) = await local.pods()
    last = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert (last["reason"], last["exitCode"]) == ("OOMKilled", 137)


async def test_a_container_runs_in_a_group_of_its_own_with_its_limits(local: LocalCluster):
    limits = {"memory": "256Mi", "cpu": "200m"}
    await local.cluster.create(SERVICE, service("a", container={"resources": {"limits": limits}}))
    await local.ready("a")
    (pod,) = await local.pods()
    _, about = await local.call("a")
    name = f"default_{pod['metadata']['name']}_user-container_0"
    assert name in groups_of(about["pid"])
    record = local.platform.config.state_dir / "cgroups"
    parent = cgroups.CgroupParent.from_json(record.read_text())
    group = parent.group(name)
    if parent.version == 2:
        assert (group.memory / "memory.max").read_text().strip() == str(256 * MIB)
        assert (group.cpu / "cpu.max").read_text().strip() == "20000 100000"
    else:
        assert (group.memory / "memory.limit_in_bytes").read_text().strip() == str(256 * MIB)
        assert (group.cpu / "cpu.cfs_quota_us").read_text().strip() == "20000"
    await local.cluster.delete(SERVICE, "a", "default")

    async def gone():
        return not group.memory.exists() and not group.cpu.exists()

    await until(gone, what="the group is removed")


async def test_a_process_in_another_session_ends_with_its_container(local: LocalCluster):
    body = service("a", env={"CHILD": "1"}, container={"resources": {"limits": {"memory": "256Mi"}}})
    await local.cluster.create(SERVICE, body)
    await local.ready("a")
    _, about = await local.call("a")
    (child,) = psutil.Process(about["pid"]).children()
    await local.cluster.delete(SERVICE, "a", "default")

    async def gone():
        return not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE

    await until(gone, what="its child has ended")


async def test_a_container_without_limits_has_no_group(enforcer: LimitEnforcer):
    assert enforcer.mechanism in (LimitMechanism.CGROUP_V1, LimitMechanism.CGROUP_V2)
    assert enforcer.make("x", ResourceLimits()).wrapper == ()


async def test_a_container_ends_when_the_kernel_has_killed_one_of_its_children(
    enforcer: LimitEnforcer, tmp_path: Path
):
    code = f"import subprocess, sys, time;subprocess.run([sys.executable, '-c', {HUNGRY!r}]); time.sleep(60)"
    enforced = enforcer.make("x", ResourceLimits(memory_bytes=48 * MIB))
    with (tmp_path / "log").open("wb") as output:
        process = Process.start(
            ["python3", "-c", code],
            env={"PATH": "/usr/bin:/bin:/usr/local/bin"},
            folder=tmp_path,
            output=output.fileno(),
            wrapper=enforced.wrapper,
        )
    enforcer.begin(enforced, process)
    assert await process.exited == 137
    assert await enforcer.end(enforced) == "needed more memory than its limit of 48Mi, and used all of that"


async def test_groups_of_a_crashed_platform_are_removed_at_the_next_start(
    enforcer: LimitEnforcer, tmp_path: Path, sleepers: list[subprocess.Popen]
):
    left = enforcer.make("left", ResourceLimits(memory_bytes=64 * MIB))
    sleepers.append(subprocess.Popen([*left.wrapper, "sleep", "60"]))

    async def entered():
        return "/left" in groups_of(sleepers[0].pid)

    await until(entered)
    again = LimitEnforcer("pilotlight-test-another-name", tmp_path / "cgroups")
    await again.start()
    assert sleepers[0].wait(5) == -9
    assert not left.group.memory.exists()
    await again.stop()
    assert not left.group.memory.parent.exists()
    assert not (tmp_path / "cgroups").exists()
