"""What the warm-pool controller costs: ten thousand pools, real HTTP, the project's own Kubernetes API.

    python benchmarks/controller.py [--json] [--pools N] [--edge N]

The API runs in a process of its own with N Services, Revisions, PodAutoscalers and WarmPools; the controller
runs in this one, fed by watches as in service.

| key | meaning | to reach |
|---|---|---|
| `tick_cpu_s` | processor time of one pass over every pool, nothing to do; median of 40 | <= 1 |
| `tick_cpu_max_s` | the longest of these | |
| `first_tick_cpu_s` | the first pass after a start, nothing remembered yet | |
| `rss_mib` | resident memory of the controller's process afterwards | <= 300 |
| `writes_when_nothing_changes` | requests that changed anything in these 40 passes | 0 |
| `edge_p50_s`, `edge_p99_s` | from a window's edge to the floor in the API's store | p99 <= 1 |
| `edges_late_or_lost` | of `--edge` windows that open at once, not there within 10 s | 0 |
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import uvicorn
import uvloop
import yaml

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.arguments import at_least  # noqa: E402 - see above
from knative.autoscaling.annotations import MIN_SCALE  # noqa: E402
from knative.client.cluster import Cluster  # noqa: E402
from knative.client.resources import NAMESPACE, POD_AUTOSCALER, REVISION, SERVICE, WARM_POOL, Resource  # noqa: E402
from knative.labels import SERVICE_LABEL  # noqa: E402
from knative.local.apiserver import kinds  # noqa: E402
from knative.local.apiserver.api.app import Api  # noqa: E402
from knative.local.apiserver.records import Change, Key  # noqa: E402
from knative.local.apiserver.registry import Registry  # noqa: E402
from knative.local.apiserver.store import Store  # noqa: E402
from warmpool.adapters.price_file import packaged_prices  # noqa: E402
from warmpool.controller import Controller  # noqa: E402

TARGETS = {"tick_cpu_s": 1.0, "rss_mib": 300.0, "writes_when_nothing_changes": 0, "edge_p99_s": 1.0}
TOKEN = "bench"


class SkippableClock:
    """The machine's clock, which the benchmark can move on by itself."""

    def __init__(self) -> None:
        self.skipped = timedelta(0)

    def now(self) -> datetime:
        """This instant, as far as it was moved."""
        return datetime.now(UTC) + self.skipped


def fill(registry: Registry, pools: int, edge: int) -> None:
    """The objects: `edge` pools without a window yet, the rest open all day with two replicas there."""
    registry.create(NAMESPACE, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    for number in range(pools):
        make(registry, f"s{number:05}", held=0 if number < edge else 2)


def make(registry: Registry, name: str, *, held: int) -> None:
    """One Service with Revision, PodAutoscaler and WarmPool, as Knative would have them."""
    revision = f"{name}-00001"
    limits = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    pod = {"containers": [{"name": "user-container", "image": "registry.local/model:1", **limits}]}
    labels = {SERVICE_LABEL: name}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": revision}
    put(registry, SERVICE, name, {"template": {"spec": pod}})
    put(registry, REVISION, revision, pod, labels)
    put(registry, POD_AUTOSCALER, revision, {"protocolType": "http1", "scaleTargetRef": target}, labels, held)
    registry.set_status(
        Key(SERVICE, "default", name),
        {
            "url": f"http://{name}.default.localhost",
            "latestCreatedRevisionName": revision,
            "latestReadyRevisionName": revision,
            "traffic": [{"revisionName": revision, "percent": 100, "latestRevision": True}],
        },
    )
    registry.set_status(
        Key(POD_AUTOSCALER, "default", revision),
        {
            "metricsServiceName": f"{revision}-private",
            "serviceName": revision,
            "desiredScale": held,
            "actualScale": held,
            "conditions": [{"type": "Active", "status": "True"}],
        },
    )
    day = {"name": "day", "from": "00:00", "to": "24:00", "replicas": 2}
    spec = {
        "target": name,
        "timeZone": "Europe/Berlin",
        "leadTime": "0s",
        "windows": [day] if held else [],
        "keepAlive": "10m",
        "limits": {"budget": {"amount": 40_000}},
    }
    put(registry, WARM_POOL, f"p{name[1:]}", spec)


def put(  # noqa: PLR0917  one line of an object each
    registry: Registry,
    resource: Resource,
    name: str,
    spec: dict[str, Any],
    labels: dict[str, str] | None = None,
    held: int = 0,
) -> None:
    """Create one object."""
    meta = {"name": name, "labels": dict(labels or {}), "annotations": {MIN_SCALE: str(held)} if held else {}}
    obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta, "spec": spec}
    registry.create(resource, "default", json.loads(json.dumps(obj)))


def serve(folder: str, pools: int, edge: int, pipe: Connection) -> None:
    """The API's process: serves, and reports when a floor was stored."""
    uvloop.run(_serve(Path(folder), pools, edge, pipe))


async def _serve(folder: Path, pools: int, edge: int, pipe: Connection) -> None:
    store = Store(folder / "state.db")
    store.open(asyncio.get_running_loop())
    registry = Registry(store, kinds.load(), {}, lambda: datetime.now(UTC))
    fill(registry, pools, edge)
    stored: dict[str, float] = {}

    def note(change: Change) -> None:
        record = change.record
        if record.key.resource == REVISION and MIN_SCALE in record.obj["metadata"].get("annotations", {}):
            stored.setdefault(record.key.name, time.time())

    store.subscribe(note)
    api = Api(
        registry,
        token=TOKEN,
        metrics=lambda: "",
        now=lambda: datetime.now(UTC),
        log_path=lambda namespace, name: folder / f"{namespace}-{name}",
        address="127.0.0.1",
    )
    config = uvicorn.Config(api, host="127.0.0.1", port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    pipe.send(server.servers[0].sockets[0].getsockname()[1])
    while not await asyncio.to_thread(pipe.poll, 0.2):
        if task.done():
            return
    pipe.recv()
    pipe.send(stored)
    server.should_exit = True
    await asyncio.wait([task], timeout=5)
    store.close()


async def measure(folder: Path, port: int, pools: int, edge: int, pipe: Connection) -> dict[str, Any]:
    """The controller's process: start, ten quiet minutes of pool time, then an edge in real time."""
    path = kubeconfig(folder, port)
    result: dict[str, Any] = {"pools": pools, "windows_at_the_edge": edge}
    clock = SkippableClock()
    async with Cluster.from_kubeconfig(path) as cluster:
        controller = Controller(cluster, clock=clock, prices=packaged_prices())
        await controller.refresh()
        cpu, wall = time.process_time(), time.monotonic()
        report = await controller.tick(refresh=False)
        result["first_tick_cpu_s"] = time.process_time() - cpu
        result["first_tick_s"] = time.monotonic() - wall
        result["first_tick_writes"] = report.writes
        await controller.tick(refresh=False)
        result |= await quiet_passes(controller, clock)
        clock.skipped = timedelta(0)
        stop = asyncio.Event()
        running = asyncio.create_task(controller.run(stop))
        opens = (datetime.now(UTC) + timedelta(seconds=75)).replace(second=0, microsecond=0)
        window = {
            "name": "edge",
            "cron": f"{opens.minute} {opens.hour} * * *",
            "duration": "2h",
            "replicas": 2,
        }
        for number in range(edge):
            spec = {"timeZone": "UTC", "windows": [window]}
            await cluster.patch(WARM_POOL, f"p{number:05}", "default", {"spec": spec})
        await asyncio.sleep(max(0.0, (opens - datetime.now(UTC)).total_seconds()) + 10)
        pipe.send("done")
        while not pipe.poll():
            await asyncio.sleep(0.05)
        stored: dict[str, float] = pipe.recv()
        result |= edges(stored, edge, opens)
        gc.collect()
        result["rss_mib"] = psutil.Process().memory_info().rss / 2**20
        stop.set()
        await running
    return result


async def quiet_passes(controller: Controller, clock: SkippableClock) -> dict[str, Any]:
    """Forty passes over every pool, fifteen seconds apart, while nothing happens."""
    spent, writes = [], 0
    for _ in range(40):
        clock.skipped += timedelta(seconds=15)
        start = time.process_time()
        report = await controller.tick(refresh=False)
        spent.append(time.process_time() - start)
        writes += report.writes
    return {
        "tick_cpu_s": statistics.median(spent),
        "tick_cpu_max_s": max(spent),
        "writes_when_nothing_changes": writes,
    }


def edges(stored: dict[str, float], edge: int, opens: datetime) -> dict[str, Any]:
    """How long after the edge each floor was in the store."""
    names = [f"s{number:05}-00001" for number in range(edge)]
    delays = sorted(stored[name] - opens.timestamp() for name in names if name in stored)
    late = edge - len([delay for delay in delays if delay <= 10])
    if not delays:
        return {"edges_late_or_lost": late}
    p99 = delays[max(0, math.ceil(0.99 * len(delays)) - 1)]
    return {"edges_late_or_lost": late, "edge_p50_s": statistics.median(delays), "edge_p99_s": p99}


def kubeconfig(folder: Path, port: int) -> Path:
    """A file that leads to the benchmark's API."""
    path = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "b", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "b", "user": {"token": TOKEN}}],
        "contexts": [{"name": "b", "context": {"cluster": "b", "user": "b"}}],
        "current-context": "b",
    }
    path.write_text(yaml.safe_dump(content))
    return path


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--pools", type=at_least(1), default=10_000)
    parser.add_argument("--edge", type=at_least(1), default=100, help="windows that open at the same instant")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        arguments = (name, options.pools, options.edge, theirs)
        server = context.Process(target=serve, args=arguments, daemon=True)
        server.start()
        port = ours.recv()
        result = uvloop.run(measure(Path(name), port, options.pools, options.edge, ours))
        server.join(15)
        if server.is_alive():
            server.kill()
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in result.items()}
    if options.json:
        print(json.dumps(rounded))
        return
    for key, value in rounded.items():
        print(f"{key:<30} {value:>12}" + (f"   to reach: <= {TARGETS[key]:g}" if key in TARGETS else ""))


if __name__ == "__main__":
    main()
