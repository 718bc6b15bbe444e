"""GPU-seconds of warm-pool policies over the clairvoyant bound, at the same rate of cold starts.

    python benchmarks/policies.py --json TRACE ...

One request per replica. A start costs `--load-s` GPU-seconds; a request runs `--service-base-s` plus so much
for each token of its prompt and each generated token, or `--service-s` whatever the trace says. Every policy
learns from the past of the trace alone; of each, the parameter that is cheapest at a rate is taken in
hindsight. The bound knows the whole trace and leaves no request cold. The drain after the last request is
charged.

`targets` is the default policy as users get it: told the rate and nothing else. `got` is the rate that it
got, `vs_hindsight` its GPU-seconds over those of the best fixed keep-alive chosen in hindsight at that rate.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])

import numpy as np  # noqa: E402

from warmpool.experiments import bound, levels, policies  # noqa: E402
from warmpool.experiments.errors import TraceError  # noqa: E402
from warmpool.experiments.formats import read_trace  # noqa: E402
from warmpool.experiments.trace import ServiceModel  # noqa: E402

RATES = (0.005, 0.01, 0.02, 0.05)
TARGETS = (0.01, 0.02, 0.05)


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    model = ServiceModel(
        arguments.service_base_s, arguments.context_s, arguments.token_s, arguments.service_s
    )
    traces: dict[str, Any] = {}
    for path in arguments.traces:
        print(f"{path} ...", file=sys.stderr, flush=True)
        try:
            trace = read_trace(path, seed=arguments.seed, skip_bad_rows=arguments.skip_bad_rows)
        except TraceError as error:
            sys.exit(f"error: {error}")
        traces[str(path)] = measure(trace.arrivals, model.times(trace), arguments.load_s)
    result = {"default": policies.DEFAULT, "traces": traces, "target_vs_hindsight": _medians(traces)}
    if arguments.json:
        print(json.dumps(result))
    else:
        _show(result)


def measure(arrivals: Any, service_s: Any, load_s: float) -> dict[str, Any]:
    """All policies on one trace: GPU-seconds over the bound at each rate."""
    gaps = bound.gaps_of(arrivals, service_s)
    least = gaps.bound(load_s)
    demand = levels.demand_of(arrivals, service_s)
    found = {}
    for name in ("keep-alive", *policies.POLICIES):
        frontier = policies.frontier(name, arrivals, service_s, demand, gaps, load_s)
        found[name] = {f"{rate:g}": _over(frontier.at(rate), least) for rate in RATES}
    outcome = levels.simulate(
        arrivals, service_s, levels.target_floors(demand, load_s, np.array(TARGETS)), load_s
    )
    keep_alive = policies.frontier("keep-alive", arrivals, service_s, demand, gaps, load_s)
    targets = {}
    for target, rate, gpu_s in zip(TARGETS, outcome.cold_rate, outcome.gpu_s, strict=True):
        hindsight = keep_alive.at(float(rate))
        targets[f"{target:g}"] = {
            "got": round(float(rate), 5),
            "over_bound": _over(float(gpu_s), least),
            "vs_hindsight": None if hindsight is None else round(float(gpu_s) / hindsight, 4),
        }
    return {
        "requests": len(arrivals),
        "bound_gpu_s": round(least, 1),
        "policies": found,
        "targets": targets,
    }


def _over(gpu_s: float | None, least: float) -> float | None:
    return None if gpu_s is None else round(gpu_s / least, 4)


def _medians(traces: dict[str, Any]) -> dict[str, float | None]:
    result: dict[str, float | None] = {}
    for target in (f"{target:g}" for target in TARGETS):
        values = [
            trace["targets"][target]["vs_hindsight"]
            for trace in traces.values()
            if trace["targets"][target]["vs_hindsight"] is not None
        ]
        result[target] = round(median(values), 4) if values else None
    return result


def _show(result: dict[str, Any]) -> None:
    for path, trace in result["traces"].items():
        print(f"{path}: {trace['requests']:,} requests, bound {trace['bound_gpu_s']:,.0f} GPU-seconds")
        print(f"  {'GPU-seconds over the bound at':<32}" + "".join(f"{rate:>9.1%}" for rate in RATES))
        for name, values in sorted(trace["policies"].items(), key=lambda item: item[1]["0.01"] or 99):
            cells = "".join(f"{'-' if value is None else f'{value:.3f}':>9}" for value in values.values())
            print(f"  {name + (' (default)' if name == result['default'] else ''):<32}{cells}")
        for target, told in trace["targets"].items():
            print(f"  told {float(target):.0%}: got {told['got']:.2%}, over hindsight {told['vs_hindsight']}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("traces", nargs="+", type=Path, metavar="TRACE")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--load-s", type=_positive, default=30.0, help="seconds that a replica loads")
    parser.add_argument("--service-s", type=_positive, help="seconds of every request")
    parser.add_argument("--service-base-s", type=_positive, default=0.05)
    parser.add_argument("--context-s", type=_positive, default=0.0002, help="seconds per token of the prompt")
    parser.add_argument("--token-s", type=_positive, default=0.025, help="seconds per generated token")
    parser.add_argument("--seed", type=int, default=0, help="for arrivals that a trace does not hold")
    parser.add_argument("--skip-bad-rows", action="store_true")
    return parser.parse_args()


def _positive(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text}: must be from 0 to 1,000,000 seconds")
    return value


if __name__ == "__main__":
    main()
