"""Replicas are killed at random under load: every request gets a response, a complete one or an error."""

import asyncio
import contextlib
import random
import sys
from collections import Counter

import aiohttp
import pytest

from knative.local.routing import Endpoint, RevisionKey

KEY = RevisionKey("default", "a-00001")
pytestmark = pytest.mark.clock

SECONDS = 4.0
REPLICA = """
import asyncio, random

async def serve(reader, writer):
    try:
        while head := await reader.readuntil(b"\\r\\n\\r\\n"):
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\\r\\n")[0] or 0)
            body = await reader.readexactly(length)
            await asyncio.sleep(random.random() * 0.05)
            writer.write(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
            for _ in range(3):
                writer.write(b"%x\\r\\n%s\\r\\n" % (len(body), body))
                await asyncio.sleep(0.005)
            writer.write(b"0\\r\\n\\r\\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


class ReplicaProcesses:
    """Three processes, one of which is killed now and then and started again."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.alive = {}
        self.kills = 0
        self.running = True

    async def start(self, name):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-c", REPLICA, stdout=asyncio.subprocess.PIPE
        )
        port = int(await process.stdout.readline())
        self.alive[name] = (process, Endpoint(name, "127.0.0.1", port))
        self.publish()

    def publish(self):
        self.gateway.activator.set_endpoints(KEY, tuple(endpoint for _, endpoint in self.alive.values()))

    async def kill(self, name):
        process, _ = self.alive[name]
        process.kill()
        self.kills += 1
        await process.wait()
        await asyncio.sleep(random.random() * 0.1)  # the platform needs a moment to notice
        del self.alive[name]
        self.publish()
        await self.start(name)

    async def kill_repeatedly(self):
        while self.running:
            await asyncio.sleep(0.2)
            await self.kill(random.choice(list(self.alive)))

    async def stop(self):
        for process, _ in self.alive.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def test_every_request_gets_a_response_while_replicas_are_killed(gateway):
    gateway.deploy(container_concurrency=4)
    fleet, outcomes = ReplicaProcesses(gateway), Counter()
    loop = asyncio.get_running_loop()

    async def ask(number):
        body = b"%d" % number * 20
        async with gateway.request("POST", "/", data=body, timeout=aiohttp.ClientTimeout(20)) as response:
            if response.status == 200:
                try:
                    assert await response.read() == body * 3
                except aiohttp.ClientPayloadError:
                    return "broken off"  # begun, and seen to be incomplete
                return "answered"
            problem = await response.json(content_type="application/problem+json")
            assert response.status == 502
            assert problem["retryable"]
            return "retryable"

    async def client(number):
        end = loop.time() + SECONDS
        while loop.time() < end:
            outcomes[await ask(number)] += 1

    try:
        await asyncio.gather(*(fleet.start(f"pod-{number}") for number in range(3)))
        killing = asyncio.create_task(fleet.kill_repeatedly())
        await asyncio.gather(*(client(number) for number in range(15)))
        fleet.running = False
        await killing
    finally:
        await fleet.stop()
    assert fleet.kills >= 3
    assert outcomes["answered"] > 100
    assert outcomes["answered"] > 20 * (outcomes["retryable"] + outcomes["broken off"])
    assert gateway.activator.waiting(KEY) == 0
    await gateway.until(lambda: all(gateway.activator.in_flight(KEY, f"pod-{n}") == 0 for n in range(3)))
