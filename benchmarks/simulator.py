"""How fast experiments are simulated, over SimFaaS 0.2.2, over SimPy, and for a fleet.

    python benchmarks/simulator.py --json

`vs_simfaas`: requests simulated per second over SimFaaS, on its own model: Poisson arrivals, exponential
service, idle instances that die after a time; 50 requests/s of 2 s, about 139 instances. Both draw their
own requests. `kpa_requests_per_s` over SimPy: one function with Knative's autoscaler, the activator's queue
and a container concurrency of one; SimPy runs the same autoscaler (this project's) every second, and
requests as processes; `kpa_requests_per_s_long` the same for ten times as many requests. `fleet`: 1,000
functions for 14 days on a shared number of GPUs, on one processor: seconds and MiB.

Ratios are of medians over `--rounds`, the two in turn. All times are of the processor: everything here runs
on one, and other programs on the machine do not count.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])

import numpy as np  # noqa: E402

from benchmarks.arguments import at_least  # noqa: E402
from knative.autoscaling.annotations import AutoscalingSpec  # noqa: E402
from knative.autoscaling.revision_autoscaler import RevisionAutoscaler, RevisionScaling  # noqa: E402
from warmpool.experiments import bound  # noqa: E402
from warmpool.experiments.cold_start import Constant  # noqa: E402
from warmpool.experiments.fleet import Function, simulate_fleet  # noqa: E402
from warmpool.experiments.floors import FixedFloor  # noqa: E402
from warmpool.experiments.simulator import Load, Replica, simulate  # noqa: E402

RATE, SERVICE_S, KEPT_S = 50.0, 2.0, 10.0
LOAD_S = 30.0
DAYS = 14


def ours_as_simfaas(requests: int, seed: int) -> float:
    """Requests per second of the closed form for keep-alives, the drawing of requests included."""
    rng = np.random.default_rng(seed)
    began = time.process_time()
    arrivals = np.cumsum(rng.exponential(1 / RATE, requests))
    bound.gaps_of(arrivals, rng.exponential(SERVICE_S, requests)).keep_alive(KEPT_S, 0.0)
    return requests / (time.process_time() - began)


def simfaas(requests: int, seed: int) -> float:
    """Requests per second of SimFaaS."""
    from simfaas.ServerlessSimulator import ServerlessSimulator  # noqa: PLC0415

    np.random.seed(seed)  # noqa: NPY002 - what it draws from
    simulator = ServerlessSimulator(
        arrival_rate=RATE,
        warm_service_rate=1 / SERVICE_S,
        cold_service_rate=1 / SERVICE_S,
        expiration_threshold=KEPT_S,
        max_time=requests / RATE,
    )
    began = time.process_time()
    simulator.generate_trace(debug_print=False, progress=False)
    return float(simulator.total_req_count) / (time.process_time() - began)


def load(requests: int, seed: int) -> Load:
    """One function's requests for the comparison with SimPy."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / 5.0, requests))
    service = rng.exponential(SERVICE_S, requests)
    return Load("f", arrivals, service, np.full(requests, 0.1))


def ours_with_kpa(requests: int, seed: int) -> float:
    """Requests per second of the simulator."""
    drawn = load(requests, seed)
    began = time.process_time()
    result = simulate(drawn, Replica(Constant(LOAD_S)), FixedFloor(0), seed=seed)
    assert result.lost == 0
    return requests / (time.process_time() - began)


def simpy_with_kpa(requests: int, seed: int) -> float:  # noqa: C901, PLR0915 - one model, read in one go
    """Requests per second of the same model in SimPy."""
    import simpy  # noqa: PLC0415

    drawn = load(requests, seed)
    began = time.process_time()
    env = simpy.Environment()
    autoscaler = RevisionAutoscaler(RevisionScaling(AutoscalingSpec(), 1), 0.0, 0)
    free: Any = simpy.Store(env)
    state = {"inside": 0, "area": 0.0, "since": 0.0, "pods": 0, "left": requests, "to_drop": 0}

    def change(by: int) -> None:
        state["area"] += state["inside"] * (env.now - state["since"])
        state["since"] = env.now
        state["inside"] += by

    def request(service_s: float) -> Any:
        change(1)
        pod = yield free.get()
        yield env.timeout(service_s)
        change(-1)
        state["left"] -= 1
        if state["to_drop"]:
            state["to_drop"] -= 1
            state["pods"] -= 1
        else:
            free.put(pod)

    def arrive() -> Any:
        before = 0.0
        for at, service_s in zip(drawn.arrivals, drawn.service_s, strict=True):
            yield env.timeout(at - before)
            before = at
            env.process(request(service_s))

    def start() -> Any:
        yield env.timeout(LOAD_S)
        free.put(object())

    def control() -> Any:
        while state["left"]:
            yield env.timeout(1.0)
            change(0)
            mean, state["area"] = state["area"], 0.0
            autoscaler.record(env.now, concurrency=mean, requests=0.0)
            ready = state["pods"]
            autoscaler.ready = autoscaler.total = ready
            if env.now % 2 == 0 or not autoscaler.desired_scale:
                autoscaler.decide(env.now)
            autoscaler.reconcile(env.now)
            while state["pods"] < autoscaler.replicas:
                state["pods"] += 1
                env.process(start())
            while state["pods"] - state["to_drop"] > autoscaler.replicas:
                if free.items:
                    free.items.pop()
                    state["pods"] -= 1
                else:
                    state["to_drop"] += 1

    env.process(arrive())
    env.process(control())
    env.run()
    return requests / (time.process_time() - began)


def fleet(functions: int, seed: int) -> dict[str, float]:
    """A fleet for two weeks: heavy-tailed rates with a median of five requests a day, a shared GPU cap."""
    rng = np.random.default_rng(seed)
    members = []
    requests = 0
    for index in range(functions):
        count = min(20_000, int(rng.lognormal(np.log(5 * DAYS), 1.3)) + 1)
        requests += count
        arrivals = np.sort(rng.random(count)) * DAYS * 86_400
        service = rng.lognormal(np.log(3.0), 0.6, count)
        drawn = Load(f"f{index}", arrivals, service, np.full(count, 0.1))
        members.append(Function(drawn, Replica(Constant(LOAD_S)), FixedFloor(0)))
    began = time.process_time()
    results = simulate_fleet(members, gpus=functions // 10, seed=seed)
    taken = time.process_time() - began
    assert sum(result.lost for result in results) == 0
    return {
        "functions": functions,
        "requests": requests,
        "seconds": round(taken, 1),
        "mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--requests", type=at_least(1000), default=40_000, help="of each comparison")
    parser.add_argument("--functions", type=at_least(10), default=1000, help="of the fleet")
    arguments = parser.parse_args()
    ours_as_simfaas(1000, 0)
    ours_with_kpa(1000, 0)  # compiled before anything is measured
    measured: dict[str, list[float]] = {}
    runs: dict[str, tuple[Callable[[int, int], float], int]] = {
        "ours_as_simfaas": (ours_as_simfaas, arguments.requests * 50),
        "simfaas": (simfaas, arguments.requests),
        "ours_with_kpa": (ours_with_kpa, arguments.requests),
        "simpy_with_kpa": (simpy_with_kpa, arguments.requests),
        "ours_with_kpa_long": (ours_with_kpa, arguments.requests * 10),
        "simpy_with_kpa_long": (simpy_with_kpa, arguments.requests * 10),
    }
    for turn in range(arguments.rounds):
        for name, (measure, requests) in runs.items():
            print(f"round {turn + 1}: {name} ...", file=sys.stderr, flush=True)
            measured.setdefault(name, []).append(measure(requests, turn))
    rates = {name: median(values) for name, values in measured.items()}
    result = {
        "vs_simfaas": round(rates["ours_as_simfaas"] / rates["simfaas"], 1),
        "kpa_requests_per_s": round(rates["ours_with_kpa"] / rates["simpy_with_kpa"], 2),
        "kpa_requests_per_s_long": round(rates["ours_with_kpa_long"] / rates["simpy_with_kpa_long"], 2),
        "requests_per_s": {name: round(rate) for name, rate in rates.items()},
        "fleet": fleet(arguments.functions, 0),
    }
    print(json.dumps(result) if arguments.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
