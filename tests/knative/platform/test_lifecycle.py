"""Start, stop, crash and restart of the platform: nothing half-started, lost or left running."""

import asyncio
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import aiohttp
import psutil
import pytest

from knative.client.cluster import Cluster
from knative.client.errors import Unavailable
from knative.client.resources import NAMESPACE, SERVICE
from knative.local.kubelet.process import PLATFORM_VARIABLE
from knative.local.platform.config import PlatformConfig, PlatformError
from knative.local.platform.listeners import has_ipv6
from knative.local.platform.platform import Platform
from tests.knative.platform.conftest import LocalCluster, condition, processes_of, service, until

UP = Path(__file__).with_name("up.py")


async def pid_of(local: LocalCluster, name: str = "a") -> int:
    return int((await local.call(name))[1]["pid"])


async def test_a_stop_does_not_wait_for_a_pod_that_has_long_to_terminate(config: PlatformConfig):
    async with (
        Platform(replace(config, stop_grace_s=0.5)) as platform,
        Cluster.from_kubeconfig(platform.kubeconfig) as cluster,
        aiohttp.ClientSession() as http,
    ):
        local = LocalCluster(platform, cluster, http)
        await cluster.create(SERVICE, service("a", env={"IGNORE_TERM": "1"}, spec={"timeoutSeconds": 120}))
        await local.ready("a")
        await cluster.delete(SERVICE, "a", "default")

        async def terminating():
            return not await local.pods()

        await until(terminating)
        begun = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begun < 30


async def test_after_a_stop_no_process_no_port_and_no_kubeconfig_is_left(config: PlatformConfig):
    platform = Platform(config)
    await platform.start()
    async with Cluster.from_kubeconfig(platform.kubeconfig) as cluster, aiohttp.ClientSession() as http:
        local = LocalCluster(platform, cluster, http)
        await cluster.create(SERVICE, service("a", env={"CHILD": "1", "IGNORE_TERM": "1"}))
        await local.ready("a")
        mark = psutil.Process(await pid_of(local)).environ()[PLATFORM_VARIABLE]
        assert len(processes_of(mark)) >= 2  # the child, in a session of its own, too
    await platform.stop()
    assert processes_of(mark) == []
    assert not platform.kubeconfig.exists()
    for url in (platform.gateway_url, platform.api_url):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0


@pytest.mark.parametrize("which", ["gateway", "api"])
async def test_a_port_in_use_is_named_and_nothing_is_started(config: PlatformConfig, which):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        bad = replace(config, **{f"{which}_port": port})
        what = "gateway" if which == "gateway" else "API"
        with pytest.raises(
            PlatformError, match=f"127.0.0.1:{port} for the {what}.*choose another {what} port"
        ):
            await Platform(bad).start()
    assert not (config.state_dir / "kubeconfig").exists()
    async with Platform(config):  # the folder is free again
        pass


async def test_a_second_platform_on_the_same_folder_is_refused(config: PlatformConfig):
    async with Platform(config):
        with pytest.raises(PlatformError, match=r"in use by the platform with process id \d+"):
            await Platform(config).start()


async def test_a_folder_that_cannot_be_written_is_named(config: PlatformConfig, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PlatformError, match="cannot use the state folder"):
        await Platform(replace(config, state_dir=tmp_path / "file" / "state")).start()


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o700])
async def test_only_the_owner_can_read_the_state_folder_whatever_its_permissions_were(config, mode):
    config.state_dir.mkdir()
    old = config.state_dir / "warmpool.db"
    old.write_text("")
    old.chmod(0o644)
    config.state_dir.chmod(mode)
    async with Platform(config) as platform:
        assert {mode_of(config.state_dir), mode_of(platform.logs)} == {0o700}
        secret = ("state.db", "state.db-wal", "warmpool.db", "kubeconfig")
        assert {mode_of(config.state_dir / name) for name in secret} == {0o600}


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_a_folder_that_all_users_share_is_refused_and_left_alone(config: PlatformConfig):
    config.state_dir.mkdir()
    config.state_dir.chmod(0o1777)
    with pytest.raises(PlatformError, match="all users share it"):
        await Platform(config).start()
    assert config.state_dir.stat().st_mode & 0o1777 == 0o1777


async def test_gateway_and_api_answer_on_both_loopback_addresses(config: PlatformConfig):
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback address")
    async with Platform(config) as platform, aiohttp.ClientSession() as http:
        for url, path in ((platform.gateway_url, "/healthz"), (platform.api_url, "/livez")):
            for host in ("127.0.0.1", "[::1]", "localhost"):
                async with http.get(url.replace("127.0.0.1", host) + path) as answer:
                    assert answer.status == 200


async def test_a_port_that_is_taken_on_one_loopback_address_is_named(config: PlatformConfig):
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback address")
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PlatformError, match=rf"\[::1\]:{port} for the gateway"):
            await Platform(replace(config, gateway_port=port)).start()


async def test_a_damaged_store_is_named_and_nothing_is_started(config: PlatformConfig):
    config.state_dir.mkdir()
    (config.state_dir / "state.db").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(PlatformError, match=r"state\.db"):
        await Platform(config).start()


async def test_services_come_back_after_a_restart_at_zero_or_at_their_floor(config: PlatformConfig):
    async with Platform(config) as platform, Cluster.from_kubeconfig(platform.kubeconfig) as cluster:
        local = LocalCluster(platform, cluster, None)
        await cluster.create(SERVICE, service("zero"))
        await cluster.create(SERVICE, service("warm", scale={"min-scale": "2"}))
        await local.ready("zero")
        await local.ready_pods(2, "warm-00001")
    async with (
        Platform(config) as platform,
        Cluster.from_kubeconfig(platform.kubeconfig) as cluster,
        aiohttp.ClientSession() as http,
    ):
        local = LocalCluster(platform, cluster, http)
        await local.ready_pods(2, "warm-00001")
        assert await local.pods("zero-00001") == []
        assert (await local.ready("zero"))["status"]["latestReadyRevisionName"] == "zero-00001"
        assert (await local.call("zero"))[0] == 200


async def start_platform(state: Path) -> tuple[asyncio.subprocess.Process, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(UP), str(state), "0", "0", "2", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().split()
    assert len(line) == 2
    return process, line[0], line[1]


async def test_a_killed_platform_loses_no_acknowledged_write_and_leaks_no_process(tmp_path: Path):
    state = tmp_path / "state"
    process, gateway, _ = await start_platform(state)
    try:
        async with Cluster.from_kubeconfig(state / "kubeconfig") as cluster, aiohttp.ClientSession() as http:
            await cluster.create(SERVICE, service("a", env={"CHILD": "1"}, scale={"min-scale": "1"}))

            async def answers():
                async with http.get(f"{gateway}/default/a/") as answer:
                    return answer.status == 200 and await answer.json()

            pid = (await until(answers))["pid"]
            mark = psutil.Process(pid).environ()[PLATFORM_VARIABLE]
            acknowledged = []

            async def write() -> None:
                number = 0
                while True:
                    name = f"n{number}"
                    await cluster.create(NAMESPACE, {"metadata": {"name": name}})
                    acknowledged.append(name)
                    number += 1

            writing = asyncio.create_task(write())

            async def some():
                return len(acknowledged) > 20

            await until(some)
            process.send_signal(signal.SIGKILL)
            with pytest.raises(Unavailable):
                await writing
        await process.wait()

        async def main_process_gone():
            return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

        await until(main_process_gone, what="the replica dies with its platform")
        process, gateway, _ = await start_platform(state)
        async with Cluster.from_kubeconfig(state / "kubeconfig") as cluster, aiohttp.ClientSession() as http:
            names = {item["metadata"]["name"] for item in await cluster.list(NAMESPACE)}
            assert set(acknowledged) <= names
            local = LocalCluster(None, cluster, http)
            (pod,) = await local.ready_pods(1, "a-00001")
            assert condition(pod)["status"] == "True"
            # Of the old replica nothing is left, its child in another session included: one replica, one child.
            assert len(processes_of(mark)) == 2
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert processes_of(mark) == []
