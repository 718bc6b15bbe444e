"""The local platform's control plane: 1,000 Services at zero, and how fast a floor moves.

Prints one JSON object:

- `services`: how many Services there were.
- `create_s`: seconds until all of them were created and reconciled to zero.
- `idle_cpu_share`: CPU seconds for each second of the platform's process while nothing happens.
- `resident_mib`: memory of that process; `resident_base_mib`: the same before the first Service.
- `list_s`: p50 time of a client's list of all Services, and `list_mib`, its size.
- `floor_to_start_s`: p50, p99 and max time from sending the patch of min-scale to the start of the
  replica's process.
- `restart_s`: seconds from starting the platform again to its API answering with all Services there.

    python benchmarks/control_plane.py --json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.arguments import at_least  # noqa: E402 - see above
from knative.autoscaling.annotations import INITIAL_SCALE, MIN_SCALE  # noqa: E402
from knative.client.cluster import Cluster  # noqa: E402
from knative.client.resources import CONFIG_MAP, POD, REVISION, SERVICE  # noqa: E402
from knative.labels import REVISION_LABEL, STARTED_AT_ANNOTATION  # noqa: E402

PLATFORM = """
import asyncio, signal, sys
from pathlib import Path
import uvloop
from knative.local.platform.config import PlatformConfig
from knative.local.platform.platform import Platform

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Platform(PlatformConfig(Path(sys.argv[1]), gateway_port=0, api_port=0)) as platform:
        print(platform.api_url, flush=True)
        await stop.wait()

uvloop.run(main())
"""
REPLICA = """
import os, http.server as h
h.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), h.BaseHTTPRequestHandler).serve_forever()
"""


def service(name: str) -> dict[str, Any]:
    """A Service that starts at zero."""
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "template": {
                "metadata": {"annotations": {INITIAL_SCALE: "0"}},
                "spec": {"containers": [{"image": "none", "command": ["python", "-c", REPLICA]}]},
            }
        },
    }


async def start(state: Path) -> tuple[asyncio.subprocess.Process, Cluster]:
    """A platform in a process of its own, and a client for it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PLATFORM, str(state), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    if not await process.stdout.readline():
        raise SystemExit("the platform did not start")
    return process, Cluster.from_kubeconfig(state / "kubeconfig")


async def stop(process: asyncio.subprocess.Process, cluster: Cluster) -> None:
    """End it."""
    await cluster.close()
    process.terminate()
    await process.wait()


async def create_all(cluster: Cluster, names: Sequence[str]) -> float:
    """Create the Services and wait until every Revision has settled; the time it took."""
    settings = {"allow-zero-initial-scale": "true"}
    meta = {"name": "config-autoscaler", "namespace": "knative-serving"}
    await cluster.apply(CONFIG_MAP, {"metadata": meta, "data": settings})
    begun = time.perf_counter()
    for at in range(0, len(names), 16):
        await asyncio.gather(*(cluster.create(SERVICE, service(name)) for name in names[at : at + 16]))
    deadline = begun + 300
    while time.perf_counter() < deadline:
        services = await cluster.list(SERVICE)
        ready = [item for item in services if _condition(item, "Ready") == "True"]
        if len(ready) == len(names):
            return time.perf_counter() - begun
        await asyncio.sleep(0.2)
    raise SystemExit("the Services were not all ready within 300 s")


async def floor_moves(cluster: Cluster, names: Sequence[str]) -> list[float]:
    """For each Service: seconds from sending the patch to its replica's process being started."""
    took = []
    for name in names:
        revision = f"{name}-00001"
        sent = datetime.now(UTC)
        await cluster.patch(REVISION, revision, "default", {"metadata": {"annotations": {MIN_SCALE: "1"}}})
        deadline = time.perf_counter() + 30
        while True:
            if time.perf_counter() > deadline:
                raise SystemExit(f"no replica of {revision} within 30 s of raising its floor")
            pods = await cluster.list(POD, "default", label_selector=f"{REVISION_LABEL}={revision}")
            marks = [pod["metadata"].get("annotations", {}).get(STARTED_AT_ANNOTATION) for pod in pods]
            if any(marks):
                break
            await asyncio.sleep(0.01)
        took.append((datetime.fromisoformat(marks[0]) - sent).total_seconds())
        await cluster.patch(REVISION, revision, "default", {"metadata": {"annotations": {MIN_SCALE: None}}})
    return took


async def measure(count: int, idle_s: float, moves: int) -> dict[str, Any]:
    """All figures."""
    names = [f"s{number:04d}" for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        process, cluster = await start(state)
        watched = psutil.Process(process.pid)
        base = watched.memory_info().rss
        created = await create_all(cluster, names)
        await asyncio.sleep(5)  # let what creation left settle, so that idle is idle
        before, begun = sum(watched.cpu_times()[:2]), time.perf_counter()
        await asyncio.sleep(idle_s)
        idle = (sum(watched.cpu_times()[:2]) - before) / (time.perf_counter() - begun)
        resident = watched.memory_info().rss
        lists, size = [], 0
        for _ in range(9):
            at = time.perf_counter()
            listed = await cluster.list(SERVICE)
            lists.append(time.perf_counter() - at)
            size = len(json.dumps(listed))
        moved = sorted(await floor_moves(cluster, names[:moves]))
        await stop(process, cluster)
        at = time.perf_counter()
        process, cluster = await start(state)
        assert len(await cluster.list(SERVICE)) == count
        restarted = time.perf_counter() - at
        await stop(process, cluster)
    return {
        "services": count,
        "create_s": round(created, 2),
        "idle_cpu_share": round(idle, 4),
        "resident_mib": round(resident / 2**20, 1),
        "resident_base_mib": round(base / 2**20, 1),
        "list_s": round(statistics.median(lists), 4),
        "list_mib": round(size / 2**20, 2),
        "floor_to_start_s": {
            "p50": round(statistics.median(moved), 4),
            "p99": round(moved[min(len(moved) - 1, int(len(moved) * 0.99))], 4),
            "max": round(moved[-1], 4),
            "moves": len(moved),
        },
        "restart_s": round(restarted, 2),
    }


def _condition(obj: dict[str, Any], kind: str) -> str:
    found = (obj.get("status") or {}).get("conditions") or ()
    return next((item["status"] for item in found if item["type"] == kind), "")


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", type=at_least(1), default=1000)
    parser.add_argument("--idle-seconds", type=at_least(0.1), default=20.0)
    parser.add_argument("--moves", type=at_least(1), default=100, help="floors to move, one after the other")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of an indented one")
    options = parser.parse_args()
    result = asyncio.run(measure(options.services, options.idle_seconds, options.moves))
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
