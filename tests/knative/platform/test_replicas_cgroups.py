"""Limits where the machine permits control groups: the kernel holds them, and nothing of a group is left."""

import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from knative.client.errors import NotFound
from knative.client.resources import CONFIG_MAP, SERVICE
from knative.local.kubelet import cgroups
from knative.local.kubelet.confinement import Confinements, Mechanism
from knative.local.kubelet.limits import Limits
from knative.local.kubelet.process import Process
from tests.knative.platform.conftest import World, condition, service, until

MIB = 1 << 20
HUNGRY = "held = b'x' * (96 << 20); import time; time.sleep(60)"


@pytest.fixture(scope="module", autouse=True)
def permitted() -> None:
    place = cgroups.find("pilotlight-test-trial")
    if place is None:
        pytest.skip("this machine permits no control groups")
    place.close()


@pytest.fixture
async def confinements(tmp_path: Path) -> AsyncIterator[Confinements]:
    made = Confinements(f"pilotlight-test-{tmp_path.parent.name}-{tmp_path.name}", tmp_path / "cgroups")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def sleeping() -> Iterator[list[subprocess.Popen]]:
    """Processes that are ended with the test."""
    started: list[subprocess.Popen] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def groups_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


async def test_the_kernel_ends_a_container_that_needs_more_memory(world: World):
    body = service(
        "a",
        container={"command": ["python", "-c", HUNGRY], "resources": {"limits": {"memory": "48Mi"}}},
    )
    await world.cluster.create(SERVICE, body)
    found = await world.revision_condition("a-00001", "False", "ContainerHealthy")
    assert found["reason"] == "ExitCode137"
    assert "needed more memory than its limit of 48Mi" in found["message"]
    (pod,) = await world.pods()
    last = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert (last["reason"], last["exitCode"]) == ("OOMKilled", 137)


async def test_a_container_runs_in_a_group_of_its_own_with_its_limits(world: World):
    limits = {"memory": "256Mi", "cpu": "200m"}
    await world.cluster.create(SERVICE, service("a", container={"resources": {"limits": limits}}))
    await world.ready("a")
    (pod,) = await world.pods()
    _, about = await world.call("a")
    name = f"default_{pod['metadata']['name']}_user-container_0"
    assert name in groups_of(about["pid"])
    record = world.platform.config.state_dir / "cgroups"
    place = cgroups.Place.from_json(record.read_text())
    group = place.group(name)
    if place.version == 2:
        assert (group.memory / "memory.max").read_text().strip() == str(256 * MIB)
        assert (group.cpu / "cpu.max").read_text().strip() == "20000 100000"
    else:
        assert (group.memory / "memory.limit_in_bytes").read_text().strip() == str(256 * MIB)
        assert (group.cpu / "cpu.cfs_quota_us").read_text().strip() == "20000"
    await world.cluster.delete(SERVICE, "a", "default")

    async def gone():
        return not group.memory.exists() and not group.cpu.exists()

    await until(gone, what="the group is removed")


async def test_what_left_the_session_ends_with_the_container(world: World):
    body = service("a", env={"CHILD": "1"}, container={"resources": {"limits": {"memory": "256Mi"}}})
    await world.cluster.create(SERVICE, body)
    await world.ready("a")
    _, about = await world.call("a")
    (child,) = psutil.Process(about["pid"]).children()
    await world.cluster.delete(SERVICE, "a", "default")

    async def gone():
        return not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE

    await until(gone, what="its child has ended")


async def test_an_init_container_whose_child_ran_out_has_not_succeeded(world: World):
    meta = {"name": "config-features", "namespace": "knative-serving"}
    with contextlib.suppress(NotFound):
        await world.cluster.delete(CONFIG_MAP, **meta)
    data = {"kubernetes.podspec-init-containers": "enabled"}
    await world.cluster.create(CONFIG_MAP, {"metadata": meta, "data": data})
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HUNGRY!r}])"
    limits = {"resources": {"limits": {"memory": "48Mi"}}}
    initial = {"name": "first", "image": "example.com/x", "command": ["python", "-c", code], **limits}
    await world.cluster.create(SERVICE, service("a", spec={"initContainers": [initial]}))
    found = await world.revision_condition("a-00001", "False", "ContainerHealthy")
    assert found["reason"] == "ExitCode137"
    (pod,) = await world.pods()
    assert condition(pod, "Initialized")["status"] == "False"


async def test_a_container_without_limits_has_no_group(confinements: Confinements):
    assert confinements.mechanism in (Mechanism.CGROUP_1, Mechanism.CGROUP_2)
    assert confinements.make("x", Limits()).before == ()


async def test_one_child_that_runs_out_ends_its_container(confinements: Confinements, tmp_path: Path):
    code = f"import subprocess, sys, time;subprocess.run([sys.executable, '-c', {HUNGRY!r}]); time.sleep(60)"
    confinement = confinements.make("x", Limits(memory_bytes=48 * MIB))
    with (tmp_path / "log").open("wb") as output:
        process = Process.start(
            ["python3", "-c", code],
            env={"PATH": "/usr/bin:/bin:/usr/local/bin"},
            folder=tmp_path,
            output=output.fileno(),
            before=confinement.before,
        )
    confinements.begin(confinement, process)
    assert await process.exited == 137
    said = await confinements.end(confinement)
    assert said == "needed more memory than its limit of 48Mi, and used all of that"


async def test_what_a_crashed_platform_left_is_removed_at_the_next_start(
    confinements: Confinements, tmp_path: Path, sleeping: list[subprocess.Popen]
):
    left = confinements.make("left", Limits(memory_bytes=64 * MIB))
    sleeping.append(subprocess.Popen([*left.before, "sleep", "60"]))

    async def entered():
        return "/left" in groups_of(sleeping[0].pid)

    await until(entered)
    again = Confinements("pilotlight-test-another-name", tmp_path / "cgroups")
    await again.start()
    assert sleeping[0].wait(5) == -9
    assert not left.group.memory.exists()
    await again.stop()
    assert not left.group.memory.parent.exists()
    assert not (tmp_path / "cgroups").exists()
