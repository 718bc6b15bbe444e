"""The policies that an experiment compares: floors over a trace, each learning from its past alone.

A policy is a family with one parameter that trades cost for cold starts; `frontier` sweeps it. Sources:

* keep-alive: an idle replica is kept for a fixed time.
* hazard: `warmpool.policy.hazard`, by price or by target.
* staffing: mean demand plus a multiple of its deviation (square-root staffing with peakedness).
* erlang: the fewest replicas whose Erlang-B blocking is small enough, with Hayward's correction for
  peakedness.
* peak: the highest demand of a recent window, as Knative's scale-down delay holds it.
* target-tracking: AWS Lambda's provisioned concurrency: out after three minutes above the target utilisation,
  in after fifteen minutes below nine tenths of it.
* histogram: Shahrad et al., Serverless in the Wild (ATC 2020), for each level: kept until a percentile of its
  past idle gaps.
* fft: Roy et al., IceBreaker (ASPLOS 2022): harmonics of the demand per minute, one interval ahead.
* seasonal: a quantile of the peaks at this time of day, over the days so far.
* always-on: the trace's own peak, at all times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from warmpool.experiments import kernels, levels
from warmpool.experiments.bound import Gaps
from warmpool.experiments.levels import MOVE_TICKS, DemandSeries

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DEFAULT: Final = "hazard"
"""The policy that a WarmPool's forecast uses unless it names another."""
_MINUTE: Final = 60
_NEGLIGIBLE: Final = 0.05
"""A mean demand that stands for none: exponential averages never reach zero."""


@dataclass(frozen=True, slots=True)
class PolicyFamily:
    """A family of floors.

    Attributes:
        floors: from demand and load time (s) to floors (parameters, moves).
        ahead: whether its floors start replicas before demand comes.
    """

    floors: Callable[[DemandSeries, float], Ints]
    ahead: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """Cost against cold starts of one policy, over its parameter; each (parameters,)."""

    gpu_s: Floats
    cold_rate: Floats

    def at(self, rate: float) -> float | None:
        """The fewest GPU-seconds that keep a rate of cold starts; None where the policy cannot."""
        kept = self.gpu_s[self.cold_rate <= rate]
        return float(kept.min()) if len(kept) else None


def frontier(  # noqa: PLR0917 - a policy, a trace three ways, a load time
    name: str, arrivals: Floats, service_s: Floats, demand: DemandSeries, gaps: Gaps, load_s: float
) -> Frontier:
    """Sweep a policy's parameter over a trace.

    Raises:
        KeyError: there is no policy of this name.
    """
    if name == "keep-alive":
        timeouts = np.concatenate([np.arange(0, 120, 2.0), np.geomspace(120, 40_000, 120)])
        points = np.array([gaps.keep_alive(float(timeout), load_s) for timeout in timeouts])
        return Frontier(points[:, 0], points[:, 1])
    policy = POLICIES[name]
    outcome = levels.simulate(arrivals, service_s, policy.floors(demand, load_s), load_s, ahead=policy.ahead)
    return Frontier(outcome.gpu_s, outcome.cold_rate)


def floors_in_hindsight(  # noqa: PLR0917 - a policy, a trace, a load time, an objective
    name: str, arrivals: Floats, service_s: Floats, load_s: float, rate: float, concurrency: int
) -> tuple[Ints, bool]:
    """A policy's floors, (moves,), with the cheapest parameter that keeps a rate of cold starts.

    If none does, the parameter that comes closest. Returns also whether floors start replicas ahead.

    Raises:
        KeyError: there is no policy of this name.
    """
    policy = POLICIES[name]
    seen = levels.demand_of(arrivals, service_s)
    demand = DemandSeries(-(-seen.running // concurrency), -(-seen.peak // concurrency), seen.arrivals)
    floors = policy.floors(demand, load_s)
    outcome = levels.simulate(
        arrivals, service_s, floors, load_s, ahead=policy.ahead, concurrency=concurrency
    )
    kept = outcome.cold_rate <= rate
    order = np.lexsort((outcome.gpu_s, np.where(kept, 0.0, outcome.cold_rate)))
    return floors[order[0]], policy.ahead


def hazard(demand: DemandSeries, load_s: float) -> Ints:
    """The hazard floor, over the price of a cold start."""
    return levels.hazard_floors(demand, load_s, np.concatenate([[0.0], np.geomspace(1, 100_000, 160)]))


def staffing(demand: DemandSeries, _: float) -> Ints:
    """Mean demand plus a multiple of its deviation, both exponentially averaged over 60 s and 300 s."""
    mean = kernels.smoothed(demand.running.astype(np.float64), 60.0)
    deviation = np.sqrt(np.maximum(kernels.smoothed((demand.running - mean) ** 2, 300.0), mean))
    factors = np.linspace(0, 8, 60)
    return _moved(np.stack([np.ceil(mean + factor * deviation - _NEGLIGIBLE) for factor in factors]))


def erlang(demand: DemandSeries, _: float) -> Ints:
    """Erlang B with Hayward's correction: blocking of c / z servers at load a / z, z being the peakedness."""
    mean = np.maximum(kernels.smoothed(demand.running.astype(np.float64), 300.0), 1e-6)
    variance = kernels.smoothed((demand.running - mean) ** 2, 900.0)
    at = slice(MOVE_TICKS - 1, None, MOVE_TICKS)
    peakedness = np.maximum(1.0, variance / mean)
    floors = kernels.erlang_floors(mean[at], peakedness[at], np.geomspace(0.5, 1e-6, 40))
    return np.asarray(np.where(mean[at] < _NEGLIGIBLE, 0, floors))[:, : demand.moves]


def peak(demand: DemandSeries, _: float) -> Ints:
    """The highest demand of the last so many seconds."""
    windows = np.unique(np.geomspace(5, 20_000, 60).astype(np.int64))
    return _moved(np.stack([kernels.sliding_max(demand.peak, int(window)) for window in windows]))


def target_tracking(demand: DemandSeries, _: float) -> Ints:
    """AWS Lambda's provisioned concurrency, over the target utilisation; a minute is one reading."""
    return np.asarray(
        kernels.target_tracking(_per_minute(demand.peak), np.linspace(0.05, 0.99, 48), demand.moves)
    )


def histogram(demand: DemandSeries, _: float) -> Ints:
    """Each level is kept until a percentile of its own past idle gaps (bins of one minute, four hours)."""
    percentiles = np.concatenate([np.linspace(0.3, 0.95, 14), 1 - np.geomspace(0.05, 0.001, 16)])
    return np.asarray(kernels.histogram_floors(demand.peak, percentiles))


def fft(demand: DemandSeries, _: float) -> Ints:
    """A parabola and the ten strongest harmonics of the last two hours, one minute ahead, plus a margin."""
    series = _per_minute(demand.peak).astype(np.float64)
    forecast = np.zeros(len(series))
    history = 120
    for minute in range(1, len(series)):
        past = series[max(0, minute - history) : minute]
        forecast[minute] = _next_of(past) if past.any() else 0.0
    margins = np.concatenate([np.linspace(0, 4, 17), np.geomspace(5, 200, 24)])
    floors = np.ceil(np.maximum(0, forecast[None, :] + margins[:, None] * (forecast[None, :] > 0.5)))
    return _spread(floors.astype(np.int64), demand.moves)


def seasonal(demand: DemandSeries, load_s: float) -> Ints:
    """A quantile of the peaks at this time of day; for the first three days, the peak of ten minutes."""
    slot_s, day = 600, 144
    padded = _padded(demand.peak, slot_s).reshape(-1, slot_s).max(axis=1)
    quantiles = np.concatenate([np.linspace(0.2, 0.95, 16), [1.0]])
    recent = kernels.sliding_max(demand.peak, slot_s)[MOVE_TICKS - 1 :: MOVE_TICKS][: demand.moves]
    floors = np.repeat(recent[None, :], len(quantiles), axis=0)
    per_slot = slot_s // MOVE_TICKS
    lead = math.ceil(load_s / MOVE_TICKS)
    for slot in range(3 * day, len(padded)):
        past = padded[slot % day : slot : day]
        begin = max(0, slot * per_slot - lead)
        floors[:, begin : (slot + 1) * per_slot] = np.ceil(np.quantile(past, quantiles))[:, None]
    return floors


def always_on(demand: DemandSeries, _: float) -> Ints:
    """As many as the trace ever needs."""
    floors = np.full((1, demand.moves), int(demand.peak.max()), dtype=np.int64)
    floors[:, -levels.DRAIN_S // MOVE_TICKS :] = 0
    return floors


POLICIES: Final[dict[str, PolicyFamily]] = {
    "hazard": PolicyFamily(hazard),
    "staffing": PolicyFamily(staffing),
    "erlang": PolicyFamily(erlang),
    "peak": PolicyFamily(peak),
    "target-tracking": PolicyFamily(target_tracking, ahead=True),
    "histogram": PolicyFamily(histogram),
    "fft": PolicyFamily(fft, ahead=True),
    "seasonal": PolicyFamily(seasonal, ahead=True),
    "always-on": PolicyFamily(always_on, ahead=True),
}
"""Every policy but `keep-alive`, which `Gaps` has in closed form."""


def _moved(per_second: Floats | Ints) -> Ints:
    """Floors per second, (parameters, seconds), as they stand when the floor moves."""
    return np.asarray(per_second[:, MOVE_TICKS - 1 :: MOVE_TICKS], dtype=np.int64)


def _padded(series: Ints, width: int) -> Ints:
    return np.pad(series, (0, -len(series) % width))


def _per_minute(series: Ints) -> Ints:
    return np.asarray(_padded(series, _MINUTE).reshape(-1, _MINUTE).max(axis=1))


def _spread(per_minute: Ints, moves: int) -> Ints:
    """Floors per minute, (parameters, minutes), at each move."""
    return np.repeat(per_minute, _MINUTE // MOVE_TICKS, axis=1)[:, :moves]


def _next_of(past: Floats) -> float:
    """The next value of a series by a parabola and its ten strongest harmonics."""
    count = len(past)
    if count < 8:
        return float(past.max())
    x = np.arange(count)
    trend = np.polyfit(x, past, 2)
    spectrum = np.fft.rfft(past - np.polyval(trend, x))
    strongest = np.argsort(-np.abs(spectrum))[:10]
    # The harmonics repeat after `count` values: the next value is that of index 0.
    harmonics = sum(
        (spectrum[index].real * (1 if index in {0, count / 2} else 2)) / count for index in strongest
    )
    return float(np.polyval(trend, count) + harmonics)
