"""An activator on a port of its own, with replicas behind it and a client in front."""

import asyncio
import hashlib
import json
import socket
from urllib.parse import parse_qs

import aiohttp
import pytest
import uvicorn
import uvloop

from knative.local.activator import Activator, server
from knative.local.routing import Endpoint, RevisionKey, RevisionSpec, TrafficTarget

KEY = RevisionKey("default", "a-00001")


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


class RunningServer:
    """A uvicorn server on a free port of this loop."""

    def __init__(self, uvicorn_server):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = self.socket.getsockname()[1]
        self.server = uvicorn_server

    async def started(self):
        """Start as `serve` does, without its polling."""
        self.server.config.load()
        self.server.lifespan = self.server.config.lifespan_class(self.server.config)
        await self.server.startup(sockets=[self.socket])
        return self

    async def stop(self):
        """Stop as the server itself does."""
        self.server.started = False
        async with asyncio.timeout(10):
            await self.server.shutdown(sockets=[self.socket])

    async def abort(self):
        """Stop at once."""
        if self.server.started:
            for listening in self.server.servers:
                listening.close()
            self.socket.close()
            for connection in list(self.server.server_state.connections):
                connection.transport.abort()
            await self.server.lifespan.shutdown()
            for task in list(self.server.server_state.tasks):
                task.cancel()
                await asyncio.wait([task])


class Replica:
    """A replica that answers with the request as it arrived, and counts requests."""

    def __init__(self, name):
        self.name = name
        self.in_flight = self.peak = self.total = 0
        self.cancelled = asyncio.Event()
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.first_bytes = asyncio.Event()
        self.serving = None

    @property
    def endpoint(self):
        return Endpoint(self.name, "127.0.0.1", self.serving.port)

    async def __call__(self, scope, receive, send):
        if scope["type"] == "websocket":
            await self.websocket(scope, receive, send)
            return
        self.total += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        self.entered.set()
        try:
            await self.answer(scope, receive, send)
        finally:
            self.in_flight -= 1

    async def answer(self, scope, receive, send):  # noqa: PLR0911, PLR0912 one branch for each kind of answer
        query = {key: values[0] for key, values in parse_qs(scope["query_string"].decode()).items()}
        kind = scope["path"].rsplit("/", 1)[-1]

        async def start(status=200, headers=()):
            headers = [(b"x-replica", self.name.encode()), *headers]
            await send({"type": "http.response.start", "status": status, "headers": headers})

        async def piece(body, *, more):
            await send({"type": "http.response.body", "body": body, "more_body": more})

        if kind == "hold":
            await self.release.wait()
        elif kind == "sleep":
            await asyncio.sleep(float(query["s"]))
        elif kind == "hang":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.cancelled.set()
            return
        elif kind == "events":
            await start(headers=[(b"content-type", b"text/event-stream")])
            for number in range(int(query["n"])):
                await piece(f"data: {number}\n\n".encode(), more=True)
                if query.get("wait"):
                    self.release.clear()
                    await self.release.wait()
                if query.get("forever"):
                    message = await receive()
                    while message["type"] != "http.disconnect":
                        message = await receive()
                    self.cancelled.set()
                    return
            await piece(b"", more=False)
            return
        elif kind == "download":
            size = int(query["bytes"])
            await start()
            while size:
                part = min(size, 1 << 16)
                await piece(b"x" * part, more=True)
                size -= part
            await piece(b"", more=False)
            return
        elif kind == "status":
            await start(int(query["code"]), [(b"content-length", b"7")] if query.get("length") else ())
            await piece(b"", more=False)
            return
        elif kind == "headers":
            pairs = [
                (b"Set-Cookie", b"a=1"),
                (b"Set-Cookie", b"b=2"),
                (b"content-encoding", b"gzip"),
                (b"connection", b"x-hop"),
                (b"x-hop", b"1"),
            ]
            await start(headers=pairs)
            await piece(b"not gzip at all", more=False)
            return
        digest, length = hashlib.sha256(), 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.cancelled.set()
                return
            digest.update(message.get("body", b""))
            length += len(message.get("body", b""))
            if length:
                self.first_bytes.set()
            if not message.get("more_body"):
                break
        seen = {
            "replica": self.name,
            "method": scope["method"],
            "path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
            "length": length,
            "sha256": digest.hexdigest(),
        }
        body = json.dumps(seen).encode()
        length = str(len(body)).encode()
        await start(
            headers=[
                (b"content-type", b"application/json"),
                (b"content-length", length),
                (b"server-timing", b"model;dur=1"),
            ]
        )
        await piece(b"" if scope["method"] == "HEAD" else body, more=False)

    async def websocket(self, scope, receive, send):
        await receive()
        if scope["path"] == "/refuse":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self.cancelled.set()
                return
            await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})


class Gateway:
    """The activator under test and a client for it."""

    def __init__(self):
        self.stats = []
        self.forward_stats = self.stats.extend
        self.activator = Activator(on_stats=self.on_stats, queue_depth=20, progress_s=0.1)
        self.replicas = []

    def on_stats(self, stats):
        self.forward_stats(stats)

    async def start(self, client):
        self.client = client
        self.serving = await RunningServer(server(self.activator)).started()
        self.port = self.serving.port
        self.url = f"http://127.0.0.1:{self.port}"

    async def stop(self):
        """Stop all servers, and abort the responses of replicas."""
        await self.serving.abort()
        for replica in self.replicas:
            replica.release.set()
            await replica.serving.abort()

    def deploy(self, key=KEY, service="a", *, splits=None, **spec):
        self.activator.set_revision(RevisionSpec(key, service, **spec))
        self.activator.set_service(key.namespace, service, splits or [TrafficTarget(key, 100)])

    async def replica(self, name="pod-1", *, app=None):
        replica = app or Replica(name)
        config = uvicorn.Config(
            replica, lifespan="off", log_level="error", access_log=False, loop="none", timeout_keep_alive=5
        )
        replica.serving = await RunningServer(uvicorn.Server(config)).started()
        self.replicas.append(replica)
        return replica

    async def ready(self, *replicas, key=KEY):
        self.activator.set_endpoints(key, tuple(replica.endpoint for replica in replicas))

    async def running(self, names=("pod-1",), **spec):
        """Deploy with ready replicas; returns the only one, or all of them."""
        self.deploy(**spec)
        replicas = [await self.replica(name) for name in names]
        await self.ready(*replicas)
        return replicas[0] if len(replicas) == 1 else replicas

    def request(self, method, path, *, host="a.default.localhost", headers=None, **options):
        return self.client.request(
            method, self.url + path, headers={"Host": host, **(headers or {})}, **options
        )

    async def get(self, path="/", **options):
        async with self.request("GET", path, **options) as response:
            return response.status, await response.json(content_type=None)

    async def until(self, condition, seconds=10.0):
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
async def gateway():
    gateway = Gateway()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
    ) as client:
        await gateway.start(client)
        try:
            yield gateway
        finally:
            await gateway.stop()
