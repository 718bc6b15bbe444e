"""The simulation of a replay's arms beside what was measured, and how far off it was.

The simulator gets what the replay did and nothing that it was answered: the instants at which requests were
sent, their tokens, the pool in force and when it was switched off. What it predicts are the waits, the cold
starts and the GPU-seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

import numpy as np

from knative.autoscaling import kpa
from knative.autoscaling.annotations import AutoscalingSpec
from knative.autoscaling.annotations import parse as parse_annotations
from warmpool.domain.cost import PriceList
from warmpool.domain.floor import Floor
from warmpool.experiments.experiment import Experiment, ReplicaSpec, ServiceTime, parse_experiment
from warmpool.experiments.floors import NEVER, FloorPolicy, Second
from warmpool.experiments.parts import floor_policy, replica_of, service_model
from warmpool.experiments.replay_results import ArmRecord, ReplayHeader, ReplayResults, RequestRecord
from warmpool.experiments.result import Result
from warmpool.experiments.run import Prepared, run_arm
from warmpool.experiments.trace import Trace, varied

SEEDS: Final = 15
"""Simulations of each arm: a single start is a single draw."""
_SPARE_S: Final = 0.5
_ENDS: Final = (5.0, 95.0)


@dataclass(frozen=True, slots=True)
class _Model:
    """What the simulations of a replay share."""

    header: ReplayHeader
    service: ServiceTime
    shape: ReplicaSpec
    prices: PriceList


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure, measured and simulated; None where it is not known.

    Attributes:
        live: as measured.
        simulated: the median over the seeds.
        low: the 5th percentile over the seeds.
        high: the 95th.
    """

    live: float | None
    simulated: float
    low: float
    high: float

    @property
    def error(self) -> float | None:
        """(simulated - live) / live; None without a measurement other than zero."""
        return None if not self.live else (self.simulated - self.live) / self.live


@dataclass(frozen=True, slots=True)
class ArmComparison:
    """One arm: live and simulated.

    Attributes:
        arm: its name.
        requests: good ones, which are compared.
        failed: those without a good answer, which the simulation has not.
        unknown: good ones of which nothing says whether they were cold.
        complete: whether the arm was replayed to its end.
        late_p95_s: the sender's own lateness.
        cold_starts: requests that waited for a start.
        cold_rate: their share.
        ttft_p50_s: from the sending to the first token.
        ttft_p95_s: the same.
        e2e_p50_s: from the sending to the end.
        e2e_p95_s: the same.
        due_ttft_p50_s: measured, from the instant at which a request was due to its first token.
        due_ttft_p95_s: the same.
        due_e2e_p50_s: to its end.
        due_e2e_p95_s: the same.
        held_back: requests that waited for the limit on requests in flight.
        itl_p50_s: gap between tokens, measured alone; None without tokens.
        itl_p95_s: the same.
        gpu_s: GPU-seconds, from the order of the first replica until the last is gone.
        cost: at the price of the replica; of what was measured.
        source: who counted the GPU-seconds; None: nobody.
        live_e2e_s: every good request's, for a picture; not part of the JSON.
        simulated_e2e_s: those of one simulation.
    """

    arm: str
    requests: int
    failed: int
    unknown: int
    complete: bool
    late_p95_s: float | None
    cold_starts: Compared
    cold_rate: Compared
    ttft_p50_s: Compared
    ttft_p95_s: Compared
    e2e_p50_s: Compared
    e2e_p95_s: Compared
    due_ttft_p50_s: float | None
    due_ttft_p95_s: float | None
    due_e2e_p50_s: float | None
    due_e2e_p95_s: float | None
    held_back: int
    itl_p50_s: float | None
    itl_p95_s: float | None
    gpu_s: Compared
    cost: float | None
    source: str | None
    live_e2e_s: tuple[float, ...]
    simulated_e2e_s: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Every figure, with its error."""
        content: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, tuple):
                continue
            if isinstance(value, Compared):
                value = {key: _rounded(getattr(value, key)) for key in (*Compared.__slots__, "error")}
            content[name] = _rounded(value) if isinstance(value, float) else value
        return content


class SwitchedFloor:
    """Another policy's floor from one instant to another: a pool that is switched on, and off again."""

    drains = True
    orders_warmth = False

    def __init__(self, policy: FloorPolicy, on_s: float, off_s: float) -> None:
        self._policy = policy
        self._on_s = on_s
        self._off_s = off_s
        self._now = 0.0

    def observe(self, second: Second, now: float) -> None:
        """The policy's business."""
        self._policy.observe(second, now)

    def idle(self, seconds: int) -> int:
        """As long as the policy, and not past a switch."""
        asked = self._policy.idle(seconds)
        for switch in (self._on_s, self._off_s):
            if switch > self._now:
                return min(asked, max(1, int(switch - self._now)))
        return asked

    def decide(self, now: float) -> tuple[Floor, float]:
        """The policy's floor, or none."""
        self._now = now
        if now < self._on_s:
            return Floor.of(0), self._on_s
        if now >= self._off_s:
            return Floor.of(0), NEVER
        floor, until = self._policy.decide(now)
        return floor, min(until, self._off_s)


def compare_with_simulation(
    results: ReplayResults,
    service: ServiceTime,
    replica: ReplicaSpec,
    prices: PriceList,
    *,
    seeds: int = SEEDS,
) -> list[ArmComparison]:
    """Simulate each arm of a replay and compare; arms whose end is not in the file are left out."""
    shape = replica.model_copy(
        update={"concurrency": results.header.container_concurrency, "gpus": results.header.gpus}
    )
    model = _Model(results.header, service, shape, prices)
    compared = []
    for record in results.arms:
        requests = results.of(record.arm)
        if any(request.error is None for request in requests):
            sent = sorted(requests, key=lambda request: request.sent_s)
            simulated = [_simulate(model, record, sent, seed) for seed in range(seeds)]
            compared.append(_compare(model, record, requests, simulated))
    return compared


def _simulate(model: _Model, record: ArmRecord, sent: Sequence[RequestRecord], seed: int) -> Result:
    experiment = experiment_of(model.header, record, model.service, model.shape, seed)
    arm = experiment.spec.arms[0]
    replica = replica_of(model.shape, model.prices)
    floor = record.floor or 0
    # A live arm's first request is due once the floor is hot: so is the simulated one's.
    drawn = replica.cold_starts.draw(256, np.random.default_rng(seed))[:floor]
    later = max(0.0, float(drawn.max()) + _SPARE_S - record.first_due_s) if floor else 0.0
    # Nobody knows where between two of the autoscaler's decisions the live arm began.
    phase = float(np.random.default_rng((seed, 1)).uniform(0, kpa.TICK_S))
    later += phase
    arrivals = np.array([request.sent_s for request in sent]) + later
    start = record.began - timedelta(seconds=later)
    trace = _trace_of(sent, arrivals, start)
    policy = floor_policy(arm, start, replica, model.prices, model.shape)
    if record.released_s is not None:
        policy = SwitchedFloor(policy, math.floor(phase), record.released_s + later)
    times = varied(service_model(model.service).times(trace), model.service.sigma, seed)
    prepared = Prepared(experiment, trace, start, times, model.prices)
    return run_arm(prepared, arm, autoscaling=autoscaling_of(model.header), policy=policy).result


def autoscaling_of(header: ReplayHeader) -> AutoscalingSpec:
    """The settings of the Revision that was called, without a floor of its template's own."""
    return replace(parse_annotations(header.autoscaling, admitted=True), min_scale=0)


def experiment_of(
    header: ReplayHeader, record: ArmRecord, service: ServiceTime, shape: ReplicaSpec, seed: int
) -> Experiment:
    """The arm as an experiment of its own; the trace is what was sent, so the file's is not read."""
    arm: dict[str, Any] = {"name": record.arm}
    arm |= {"pool": dict(record.pool)} if record.pool else {"autoscalerOnly": True}
    experiment = parse_experiment(
        {
            "apiVersion": "pilotlight.dev/v1alpha1",
            "kind": "Experiment",
            "metadata": {"name": "replay"},
            "spec": {"trace": {"file": header.trace or "trace"}, "seed": seed, "arms": [arm]},
        }
    )
    spec = experiment.spec.model_copy(update={"service": service, "replica": shape})
    return experiment.model_copy(update={"spec": spec})


def _trace_of(sent: Sequence[RequestRecord], arrivals: Any, start: Any) -> Trace:
    def column(name: str) -> Any:
        values = [getattr(request, name) for request in sent]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    count = len(sent)
    return Trace(
        arrivals=arrivals,
        functions=np.zeros(count, dtype=np.int64),
        names=("function",),
        service_s=np.full(count, np.nan),
        input_tokens=column("input_tokens"),
        output_tokens=column("output_tokens"),
        start=start,
    )


def _compare(
    model: _Model, record: ArmRecord, requests: Sequence[RequestRecord], simulated: Sequence[Result]
) -> ArmComparison:
    good = [request for request in requests if request.error is None]
    known = [request.cold for request in good if request.cold is not None]
    cold = float(sum(known)) if len(known) == len(good) else None
    firsts = [r.first_token_s for r in good if r.first_token_s is not None]
    wholes = [r.answered_s for r in good if r.answered_s is not None]
    due_firsts = [r.ttft_s for r in good if r.ttft_s is not None]
    due_wholes = [r.e2e_s for r in good if r.e2e_s is not None]
    gaps = [gap for request in good for gap in request.itl_s]
    ends = [result.waited_s + result.served_s for result in simulated]
    hourly = replica_of(model.shape, model.prices).hourly
    gpu_s = None if record.gpu is None else record.gpu.total
    return ArmComparison(
        arm=record.arm,
        requests=len(good),
        failed=len(requests) - len(good),
        unknown=len(good) - len(known),
        complete=record.complete,
        late_p95_s=_percentile([request.late_s for request in requests], 95),
        cold_starts=_figures(cold, [float(result.cold.sum()) for result in simulated]),
        cold_rate=_figures(
            None if cold is None else cold / len(good), [result.cold_rate for result in simulated]
        ),
        ttft_p50_s=_over(firsts, 50, [result.first_token_s for result in simulated]),
        ttft_p95_s=_over(firsts, 95, [result.first_token_s for result in simulated]),
        e2e_p50_s=_over(wholes, 50, ends),
        e2e_p95_s=_over(wholes, 95, ends),
        due_ttft_p50_s=_percentile(due_firsts, 50),
        due_ttft_p95_s=_percentile(due_firsts, 95),
        due_e2e_p50_s=_percentile(due_wholes, 50),
        due_e2e_p95_s=_percentile(due_wholes, 95),
        held_back=record.held_back,
        itl_p50_s=_percentile(gaps, 50),
        itl_p95_s=_percentile(gaps, 95),
        gpu_s=_figures(gpu_s, [result.gpu_s for result in simulated]),
        cost=None if gpu_s is None else gpu_s / 3600 * hourly,
        source=None if record.gpu is None else record.gpu.source,
        live_e2e_s=tuple(wholes),
        simulated_e2e_s=tuple(float(value) for value in ends[0]),
    )


def _over(live: Sequence[float], q: float, simulated: Sequence[Any]) -> Compared:
    return _figures(_percentile(live, q), [float(np.percentile(values, q)) for values in simulated])


def _figures(live: float | None, simulated: Sequence[float]) -> Compared:
    low, high = (float(np.percentile(simulated, q)) for q in _ENDS)
    return Compared(live, float(np.median(simulated)), low, high)


def _percentile(values: Sequence[float], q: float) -> float | None:
    return float(np.percentile(values, q)) if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
