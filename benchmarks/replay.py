"""The simulator against what really happened: the demo's agent and model, its pool off and on.

    python benchmarks/replay.py [--json] [--requests N] [--seconds S] [--starts N] [--entry chain|model]

A local platform serves the demo's agent with real vLLM. A probe measures some starts and warm requests, and
the simulator is calibrated by those alone. Then the same requests are replayed live with the pool off and on,
and each arm is simulated with that calibration; `replay_error` is what the simulation was off by.

    cold_starts     simulated - live                   0
    gpu_s           (simulated - live) / live          within 10 %
    e2e_p95_s       (simulated - live) / live          within 10 %

Requests are the demo's prompts: their length and 48 tokens each, in groups with gaps in which the replica
scales to zero. `stolen_share` is the share of processor time that the host of a virtual machine took away.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.arguments import at_least  # noqa: E402 - see above
from knative.client.cluster import Cluster  # noqa: E402
from pilotlight import deploy, stack  # noqa: E402
from pilotlight.agent import Agent  # noqa: E402
from pilotlight.agent_reader import load_agent  # noqa: E402
from pilotlight.demo.run import demo_objects, price, read_prompts  # noqa: E402
from pilotlight.replay.exchange import Dialect, Exchange  # noqa: E402
from pilotlight.replay.pools import find_targets  # noqa: E402
from pilotlight.replay.probe import probe_arms  # noqa: E402
from pilotlight.replay.sender import Planned  # noqa: E402
from pilotlight.replay.session import Platform, Progress, Replay, ReplayPlan, ResultsFile  # noqa: E402
from warmpool.adapters.price_file import packaged_prices  # noqa: E402
from warmpool.experiments.calibrate import Calibration, calibrate_results, comments  # noqa: E402
from warmpool.experiments.experiment import ReplicaSpec  # noqa: E402
from warmpool.experiments.replay_error import ArmComparison, compare_with_simulation  # noqa: E402
from warmpool.experiments.replay_results import ReplayResults, read_results  # noqa: E402
from weights.make_model import make_model  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "examples" / "support"
ALLOWED = 0.10
GROUP = 5
"""Requests between two gaps in which the replica scales to zero."""
PAUSE_S = 55.0


def plan_of(requests: int, seconds: float) -> list[Planned]:
    """The demo's prompts in groups of `GROUP`, which begin `seconds` apart; a request every two seconds."""
    prompts = read_prompts(EXAMPLE / "prompts.jsonl")
    planned = []
    for index in range(requests):
        prompt = prompts[index % len(prompts)]
        due_s = index // GROUP * seconds + index % GROUP * 2.0
        planned.append(Planned(index, due_s, len(prompt.prompt.split()), prompt.max_tokens))
    return planned


class Bench:
    """The demo's agent on a platform, and replays of it."""

    def __init__(self, running: stack.Stack, agent: Agent, folder: Path, entry: str) -> None:
        self._running = running
        self._folder = folder
        model = next(stage for stage in agent.spec.stages if stage.name == "generate")
        self._service = agent.service_name(agent.entry() if entry == "chain" else model)
        self._namespace = agent.metadata.namespace
        url = f"{running.gateway_url}/{self._namespace}/{self._service}/invoke"
        self._exchange = Exchange(url, Dialect.INVOKE, exact=True, timeout_s=600)

    async def replay(self, name: str, cluster: Cluster, **plan: Any) -> ReplayResults:
        """Run a plan; its results."""
        targets = await find_targets(cluster, self._namespace, self._service)
        platform = Platform(cluster, self._running.platform.kubeconfig, targets)
        exchange = Exchange(
            self._exchange.url, self._exchange.dialect, stage=targets.stage, exact=True, timeout_s=600
        )
        path = self._folder / f"{name}.jsonl"
        told = lambda arm, doing, share: share <= 0 and print(f"{name} {arm}: {doing}", file=sys.stderr)  # noqa: E731
        with path.open("w") as stream:
            replay = Replay(
                ReplayPlan(exchange, name, **plan), platform, ResultsFile(stream, path), Progress(told)
            )
            await replay.run(asyncio.Event())
        return read_results(path)


async def measure(arguments: argparse.Namespace, folder: Path) -> tuple[Calibration, list[ArmComparison]]:
    model = make_model(folder / "model", name="support-llama")
    agent = load_agent(EXAMPLE / "agent.yaml").with_model(str(model.path))
    config = stack.StackConfig(
        state_dir=folder / "state", gateway_port=0, api_port=0, gpus=1, env=stack.inherited_env()
    )
    async with stack.running(config) as running:
        await deploy.apply(running.cluster, demo_objects(agent))
        names = [agent.service_name(stage) for stage in agent.spec.stages]
        async for _ in deploy.watch_until_ready(
            running.cluster, names, agent.metadata.namespace, timeout_s=600
        ):
            pass
        bench = Bench(running, agent, folder, arguments.entry)
        probe = probe_arms(starts=arguments.starts, warm=18, company=3)
        probed = await bench.replay("probe", running.cluster, requests=(), arms=probe)
        found = calibrate_results([probed], least_starts=1)
        requests = plan_of(arguments.requests, arguments.seconds)
        results = await bench.replay("replay", running.cluster, requests=requests)
    assert found.service is not None
    assert found.cold_start is not None
    replica = ReplicaSpec(
        cold_start=found.cold_start.spec, slowdown=found.service.slowdown or 0.0, hourly=price().per_hour
    )
    return found, compare_with_simulation(results, found.service.service, replica, packaged_prices())


def verdict(arm: ArmComparison) -> bool:
    """Whether an arm is as close as it has to be."""
    shares = (arm.gpu_s.error, arm.e2e_p95_s.error)
    return arm.cold_starts.live == arm.cold_starts.simulated and all(
        error is not None and abs(error) <= ALLOWED for error in shares
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--requests", type=at_least(GROUP), default=10, help="of each arm")
    parser.add_argument("--seconds", type=at_least(10.0), default=PAUSE_S, help="between two groups")
    parser.add_argument(
        "--starts", type=at_least(1), default=1, help="that the probe measures besides those of its warm arms"
    )
    parser.add_argument("--entry", choices=("chain", "model"), default="model", help="what is called")
    parser.add_argument("--keep", type=Path, help="folder that keeps the results of probe and replay")
    arguments = parser.parse_args()
    before = psutil.cpu_times()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found, arms = asyncio.run(measure(arguments, folder))
    after = psutil.cpu_times()
    stolen = (after.steal - before.steal) / max(1e-9, sum(after) - sum(before))
    report = {
        "replay_error": {
            arm.arm: {
                "cold_starts": arm.cold_starts.simulated - (arm.cold_starts.live or 0),
                "gpu_s": arm.gpu_s.error,
                "e2e_p95_s": arm.e2e_p95_s.error,
                "reached": verdict(arm),
            }
            for arm in arms
        },
        "arms": {arm.arm: arm.to_json() for arm in arms},
        "calibration": found.to_spec(),
        "fit": comments(found),
        "stolen_share": stolen,
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    for arm in arms:
        for label, figures in (
            ("cold starts", arm.cold_starts),
            ("GPU-seconds", arm.gpu_s),
            ("end-to-end p95, s", arm.e2e_p95_s),
        ):
            error = "-" if figures.error is None else f"{figures.error:+.1%}"
            live = "-" if figures.live is None else f"{figures.live:.2f}"
            print(f"{arm.arm:<10}{label:<20}live {live:>9}  simulated {figures.simulated:9.2f}  {error}")
    for text in comments(found):
        print(text)
    print(f"stolen share of processor time: {stolen:.1%}")


if __name__ == "__main__":
    main()
