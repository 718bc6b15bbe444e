"""Random kills of replicas and of the platform under load: nothing acknowledged is lost, nothing hangs.

Eight seconds by default; `PILOTLIGHT_CHAOS_SECONDS=120` makes it two minutes.
"""

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp
import psutil
import pytest

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.client.resources import CONFIG_MAP, SERVICE
from knative.local.apiserver.store import Store
from tests.knative.platform.conftest import LocalCluster, processes_of, service, until

pytestmark = pytest.mark.clock

UP = Path(__file__).with_name("up.py")
SECONDS = float(os.environ.get("PILOTLIGHT_CHAOS_SECONDS", "8"))
HANGS_AFTER_S = 20.0


class Chaos:
    """A platform that is killed repeatedly, and clients that record the responses."""

    def __init__(self, state: Path, gateway: int, api: int) -> None:
        self.state = state
        self.ports = (str(gateway), str(api))
        self.gateway = f"http://127.0.0.1:{gateway}"
        self.process: asyncio.subprocess.Process | None = None
        self.outcomes: Counter[str] = Counter()
        self.acknowledged: dict[str, str] = {}
        self.over = False

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, str(UP), str(self.state), *self.ports, "4", stdout=asyncio.subprocess.PIPE
        )
        assert await asyncio.wait_for(self.process.stdout.readline(), 30)

    async def kill_platform(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        await self.start()

    async def request(self, http: aiohttp.ClientSession) -> None:
        """Send requests one after the other; each must end in a response or in an error."""
        while not self.over:
            name = random.choice(("warm", "cold"))
            try:
                async with asyncio.timeout(HANGS_AFTER_S):
                    async with http.get(f"{self.gateway}/default/{name}/") as answer:
                        await answer.read()
                        self.outcomes[str(answer.status)] += 1
            except aiohttp.ClientError:
                self.outcomes["connection lost"] += 1
                await asyncio.sleep(0.05)
            except TimeoutError:
                self.outcomes["hung"] += 1

    async def write(self) -> None:
        """Create and change objects, and record the last acknowledged state."""
        number = 0
        while not self.over:
            try:
                async with Cluster.from_kubeconfig(self.state / "kubeconfig") as cluster:
                    while not self.over:
                        name, value = f"cm{number % 50}", str(number)
                        body = {"metadata": {"name": name, "namespace": "default"}, "data": {"n": value}}
                        await cluster.apply(CONFIG_MAP, body)
                        self.acknowledged[name] = value
                        number += 1
            except ClusterError:
                number += 1  # this one may or may not be there; the next is another
                self.acknowledged.pop(f"cm{(number - 1) % 50}", None)
                await asyncio.sleep(0.05)

    async def kill(self, mark: str) -> Counter[str]:
        kills: Counter[str] = Counter()
        end = time.monotonic() + SECONDS
        next_platform = time.monotonic() + 2.5
        while time.monotonic() < end:
            await asyncio.sleep(random.uniform(0.1, 0.6))
            if time.monotonic() > next_platform:
                await self.kill_platform()
                kills["platform"] += 1
                next_platform = time.monotonic() + random.uniform(2.5, 6)
            elif victims := processes_of(mark):
                with contextlib.suppress(psutil.Error):
                    random.choice(victims).kill()
                    kills["replica"] += 1
        return kills


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_kills_under_load_lose_nothing_acknowledged_and_leave_no_request_unanswered(tmp_path: Path):
    chaos = Chaos(tmp_path / "state", free_port(), free_port())
    await chaos.start()
    mark = None
    try:
        async with Cluster.from_kubeconfig(chaos.state / "kubeconfig") as cluster:
            await cluster.create(SERVICE, service("warm", scale={"min-scale": "2"}))
            await cluster.create(SERVICE, service("cold"))
            await LocalCluster(None, cluster, None).ready("warm")
            await LocalCluster(None, cluster, None).ready("cold")
        store = Store(chaos.state / "state.db")
        mark = store.read_meta("platform")
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:
            clients = [asyncio.create_task(chaos.request(http)) for _ in range(6)]
            clients.append(asyncio.create_task(chaos.write()))
            kills = await chaos.kill(mark)
            chaos.over = True
            await asyncio.gather(*clients)

            async def answers():
                async with http.get(f"{chaos.gateway}/default/cold/") as answer:
                    return answer.status == 200

            await until(answers, timeout_s=30)
        assert chaos.outcomes["hung"] == 0, chaos.outcomes
        assert chaos.outcomes["200"] > 0, chaos.outcomes
        assert chaos.outcomes["404"] == 0, chaos.outcomes  # a Service that is there is never unknown
        assert kills["replica"] > 0
        assert kills["platform"] > 0
        async with Cluster.from_kubeconfig(chaos.state / "kubeconfig") as cluster:
            made = await cluster.list(CONFIG_MAP, "default")
            found = {item["metadata"]["name"]: item["data"]["n"] for item in made}
            lost = {name: value for name, value in chaos.acknowledged.items() if found.get(name) != value}
            assert lost == {}
            local = LocalCluster(None, cluster, None)
            await local.ready_pods(2, "warm-00001")
            replicas = await local.pods()

            async def no_leak():
                return len(processes_of(mark)) == len(await local.pods())

            await until(no_leak, what=f"as many processes as the {len(replicas)} pods")
        sys.stdout.write(f"{SECONDS:g} s: {dict(kills)} kills, answers {dict(chaos.outcomes)}\n")
    finally:
        if chaos.process is not None and chaos.process.returncode is None:
            chaos.process.terminate()
            await chaos.process.wait()
    assert processes_of(mark) == []
