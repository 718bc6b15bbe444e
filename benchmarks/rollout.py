"""What a rollout in steps costs: bad answers before a bad Revision is rolled back, and GPU-seconds.

    python benchmarks/rollout.py            the story of each run, and a table
    python benchmarks/rollout.py --json     one JSON object

`canary_bad_requests`: of `--requests` requests at an even rate, the share that a Revision answered which
fails every fifth, until it was rolled back; steps, interval and margins are the defaults.

`rollout_extra_gpu_s`: GPU-seconds above the steady state (floor times duration) of a rollout in steps, over
those of a plain Knative rollout of the same function with the same floor (min-scale on the template, traffic
to the newest Revision). The function takes `--start-seconds` to start, as a model does, and there is a little
traffic.

Everything runs on the local platform: real processes, Knative's own autoscaling decisions, virtual GPUs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.arguments import at_least  # noqa: E402 - see above
from knative.client.cluster import Cluster  # noqa: E402
from knative.client.resources import REVISION, SERVICE, WARM_POOL  # noqa: E402
from knative.local.platform.config import PlatformConfig  # noqa: E402
from knative.local.platform.platform import Platform  # noqa: E402
from warmpool.adapters.answer_source import Answers  # noqa: E402
from warmpool.adapters.answers import ReplicaAnswers  # noqa: E402
from warmpool.adapters.clock import SystemClock  # noqa: E402
from warmpool.adapters.exposition import MetricsPage  # noqa: E402
from warmpool.adapters.price_file import packaged_prices  # noqa: E402
from warmpool.controller import Controller  # noqa: E402

FUNCTION = Path(__file__).with_name("rollout_function.py")
NAME = "generate"
TARGETS = {"canary_bad_requests": 0.01, "rollout_extra_gpu_s": 0.5}
WINDOW = {"autoscaling.knative.dev/window": "10s"}
"""Knative's stable window; 60 s by default. A shorter one is in favour of the plain rollout."""
PATIENCE_S = 600.0


@dataclass
class Run:
    """One Service on one platform."""

    platform: Platform
    cluster: Cluster
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    async def apply(self, env: dict[str, str], annotations: dict[str, str]) -> None:
        """Create the Service, or give it a new template; the traffic is left out, as in a file in Git."""
        container = {
            "image": "registry.local/function",
            "command": ["python", str(FUNCTION)],
            "env": [{"name": key, "value": value} for key, value in env.items()],
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
        }
        template = {"metadata": {"annotations": WINDOW | annotations}, "spec": {"containers": [container]}}
        body = {"metadata": {"name": NAME, "namespace": "default"}, "spec": {"template": template}}
        await self.cluster.apply(SERVICE, body, field_manager="git", force=True)

    async def pool(self, floor: int, rollout: dict[str, Any]) -> None:
        """Create the WarmPool."""
        window = {"name": "always", "from": "00:00", "to": "24:00", "replicas": floor}
        spec = {"target": NAME, "windows": [window], "rollout": rollout}
        meta = {"name": NAME, "namespace": "default"}
        await self.cluster.create(WARM_POOL, {"metadata": meta, "spec": spec})

    async def rollout(self) -> dict[str, Any]:
        """What the status says; a new line of the story whenever that changes."""
        pool = await self.cluster.get(WARM_POOL, NAME, "default")
        found: dict[str, Any] = (pool.get("status") or {}).get("rollout") or {}
        shown = f"{found.get('phase', ''):<10} {found.get('percent', 0):>3} %  {found.get('detail', '')}"
        if not self.story or self.story[-1].partition(" s  ")[2] != shown:
            self.story.append(f"{time.monotonic() - self.began:6.1f} s  {shown}")
        return found

    async def replicas(self) -> dict[str, int]:
        """GPU slots held, by Revision, from the platform's metrics."""
        found: dict[str, int] = {}
        for name, labels, value in await self.samples():
            if name == "pilotlight_replicas" and labels["state"] != "pending":
                found[labels["revision"]] = found.get(labels["revision"], 0) + int(value)
        return {name: count for name, count in found.items() if count}

    async def gpu_seconds(self) -> float:
        """GPU-seconds held since the platform started."""
        return sum(value for name, _, value in await self.samples() if name == "pilotlight_gpu_seconds_total")

    async def samples(self) -> list[tuple[str, dict[str, str], float]]:
        """The platform's metrics."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.platform.api_url}/metrics") as response,
        ):
            text = await response.text()
        return [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    async def send(self, session: aiohttp.ClientSession) -> None:
        """One request, counted by Revision and status."""
        try:
            async with session.get(f"{self.platform.gateway_url}/default/{NAME}/") as response:
                self.answers[(await response.text()), response.status] += 1
        except aiohttp.ClientError as error:
            self.answers[type(error).__name__, 0] += 1

    @contextlib.asynccontextmanager
    async def load(self, rate: float) -> AsyncIterator[None]:
        """An even rate of requests until the context ends."""
        tasks: set[asyncio.Task[None]] = set()

        async def send_all(session: aiohttp.ClientSession) -> None:
            due = time.monotonic()
            while True:
                task = asyncio.create_task(self.send(session))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                due += 1 / rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            sending = asyncio.create_task(send_all(session))
            try:
                yield
            finally:
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sending
                await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def started(gpus: int, *, controlled: bool) -> AsyncIterator[Run]:
    """A platform, with the controller as `pilotlight up` runs it or without."""
    with tempfile.TemporaryDirectory() as folder:
        config = PlatformConfig(state_dir=Path(folder) / "state", gateway_port=0, api_port=0, gpus=gpus)
        async with Platform(config) as platform, Cluster.from_kubeconfig(platform.kubeconfig) as cluster:
            stop = asyncio.Event()
            controller = Controller(
                cluster,
                clock=SystemClock(),
                prices=packaged_prices(),
                demand=MetricsPage(f"{platform.api_url}/metrics"),
                answers=Answers(ReplicaAnswers(cluster)),
            )
            task = asyncio.create_task(controller.run(stop)) if controlled else None
            try:
                yield Run(platform, cluster)
            finally:
                stop.set()
                if task is not None:
                    await asyncio.wait_for(task, 10)


async def until(check: Any, what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not await check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {PATIENCE_S:g} s")
        await asyncio.sleep(0.1)


async def bad_requests(requests: int, rate: float) -> tuple[dict[str, Any], list[str]]:
    """The share of requests that a Revision answers which fails every fifth, until it is rolled back."""
    async with started(8, controlled=True) as run:
        await run.apply({}, {})
        await run.pool(4, {})

        async def steady() -> bool:
            held = await run.replicas()
            return (await run.rollout()).get("phase") == "Steady" and held.get(f"{NAME}-00001") == 4

        await until(steady, "the first Revision's floor")
        run.began = time.monotonic()
        run.story.clear()
        async with run.load(rate):
            await run.apply({"ERRORS": "0.2"}, {})

            async def all_sent() -> bool:
                await run.rollout()
                return run.answers.total() >= requests

            await until(all_sent, "the last request")
        total = run.answers.total()
        by_bad = sum(count for (revision, _), count in run.answers.items() if revision.endswith("-00002"))
        failed = sum(count for (_, status), count in run.answers.items() if status != 200)
        found = await run.rollout()
        result = {
            "requests": total,
            "rate": rate,
            "answered_by_bad": by_bad,
            "failed": failed,
            "phase": found.get("phase"),
            "canary_bad_requests": by_bad / total,
        }
        return result, run.story


async def extra_gpu_seconds(
    floor: int, start_s: float, *, steps: bool, rate: float = 5.0
) -> tuple[dict[str, Any], list[str]]:
    """GPU-seconds of one rollout above floor times duration."""
    env = {"START_SECONDS": f"{start_s:g}"}
    plain = {"autoscaling.knative.dev/min-scale": str(floor)}
    quick = {"pause": "5s", "interval": "5s", "minAnswers": 1, "margins": {"errors": "99%", "ttft": "off"}}
    async with started(3 * floor, controlled=steps) as run:
        await run.apply(env, {} if steps else plain)
        if steps:
            await run.pool(floor, quick)

        async def only(revision: str) -> bool:
            if steps and (await run.rollout()).get("phase") != "Steady":
                return False
            ready = [
                condition.get("status")
                for condition in (await run.cluster.get(REVISION, revision, "default"))
                .get("status", {})
                .get("conditions", ())
                if condition["type"] == "Ready"
            ]
            return await run.replicas() == {revision: floor} and ready == ["True"]

        await until(lambda: only(f"{NAME}-00001"), "the first Revision's floor")
        async with run.load(rate):
            await asyncio.sleep(12)  # the autoscaler's window is full
            run.began = time.monotonic()
            run.story.clear()
            before = await run.gpu_seconds()
            await run.apply(env | {"VERSION": "2"}, {} if steps else plain)
            await until(lambda: _exists(run, f"{NAME}-00002"), "the second Revision")
            await until(lambda: only(f"{NAME}-00002"), "the end of the rollout")
            spent, duration = await run.gpu_seconds() - before, time.monotonic() - run.began
        failed = sum(count for (_, status), count in run.answers.items() if status != 200)
        result = {"gpu_s": spent, "seconds": duration, "extra_gpu_s": spent - floor * duration}
        return result | {"failed": failed}, run.story


async def _exists(run: Run, revision: str) -> bool:
    return any(entry["metadata"]["name"] == revision for entry in await run.cluster.list(REVISION, "default"))


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures; the story of each run goes to standard error."""
    bad, bad_story = await bad_requests(options.requests, options.rate)
    _tell("a Revision that fails every fifth request", bad_story)
    stepped, story = await extra_gpu_seconds(options.floor, options.start_seconds, steps=True)
    _tell("a rollout in steps", story)
    plain, _ = await extra_gpu_seconds(options.floor, options.start_seconds, steps=False)
    return {
        "canary_bad_requests": round(bad["canary_bad_requests"], 5),
        "rollout_extra_gpu_s": round(stepped["extra_gpu_s"] / plain["extra_gpu_s"], 3),
        "targets": TARGETS,
        "bad": bad,
        "in_steps": {key: round(value, 2) for key, value in stepped.items()},
        "plain": {key: round(value, 2) for key, value in plain.items()},
        "floor": options.floor,
        "start_seconds": options.start_seconds,
    }


def _tell(what: str, story: list[str]) -> None:
    print(f"\n{what}", file=sys.stderr)
    for line in story:
        print(f"  {line}", file=sys.stderr)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--requests", type=at_least(100), default=10_000)
    parser.add_argument("--rate", type=at_least(1.0), default=100.0, help="requests a second")
    parser.add_argument("--floor", type=at_least(1), default=4)
    parser.add_argument("--start-seconds", type=at_least(0.0), default=10.0)
    options = parser.parse_args()
    result = asyncio.run(measure(options))
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print()
    for key, target in TARGETS.items():
        print(f"{key:24} {result[key]:.4g}   at most {target:g}")
    for name in ("bad", "in_steps", "plain"):
        print(f"{name:24} {result[name]}")


if __name__ == "__main__":
    main()
