"""Limits where the machine permits no control groups: memory is sampled, a CPU limit is warned of."""

import re
from pathlib import Path

import pytest

from knative.client.cluster import Cluster
from knative.client.resources import EVENT, SERVICE
from knative.local.kubelet import limits
from knative.local.kubelet.cgroups import Cgroup
from knative.local.kubelet.limits import ResourceLimits
from tests.knative.platform.conftest import LocalCluster, service, until

PLATFORM = {"cgroups": False}
HUNGRY = "import time; held = b'x' * (96 << 20); time.sleep(60)"


def hungry(limit: str, **container) -> dict:
    resources = {"resources": {"limits": {"memory": limit}}}
    return service("a", container={"command": ["python", "-c", HUNGRY], **resources, **container})


async def mechanisms(local: LocalCluster) -> dict[str, str]:
    """What enforces the limit of each resource, from the metrics."""
    async with local.http.get(f"{local.platform.api_url}/metrics") as answer:
        text = await answer.text()
    found = re.findall(r'pilotlight_limits\{mechanism="([\w-]+)",resource="(\w+)"\} 1.0', text)
    return {resource: mechanism for mechanism, resource in found}


async def killed_for_memory(local: LocalCluster, limit: str) -> dict:
    """The container's status after it was killed for its memory."""
    await local.cluster.create(SERVICE, hungry(limit))

    async def ended():
        for pod in await local.pods():
            (state,) = pod["status"].get("containerStatuses") or [{}]
            last = (state.get("lastState") or {}).get("terminated") or {}
            if last.get("reason") == "OOMKilled" and state["restartCount"]:
                return state
        return None

    return await until(ended, what="killed for its memory")


async def test_a_container_over_its_memory_limit_is_killed_and_starts_again(local: LocalCluster):
    assert (await mechanisms(local)) == {"memory": "sampling", "cpu": "none"}
    state = await killed_for_memory(local, "64Mi")
    last = state["lastState"]["terminated"]
    assert last["exitCode"] == 137
    assert last["message"].startswith("used 1")
    assert "Mi of memory, over its limit of 64Mi" in last["message"]
    found = await local.revision_condition("a-00001", "False", "ContainerHealthy")
    assert found["reason"] == "ExitCode137"
    assert "over its limit of 64Mi" in found["message"]
    events = await local.cluster.list(EVENT, "default")
    assert any(
        event["reason"] == "OOMKilled" and "user-container used" in event["message"] for event in events
    )


async def test_the_memory_of_child_processes_counts(local: LocalCluster):
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HUNGRY!r}])"
    body = hungry("64Mi", command=["python", "-c", command])
    await local.cluster.create(SERVICE, body)
    found = await local.revision_condition("a-00001", "False", "ContainerHealthy")
    assert "over its limit of 64Mi" in found["message"]


async def test_a_cpu_limit_that_is_not_enforced_is_warned_of(local: LocalCluster):
    warnings: list[str] = []
    body = service("a", container={"resources": {"limits": {"cpu": "500m"}}})
    async with Cluster.from_kubeconfig(local.platform.kubeconfig, on_warning=warnings.append) as cluster:
        await cluster.create(SERVICE, body)
    (text,) = warnings
    assert "limits.cpu of user-container is not enforced: this machine permits no control groups" in text


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, ResourceLimits()),
        ({"limits": {"memory": "1Gi", "cpu": "1500m"}}, ResourceLimits(1 << 30, 1.5)),
        ({"limits": {"memory": "0", "nvidia.com/gpu": "1"}}, ResourceLimits()),
        ({"requests": {"memory": "1Gi"}}, ResourceLimits()),
        ({"limits": {"memory": 1000000}}, ResourceLimits(1000000)),
    ],
)
def test_limits_are_read_as_quantities(resources, expected):
    assert limits.of({"resources": resources}) == expected


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([{}], "BestEffort"),
        ([{"limits": {"nvidia.com/gpu": "1"}}], "BestEffort"),
        ([{"limits": {"memory": "1Gi", "cpu": "1"}}], "Guaranteed"),
        ([{"limits": {"memory": "1Gi", "cpu": "1"}, "requests": {"memory": "1024Mi"}}], "Guaranteed"),
        ([{"limits": {"memory": "1Gi", "cpu": "1"}, "requests": {"memory": "1Mi"}}], "Burstable"),
        ([{"limits": {"memory": "1Gi", "cpu": "1"}}, {}], "Burstable"),
        ([{"requests": {"cpu": "100m"}}], "Burstable"),
    ],
)
def test_the_qos_class_is_that_of_kubernetes(resources, expected):
    assert limits.qos_class({"containers": [{"resources": item} for item in resources]}) == expected


def test_bytes_are_printed_with_binary_units():
    assert [limits.format_bytes(size) for size in (900, 64 << 20, 1536 << 20)] == ["900", "64Mi", "1.5Gi"]


def test_limits_are_written_as_version_2_reads_them(tmp_path: Path):
    for name in ("memory.max", "memory.oom.group", "memory.swap.max", "cpu.max"):
        (tmp_path / name).touch()
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 1\n")
    group = Cgroup(tmp_path, tmp_path, version=2)
    group.limit(ResourceLimits(memory_bytes=64 << 20, cpus=0.25))
    written = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != "memory.events"}
    assert written == {
        "memory.max": "67108864",
        "memory.oom.group": "1",
        "memory.swap.max": "0",
        "cpu.max": "25000 100000",
    }
    assert group.was_oom_killed()
    assert group.folders == (tmp_path,)
