"""What a floor costs on a trace, and which requests it leaves cold: one function, one request per replica.

A request that finds no ready replica is cold: it brings its own, whose load costs `load_s` GPU-seconds and
then serves like any other. Replicas that the floor does not hold go at its next move, never before; the
floor itself moves every `MOVE_TICKS` seconds. A cold start does not delay later departures, which is what
makes a sweep over many floors one pass; `warmpool.experiments.simulator` has queues, concurrency and
delays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from warmpool.experiments import kernels
from warmpool.policy import hazard

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOVE_TICKS: Final = hazard.MOVE_TICKS
DRAIN_S: Final = 21_600
"""How long after the last request a floor is still charged, at most: six hours."""


@dataclass(frozen=True, slots=True, eq=False)
class DemandSeries:
    """A trace's demand second by second, each (seconds,): `DRAIN_S` seconds past the last departure.

    Attributes:
        running: requests that run at the end of the second.
        peak: the most that ran at once within it.
        arrivals: requests that arrived within it.
    """

    running: Ints
    peak: Ints
    arrivals: Ints

    @property
    def moves(self) -> int:
        """How often the floor moves."""
        return len(self.running) // MOVE_TICKS


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What each of some floors did on a trace, each (floors,).

    Attributes:
        gpu_s: GPU-seconds: loads, requests and idle replicas.
        cold: requests that found no ready replica.
        requests: how many there were.
    """

    gpu_s: Floats
    cold: Ints
    requests: int

    @property
    def cold_rate(self) -> Floats:
        """The share of requests that found no ready replica."""
        return self.cold / max(1, self.requests)

    def cheapest(self, rate: float) -> float | None:
        """The fewest GPU-seconds among the floors that keep `rate`; None if none does."""
        kept = self.gpu_s[self.cold_rate <= rate]
        return float(kept.min()) if len(kept) else None


def demand_of(arrivals: Floats, service_s: Floats) -> DemandSeries:
    """The demand of a trace.

    Args:
        arrivals: (n,) seconds, ascending.
        service_s: (n,) seconds.
    """
    departures = np.sort(arrivals + service_s)
    return DemandSeries(*kernels.demand(arrivals, departures, int(departures[-1]) + 1 + DRAIN_S))


def hazard_floors(demand: DemandSeries, load_s: float, prices: Floats) -> Ints:
    """The hazard floor at each move for each price, (prices, moves)."""
    floors = kernels.hazard_floors(
        demand.running, demand.peak, demand.arrivals, load_s, prices, _capacity(demand)
    )
    return np.asarray(floors)


def target_floors(demand: DemandSeries, load_s: float, targets: Floats) -> Ints:
    """The hazard floor at each move for each target rate of cold starts, (targets, moves)."""
    shadows = np.stack([hazard.new_shadows(float(target)) for target in targets])
    return np.asarray(
        kernels.target_floors(
            demand.running,
            demand.peak,
            demand.arrivals,
            load_s,
            targets,
            np.array(hazard.PRICES),
            shadows,
            _capacity(demand),
        )
    )


def _capacity(demand: DemandSeries) -> int:
    return int(demand.peak.max()) + hazard.HEADROOM


def simulate(
    arrivals: Floats,
    service_s: Floats,
    floors: Ints,
    load_s: float,
    *,
    ahead: bool = False,
    concurrency: int = 1,
) -> Outcome:
    """What floors cost on a trace.

    Args:
        arrivals: (n,) seconds, ascending.
        service_s: (n,) seconds.
        floors: (floors, moves) replicas; entry m counts from second (m + 1) * MOVE_TICKS on.
        load_s: how long a replica loads, and so how many GPU-seconds a start costs.
        ahead: whether a floor above what is there starts replicas, which are ready `load_s` later; else it
            only keeps what demand has brought.
        concurrency: requests that one replica takes at once.
    """
    departures = np.sort(arrivals + service_s)
    gpu_s, cold = kernels.simulate_levels(arrivals, departures, floors, load_s, ahead, concurrency)
    return Outcome(gpu_s, cold, len(arrivals))
