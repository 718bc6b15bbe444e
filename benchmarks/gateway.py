"""What the activator costs, against named peers: throughput, added latency, token streams, held requests.

Peers: the backend alone (raw ASGI on uvicorn, uvloop, httptools) and nginx, one worker, as a proxy in front
of the same backend. Load comes from wrk. Both are Debian packages: `apt-get install wrk nginx-light`.

    python benchmarks/gateway.py            a table
    python benchmarks/gateway.py --json     one JSON object

Everything runs on this machine's loopback and in one run; ratios are medians over alternating rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import uvicorn
import uvloop

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.arguments import at_least  # noqa: E402 - see above
from knative.autoscaling.annotations import AutoscalingSpec  # noqa: E402
from knative.local.activator import Activator, server  # noqa: E402
from knative.local.controllers.autoscaler import Autoscaler  # noqa: E402
from knative.local.routing import Endpoint, RevisionKey, RevisionSpec, TrafficTarget  # noqa: E402

HOST = "a.default.localhost"
KEY = RevisionKey("default", "a-00001")
SMALL = b'{"answer":"yes!"}'
TOKENS = 256
STREAMS = 64
TOKEN = (
    b'data: {"id":"cmpl-0123456789abcdef","object":"text_completion","created":1790000000,"model":"small",'
    b'"choices":[{"index":0,"text":" token","logprobs":null,"finish_reason":null}]}\n\n'
)
TARGETS: dict[str, tuple[str, float]] = {
    "rps_vs_direct": (">=", 0.17),
    "rps_vs_nginx": (">=", 0.2),
    "added_p50_ms": ("<=", 0.6),
    "added_p99_ms": ("<=", 3.0),
    "sse_vs_direct": (">=", 0.95),
    "held_answered": (">=", 10_000),
    "held_kib": ("<=", 20.0),
}


# The processes under test


async def backend(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """A replica that costs next to nothing: a small answer, or tokens as fast as they can be sent."""
    if scope["type"] != "http":
        return
    await receive()
    if scope["path"] == "/stream":
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(TOKENS):
            await send({"type": "http.response.body", "body": TOKEN, "more_body": True})
            await asyncio.sleep(0)  # one token for every stream in turn, as an engine's steps make them
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", b"17")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": SMALL})


def serve_backend(port: int) -> None:
    uvicorn.run(
        backend, host="127.0.0.1", port=port, loop="uvloop", http="httptools", lifespan="off",
        log_level="error", access_log=False, backlog=16_384,
    )  # fmt: skip


async def serve_activator(port: int, replica: int) -> None:
    """An activator with its autoscaler; standard input adds (`ready`) and asks (`waiting`)."""
    autoscaler = Autoscaler(time.monotonic, lambda _key, _decision: None)
    activator = Activator(on_stats=autoscaler.record, clock=time.monotonic)
    spec = RevisionSpec(KEY, "a", autoscaling=AutoscalingSpec())
    autoscaler.set_revision(spec, remembered=0)
    activator.set_revision(spec)
    activator.set_service("default", "a", [TrafficTarget(KEY, 100)])
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    serving = asyncio.create_task(server(activator, host="127.0.0.1", port=port).serve())
    deciding = asyncio.create_task(autoscaler.run())
    while command := (await commands.readline()).strip():
        if command == b"ready":
            activator.set_endpoints(KEY, (Endpoint("replica", "127.0.0.1", replica),))
            autoscaler.set_pods(KEY, 1, 1)
        print(activator.waiting(KEY), flush=True)
    deciding.cancel()
    serving.cancel()
    await asyncio.wait([serving, deciding])


NGINX = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error error;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream replica {{ server 127.0.0.1:{replica}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 1000000000;
    location / {{
      proxy_pass http://replica; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host; proxy_buffering off;
    }}
  }}
}}
"""


class Peers:
    """The three ways to the backend, each a process on a port of its own."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.direct, self.nginx, self.activator = (free_port() for _ in range(3))
        me = [sys.executable, __file__]
        self.backend = self._start([*me, "--serve-backend", str(self.direct)])
        self.gate = self._start(
            [*me, "--serve-activator", str(self.activator), str(self.direct)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        config = Path(folder) / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, port=self.nginx, replica=self.direct))
        self._start(["nginx", "-c", str(config), "-p", folder])
        for port in (self.direct, self.nginx, self.activator):
            wait_for(port)

    def tell(self, command: str) -> int:
        """Send the activator a command; how many requests it holds."""
        assert self.gate.stdin is not None
        assert self.gate.stdout is not None
        self.gate.stdin.write(f"{command}\n".encode())
        self.gate.stdin.flush()
        return int(self.gate.stdout.readline())

    def _start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, start_new_session=True, **options)

        def end() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

        self._stack.callback(end)
        return process


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


# Throughput and streams: wrk


def wrk(port: int, path: str, *, connections: int, seconds: int) -> float:
    """Requests per second; an error if any was not answered well."""
    output = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-H", f"Host: {HOST}", f"http://127.0.0.1:{port}{path}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if "Non-2xx" in output or "Socket errors" in output:
        raise SystemExit(f"wrk met errors on port {port}:\n{output}")
    found = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    assert found is not None
    return float(found[1])


def throughput(peers: Peers, rounds: int, seconds: int) -> dict[str, float]:
    """Small requests over 16 connections."""
    ports = {"direct": peers.direct, "nginx": peers.nginx, "activator": peers.activator}
    seen: dict[str, list[float]] = {name: [] for name in ports}
    for _ in range(rounds):
        for name, port in ports.items():
            seen[name].append(wrk(port, "/", connections=16, seconds=seconds))
    ratio = {
        name: statistics.median(a / b for a, b in zip(seen["activator"], seen[name], strict=True))
        for name in ("direct", "nginx")
    }
    return {
        "rps_vs_direct": ratio["direct"],
        "rps_vs_nginx": ratio["nginx"],
        **{f"rps_{name}": statistics.median(values) for name, values in seen.items()},
    }


def streams(peers: Peers, rounds: int, seconds: int) -> dict[str, float]:
    """64 token streams at once, each as fast as the backend makes them."""
    seen: dict[str, list[float]] = {"direct": [], "activator": []}
    for _ in range(rounds):
        for name, port in (("direct", peers.direct), ("activator", peers.activator)):
            seen[name].append(wrk(port, "/stream", connections=STREAMS, seconds=seconds) * TOKENS)
    ratio = statistics.median(a / b for a, b in zip(seen["activator"], seen["direct"], strict=True))
    return {
        "sse_vs_direct": ratio,
        "sse_direct_tokens_per_s": statistics.median(seen["direct"]),
        "sse_activator_tokens_per_s": statistics.median(seen["activator"]),
    }


# Added latency: an open load at a fixed rate


class Client(asyncio.Protocol):
    """One connection that asks and waits."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[None] | None = None
        self.transport: Any = None
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        """The connection stands."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """A piece of an answer."""
        self._data += data
        if self._data.endswith(SMALL) and self.answered is not None:
            self._data = b""
            self.answered.set_result(None)

    async def ask(self) -> float:
        """Ask once; milliseconds until the whole answer was there."""
        self.answered = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self.transport.write(b"GET / HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\n\r\n")
        await self.answered
        return (time.perf_counter() - began) * 1000.0


def latencies(peers: Peers, rounds: int, seconds: float) -> dict[str, float]:
    """What passing the activator adds at 200 requests a second."""
    seen = [uvloop.run(latency(peers, seconds)) for _ in range(rounds)]
    return {name: statistics.median(one[name] for one in seen) for name in seen[0]}


async def latency(peers: Peers, seconds: float, rate: float = 200.0) -> dict[str, float]:
    """`rate` requests a second each way, the two ways alternating."""
    loop = asyncio.get_running_loop()
    ways: dict[str, list[Client]] = {}
    for name, port in (("direct", peers.direct), ("activator", peers.activator)):
        made = [await loop.create_connection(Client, "127.0.0.1", port) for _ in range(8)]
        ways[name] = [client for _, client in made]
    seen: dict[str, list[float]] = {name: [] for name in ways}
    pending: set[asyncio.Task[None]] = set()

    async def one(name: str) -> None:
        client = ways[name].pop()
        seen[name].append(await client.ask())
        ways[name].append(client)

    begun, count = loop.time(), 0
    while loop.time() - begun < seconds:
        for name, idle in ways.items():
            if idle:
                task = asyncio.ensure_future(one(name))
                pending.add(task)
                task.add_done_callback(pending.discard)
            count += 1
            await asyncio.sleep(max(0.0, begun + count / (2 * rate) - loop.time()))
    await asyncio.gather(*pending)
    quantiles = {name: statistics.quantiles(values[20:], n=100) for name, values in seen.items()}
    return {
        "added_p50_ms": quantiles["activator"][49] - quantiles["direct"][49],
        "added_p99_ms": quantiles["activator"][98] - quantiles["direct"][98],
        **{f"p50_ms_{name}": values[49] for name, values in quantiles.items()},
        **{f"p99_ms_{name}": values[98] for name, values in quantiles.items()},
    }


# Held requests


async def held(peers: Peers, number: int) -> dict[str, float]:
    """`number` requests while there is no replica: what each costs, and whether each is answered."""
    loop = asyncio.get_running_loop()
    process = psutil.Process(peers.gate.pid)
    before = process.memory_info().rss
    clients = []
    for _ in range(number):
        _, client = await loop.create_connection(Client, "127.0.0.1", peers.activator)
        clients.append(client)
    asking = [asyncio.ensure_future(client.ask()) for client in clients]
    deadline = time.monotonic() + 120
    while await asyncio.to_thread(peers.tell, "waiting") < number:
        if time.monotonic() > deadline:
            raise SystemExit("the activator did not come to hold all requests")
        await asyncio.sleep(0.1)
    kib = (process.memory_info().rss - before) / 1024 / number
    began = time.monotonic()
    await asyncio.to_thread(peers.tell, "ready")
    done, _ = await asyncio.wait(asking, timeout=180)
    took = time.monotonic() - began
    for client in clients:
        client.transport.abort()
    return {
        "held_answered": sum(task.exception() is None for task in done),
        "held_kib": kib,
        "held_answered_in_s": took,
    }


# The command


def measure(options: argparse.Namespace) -> dict[str, float]:
    figures: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        peers = Peers(stack)
        figures |= uvloop.run(held(peers, options.held))
        figures |= latencies(peers, options.rounds, options.seconds * 2)
        figures |= throughput(peers, options.rounds, options.seconds)
        figures |= streams(peers, options.rounds, options.seconds)
    return figures


def verdicts(figures: dict[str, float]) -> Iterator[tuple[str, float, str, bool]]:
    for name, (relation, bound) in TARGETS.items():
        value = figures[name]
        yield name, value, f"{relation} {bound:g}", value >= bound if relation == ">=" else value <= bound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=at_least(1), default=3, help="alternating rounds of each comparison")
    parser.add_argument("--seconds", type=at_least(1), default=5, help="of each measurement in a round")
    parser.add_argument("--held", type=at_least(1), default=10_000, help="requests to hold")
    parser.add_argument("--serve-backend", nargs=1, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--serve-activator", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_backend:
        return serve_backend(*options.serve_backend)
    if options.serve_activator:
        return uvloop.run(serve_activator(*options.serve_activator))
    missing = [program for program in ("wrk", "nginx") if shutil.which(program) is None]
    if missing:
        raise SystemExit(f"missing: {', '.join(missing)}; on Debian: apt-get install wrk nginx-light")
    figures = measure(options)
    if options.json:
        print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
        return None
    for name, value, target, met in verdicts(figures):
        print(f"{name:16} {value:10.3f}   {target:10} {'met' if met else 'NOT met'}")
    return None


if __name__ == "__main__":
    main()
