"""Replicas forked from a process that has imported their module cannot be told from those started by `exec`."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from knative import env_vars
from knative.client.resources import CONFIG_MAP, POD, SERVICE
from knative.local import forkserver
from knative.local.kubelet import mount_namespace
from knative.local.kubelet.preimported import Preimported
from tests.knative.platform.conftest import LocalCluster, service, until

MODULE = "preimported_probe"
_OF_SERVICE = ("SERVICE", "REVISION", "CONFIGURATION")
HERE = Path(__file__).parent
PLATFORM = {"workdir": HERE, "preimported": Preimported(MODULE, ("uuid", "random", "http.server", "ssl"))}


def probe(name: str, **options: Any) -> dict:
    env = [{"name": key, "value": value} for key, value in (options.pop("env", None) or {}).items()]
    container = {"command": ["python", "-m", MODULE, name], "env": env, **options.pop("container", {})}
    return service(name, container=container, **options)


async def facts(local: LocalCluster, name: str, **options: Any) -> dict[str, Any]:
    await local.cluster.create(SERVICE, probe(name, **options))
    await local.ready(name)
    _, found = await local.call(name, "/facts")
    return found


def is_forked(found: dict[str, Any]) -> bool:
    # What the kernel shows as its environment is the forkserver's.
    return "K_SERVICE=" not in found["inherited"]


def the_forkserver() -> psutil.Process | None:
    """This platform's: unlike the replicas forked from it, it reads from a socket."""
    for process in psutil.Process().children():
        held = Path(f"/proc/{process.pid}/fd/0").readlink().name
        if forkserver.__name__ in process.cmdline() and held.startswith("socket:"):
            return process
    return None


@pytest.fixture
async def forking(local: LocalCluster) -> LocalCluster:
    """A platform that forks: its first replica, started by `exec`, made it begin to."""
    await facts(local, "first")

    async def one_is_forked() -> bool:
        _, found = await local.call("first", "/facts")
        if is_forked(found):
            return True
        for pod in await local.pods():
            await local.cluster.delete(POD, pod["metadata"]["name"], "default")
        await until(lambda: other_than(local, found["pid"]), what="another replica")
        return False

    await until(one_is_forked, what="a replica is forked")
    return local


async def other_than(local: LocalCluster, pid: int) -> bool:
    status, found = await local.call("first", "/facts")
    return status == 200 and found["pid"] != pid


async def test_a_forked_replica_is_given_what_one_started_by_exec_is(forking: LocalCluster):
    await forking.cluster.create(
        CONFIG_MAP, {"metadata": {"name": "g", "namespace": "default"}, "data": {"greeting": "hello"}}
    )
    container = {"resources": {"limits": {"memory": "256Mi"}}}
    spec: dict[str, Any] = {}
    if mount_namespace.permits_mounts() and os.geteuid() == 0:
        container["volumeMounts"] = [{"name": "v", "mountPath": "/data"}]
        spec = {"volumes": [{"name": "v", "configMap": {"name": "g"}}]}
    same = {"container": container, "spec": spec, "env": {"SECRET": "of a"}}
    # A variable that Python reads at its start has it started by `exec`.
    executed = await facts(forking, "c", **{**same, "env": {"SECRET": "of a", "PYTHONNODEBUGRANGES": "1"}})
    forked = await facts(forking, "b", **same)
    assert (is_forked(executed), is_forked(forked)) == (False, True)
    for found, name in ((executed, "c"), (forked, "b")):
        found["given"]["env"].pop("PYTHONNODEBUGRANGES", None)
        assert found["given"]["argv"][1:] == [name]
        found["given"]["argv"].pop()
        found["given"]["descriptors"]["1"] = found["given"]["descriptors"]["2"] = "its log"
        for variable in (
            "PORT",
            "HOSTNAME",
            env_vars.TERMINATION_LOG,
            *(f"K_{name}" for name in _OF_SERVICE),
        ):
            found["given"]["env"].pop(variable, None)
        assert found["thread"] == found["pid"]
        assert found["command"].removesuffix("\0").split("\0")[1:] == ["-m", MODULE, name]
    assert forked["given"].pop("env") == executed["given"].pop("env")
    assert forked["given"] == executed["given"]
    assert forked["given"]["mounts"] == ("hello" if spec else None)
    assert [number for number, _ in forked["open"]] == [number for number, _ in executed["open"]]
    assert forked["cgroup"].replace("default_b", "default_c").count("_user-container_0") == executed[
        "cgroup"
    ].count("_user-container_0")


async def test_nothing_of_one_replica_reaches_another(forking: LocalCluster):
    one = await facts(forking, "one", env={"SECRET": "hidden-in-one"})
    two = await facts(forking, "two")
    assert is_forked(one)
    assert is_forked(two)
    assert not set(one["random"]) & set(two["random"])
    assert "hidden-in-one" not in two["inherited"] + one["inherited"] + one["command"]
    assert "SECRET" not in two["given"]["env"]
    server = the_forkserver()
    assert server is not None
    assert b"hidden-in-one" not in memory_of(server.pid)


def memory_of(pid: int) -> bytes:
    """All that a process has written into its memory."""
    parts = []
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if rights.startswith("rw") and "[vvar" not in line:
                begin, end = (int(text, 16) for text in span.split("-"))
                memory.seek(begin)
                parts.append(memory.read(end - begin))
    return b"".join(parts)


async def test_exit_codes_logs_and_a_drain_are_as_before(forking: LocalCluster):
    await forking.cluster.create(SERVICE, probe("e", env={"EXIT_CODE": "3"}))
    found = await forking.revision_condition("e-00001", "False", "ContainerHealthy")
    assert found["reason"] == "ExitCode3"
    assert "last words" in found["message"]
    about = await facts(forking, "d")
    assert is_forked(about)
    (pod,) = await forking.pods("d-00001")
    log = forking.platform.config.state_dir / "logs" / "default" / f"{pod['metadata']['name']}.log"
    os.kill(about["pid"], signal.SIGKILL)

    async def again() -> dict[str, Any] | None:
        status, now = await forking.call("d", "/facts")
        return now if status == 200 and now["pid"] != about["pid"] else None

    now = await until(again, what="restarted")
    assert is_forked(now)
    await forking.cluster.delete(SERVICE, "d", "default")
    await until(lambda: asyncio.to_thread(lambda: not psutil.pid_exists(now["pid"])), what="ended")
    assert log.read_text().splitlines() == ["serving", "serving", "told to stop"]


async def test_a_forked_replica_is_killed_at_its_memory_limit(forking: LocalCluster):
    await facts(forking, "h", container={"resources": {"limits": {"memory": "96Mi"}}})
    await forking.call("h", "/hungry")

    async def killed() -> bool:
        (pod,) = await forking.pods("h-00001")
        last = pod["status"]["containerStatuses"][0].get("lastState", {}).get("terminated", {})
        return (last.get("reason"), last.get("exitCode")) == ("OOMKilled", 137)

    await until(killed, what="killed for its memory")


async def test_a_forkserver_that_dies_takes_no_replica_with_it(forking: LocalCluster):
    before = await facts(forking, "k")
    assert is_forked(before)
    server = the_forkserver()
    assert server is not None
    server.kill()
    after = await facts(forking, "l")
    assert not is_forked(after)
    _, still = await forking.call("k", "/facts")
    assert still["pid"] == before["pid"]
