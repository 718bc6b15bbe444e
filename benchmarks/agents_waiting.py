"""Durable runs that wait for a timer at zero replicas of the local platform, and are all resumed by it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from knative.client.cluster import Cluster
from knative.client.resources import POD, SERVICE
from knative.labels import AGENT_LABEL
from knative.local.platform.config import PlatformConfig
from knative.local.platform.platform import Platform
from pilotlight.run_waking import waking

AHEAD_S = 45.0
"""From the last submission to the instant that all runs wait for, at least; more where zero takes longer."""
PATIENCE_S = 600.0
_AT_ONCE = 32
_TOOL = """
import http.server, json, math, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer(200, {})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        left = float(open(os.environ["INSTANT"]).read()) - time.time()
        if left > 0:
            problem = {"title": "Too early", "status": 503, "detail": "not yet", "retryable": True}
            self.answer(503, problem, [("Retry-After", str(math.ceil(left)))])
        else:
            self.answer(200, {"id": body["id"], "stage": "tool", "output": body["input"]})
    def answer(self, status, document, headers=()):
        data = json.dumps(document).encode()
        self.send_response(status)
        kind = "application/json" if status == 200 else "application/problem+json"
        for name, value in [("content-type", kind), ("content-length", str(len(data))), *headers]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *words):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


async def waiting(count: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Submit so many runs, which all wait for one instant; let everything go to zero; see them resumed.

    Returns:
        Seconds from the instant until the last run had ended, and the size of the database while they waited.
    """
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        instant = Path(folder) / "instant"
        config = PlatformConfig(state_dir=state, gateway_port=0, api_port=0)
        async with Platform(config) as platform, Cluster.from_kubeconfig(platform.kubeconfig) as cluster:
            await _deploy(cluster, instant)
            timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
            async with (
                waking(state, cluster, platform.gateway_url),
                aiohttp.ClientSession(timeout=timeout) as session,
            ):
                url = f"{platform.gateway_url}/default/front"
                # Once known how long that takes, the instant is moved to well after it.
                instant.write_text(str(time.time() + 3600))
                await _submit(session, url, 1)
                instant.write_text(str(when := time.time() + AHEAD_S + count / 25))
                began = time.monotonic()
                await _submit(session, url, count)
                tell(f"{count} runs submitted in {time.monotonic() - began:.1f} s")
                database = state / "runs" / "default" / "front.sqlite"
                await _until(lambda: _states(database).get("waiting", 0) == count + 1, "waiting runs")
                while await cluster.list(POD, "default"):
                    if time.time() > when:
                        raise RuntimeError(
                            "not at zero replicas before the runs went on; the machine is slow"
                        )
                    await asyncio.sleep(0.1)
                size = database.stat().st_size
                journal = database.with_name(f"{database.name}-wal")
                journal_size = journal.stat().st_size if journal.exists() else 0
                left = when - time.time()
                tell(
                    f"zero replicas, {count + 1} runs wait, {size / 1e6:.2f} MB; {left:.1f} s to the instant"
                )
                await _until(lambda: _states(database).get("succeeded", 0) >= count, "resumed runs")
                seconds = time.time() - when
                tell(f"all resumed {seconds:.1f} s after the instant")
    return {
        "runs": count,
        "resumed_s": round(seconds, 1),
        "database_bytes": size,
        "journal_bytes": journal_size,
        "bytes_per_run": round(size / count),
    }


async def _deploy(cluster: Cluster, instant: Path) -> None:
    stages = [{"name": "tool", "kind": "container", "url": "http://tool.default.svc.cluster.local"}]
    runs = {"store": "sqlite", "maxUnfinished": 1_000_000, "stepAttempts": 10}
    # A breaker would answer for the tool, with an instant of its own.
    config = {"wake": False, "attempts": 1, "breakerFailures": 1_000_000, "runs": runs}
    front = {"PILOTLIGHT_STAGES": json.dumps(stages), "PILOTLIGHT_STAGE_CONFIG": json.dumps(config)}
    for name, command, env in (
        ("tool", ["python", "-c", _TOOL], {"INSTANT": str(instant)}),
        ("front", ["python", "-m", "functions", "orchestrate"], front),
    ):
        variables = [{"name": key, "value": value} for key, value in env.items()]
        container = {"image": "local/x", "command": command, "env": variables}
        annotations = {"autoscaling.knative.dev/window": "6s", "autoscaling.knative.dev/target": "100"}
        meta = {"annotations": annotations, "labels": {AGENT_LABEL: "waiting"}}
        template = {"metadata": meta, "spec": {"containers": [container]}}
        body = {"metadata": {"name": name, "namespace": "default"}, "spec": {"template": template}}
        await cluster.create(SERVICE, body)


async def _submit(session: aiohttp.ClientSession, url: str, count: int) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> None:
        body = {"input": f"{number} " + "where is my order? " * 10}
        async with (
            gate,
            session.post(f"{url}/invoke", json=body, headers={"Prefer": "respond-async"}) as response,
        ):
            if response.status != 202:
                raise RuntimeError(f"a run was answered {response.status}: {await response.text()}")

    await asyncio.gather(*(one(number) for number in range(count)))


def _states(database: Path) -> dict[str, int]:
    """Runs by state, read beside the platform: asking the stage would start a replica."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as reading:
        return dict(reading.execute("SELECT state, count(*) FROM pilotlight_runs GROUP BY state"))


async def _until(good: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not await asyncio.to_thread(good):
        if time.monotonic() > ends:
            raise RuntimeError(f"not in time: {what}")
        await asyncio.sleep(0.1)
