"""The simulator against what really happened: the demo's agent and model, its pool off and on.

    python benchmarks/replay.py [--json] [--requests N] [--first S] [--starts N] [--keep FOLDER]

A local platform serves the demo's agent with real vLLM. Its prompts are replayed at the URL of its model
with the pool off and on; arms of a probe before, between and after them measure starts and warm requests.
Each arm is then simulated twice: calibrated by the probe alone, which has seen nothing of the arms
(`replay_error`), and by the arms themselves, as the demo prices its month (`replay_error_own`).

    cold_starts     simulated - live                   0
    gpu_s           (simulated - live) / live          within 10 %
    e2e_p95_s       (simulated - live) / live          within 10 %

As in the demo the first prompt finds no replica, and the others come one after another once it is there.
`stolen_share` is the share of processor time that the host of a virtual machine took away.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.arguments import at_least  # noqa: E402 - see above
from pilotlight import deploy, stack  # noqa: E402
from pilotlight.agent_reader import load_agent  # noqa: E402
from pilotlight.demo.run import demo_objects, price, read_prompts  # noqa: E402
from pilotlight.replay.arms import POOL_OFF, POOL_ON, default_arms  # noqa: E402
from pilotlight.replay.exchange import Dialect, Exchange  # noqa: E402
from pilotlight.replay.pools import find_targets  # noqa: E402
from pilotlight.replay.probe import probe_arms  # noqa: E402
from pilotlight.replay.sender import Planned  # noqa: E402
from pilotlight.replay.session import Replay  # noqa: E402
from pilotlight.replay.values import Platform, ReplayPlan, ReplayProgress, ResultsFile  # noqa: E402
from pilotlight.stage_spec import Kind  # noqa: E402
from warmpool.adapters.price_file import packaged_prices  # noqa: E402
from warmpool.experiments.calibrate import Calibration, calibrate_results, comments  # noqa: E402
from warmpool.experiments.experiment import ReplicaSpec  # noqa: E402
from warmpool.experiments.replay_error import ArmComparison, compare_with_simulation  # noqa: E402
from warmpool.experiments.replay_results import ReplayResults, read_results  # noqa: E402
from weights.make_model import make_model  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "examples" / "support"
ALLOWED = 0.10
ARMS = (POOL_OFF, POOL_ON)
EVERY_S = 2.0
"""Between two prompts after the first one's pause."""


def plan_of(requests: int, pause_s: float) -> list[Planned]:
    """The demo's prompts: one, a pause in which the replica starts, then one every two seconds."""
    prompts = read_prompts(EXAMPLE / "prompts.jsonl")
    planned = []
    for index in range(requests):
        prompt = prompts[index % len(prompts)]
        due_s = pause_s + (index - 1) * EVERY_S if index else 0.0
        planned.append(Planned(index, due_s, len(prompt.prompt.split()), prompt.max_tokens))
    return planned


async def measure(arguments: argparse.Namespace, folder: Path) -> ReplayResults:
    """Replay the probe and both arms; one file."""
    model = make_model(folder / "model", name="support-llama")
    agent = load_agent(EXAMPLE / "agent.yaml").with_model(str(model.path))
    generate = next(stage for stage in agent.spec.services if stage.kind is Kind.GENERATE)
    service, namespace = agent.service_name(generate), agent.metadata.namespace
    config = stack.StackConfig(
        state_dir=folder / "state", gateway_port=0, api_port=0, gpus=1, env=stack.inherited_env()
    )
    path = folder / "replay.jsonl"
    async with stack.running(config) as running:
        cluster = running.cluster
        await deploy.apply(cluster, demo_objects(agent))
        names = [agent.service_name(stage) for stage in agent.spec.services]
        async for _ in deploy.watch_until_ready(cluster, names, namespace, timeout_s=600):
            pass
        *starts, alone, company = probe_arms(starts=arguments.starts, warm=18, company=3)
        requests = plan_of(arguments.requests, arguments.first)
        off, on = (replace(arm, requests=requests) for arm in default_arms(None))
        url = f"{running.gateway_url}/{namespace}/{service}/invoke"
        plan = ReplayPlan(
            Exchange(url, Dialect.INVOKE, exact=True, timeout_s=600),
            trace="the demo's prompts",
            requests=requests,
            arms=(*starts, off, alone, on, company),
        )
        platform = Platform(
            cluster, running.platform.kubeconfig, await find_targets(cluster, namespace, service)
        )
        with path.open("w") as stream:
            replay = Replay(plan, platform, ResultsFile(stream, path), ReplayProgress(_told))
            await replay.run(asyncio.Event())
    return read_results(path)


def _told(arm: str, doing: str, share: float) -> None:
    if share <= 0:
        print(f"{arm}: {doing}", file=sys.stderr)


def simulate(results: ReplayResults, *, by_probe: bool) -> tuple[Calibration, list[ArmComparison]]:
    """Both arms beside simulations that know the probe alone, or the arms alone."""
    measured = _only(results, lambda name: (name in ARMS) is not by_probe)
    found = calibrate_results([measured], least_starts=1)
    assert found.service is not None
    assert found.cold_start is not None
    replica = ReplicaSpec(
        cold_start=found.cold_start.spec,
        slowdown=found.service.slowdown or 0.0,
        stop_seconds=found.stop_s or 0.0,
        hourly=price().per_hour,
    )
    arms = _only(results, lambda name: name in ARMS)
    return found, compare_with_simulation(arms, found.service.service, replica, packaged_prices())


def _only(results: ReplayResults, wanted: Callable[[str], bool]) -> ReplayResults:
    return ReplayResults(
        results.header,
        tuple(arm for arm in results.arms if wanted(arm.arm)),
        tuple(request for request in results.requests if wanted(request.arm)),
    )


def verdict(arm: ArmComparison) -> bool:
    """Whether an arm is as close as it has to be."""
    shares = (arm.gpu_s.error, arm.e2e_p95_s.error)
    return arm.cold_starts.live == arm.cold_starts.simulated and all(
        error is not None and abs(error) <= ALLOWED for error in shares
    )


def errors(arms: Sequence[ArmComparison]) -> dict[str, dict[str, float | bool | None]]:
    """What is judged, for each arm."""
    return {
        arm.arm: {
            "cold_starts": arm.cold_starts.simulated - (arm.cold_starts.live or 0),
            "gpu_s": arm.gpu_s.error,
            "e2e_p95_s": arm.e2e_p95_s.error,
            "reached": verdict(arm),
        }
        for arm in arms
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--requests", type=at_least(2), default=20, help="of each arm")
    parser.add_argument("--first", type=at_least(1.0), default=30.0, help="seconds after the first request")
    parser.add_argument("--starts", type=at_least(0), default=1, help="of the probe, besides its warm arms'")
    parser.add_argument("--keep", type=Path, help="folder that keeps the results of the replay")
    arguments = parser.parse_args()
    before = psutil.cpu_times()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = asyncio.run(measure(arguments, folder))
    after = psutil.cpu_times()
    stolen = (after.steal - before.steal) / max(1e-9, sum(after) - sum(before))
    report: dict[str, Any] = {"stolen_share": stolen}
    for key, by_probe in (("replay_error", True), ("replay_error_own", False)):
        found, arms = simulate(results, by_probe=by_probe)
        report[key] = errors(arms)
        report[f"{key}_arms"] = {arm.arm: arm.to_json() for arm in arms}
        report[f"{key}_fit"] = [*comments(found), json.dumps(found.to_spec())]
        if not arguments.json:
            show(key, arms, report[f"{key}_fit"])
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"stolen share of processor time: {stolen:.1%}")


def show(key: str, arms: Sequence[ArmComparison], fit: Sequence[str]) -> None:
    print(key)
    for arm in arms:
        for label, figures in (
            ("cold starts", arm.cold_starts),
            ("GPU-seconds", arm.gpu_s),
            ("end-to-end p95, s", arm.e2e_p95_s),
        ):
            error = "-" if figures.error is None else f"{figures.error:+.1%}"
            live = "-" if figures.live is None else f"{figures.live:.2f}"
            print(f"  {arm.arm:<10}{label:<20}live {live:>9}  simulated {figures.simulated:9.2f}  {error}")
    for text in fit:
        print(f"  {text}")


if __name__ == "__main__":
    main()
