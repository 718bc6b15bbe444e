"""The clairvoyant bound: the fewest GPU-seconds that can serve a trace with one request per replica.

Levels separate ("at least n requests run"). In every gap in which a level is idle, an owner who knows the
future either keeps its replica, which costs the gap's length, or stops it and pays for a new start. The
optimum is therefore

    sum(service) + start * highest level + sum over gaps of min(gap, start)

All gaps come from one pass over the sorted arrivals and departures with a stack: O(n log n). With `start`
equal to the load time, the owner loads ahead of each arrival and no request ever waits: a lower bound for
any policy. The tests compare it with an exhaustive search on small cases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from warmpool.experiments import kernels

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Gaps:
    """The idle gaps of a trace's levels.

    Attributes:
        lengths: seconds, one for each start that finds a level which was busy before; in order of the starts.
        highest: the highest level: the most requests that run at once.
        busy_s: the sum of the service times.
        requests: how many there are.
    """

    lengths: Array
    highest: int
    busy_s: float
    requests: int

    def bound(self, start_s: float) -> float:
        """The fewest GPU-seconds, where a start costs `start_s`."""
        return self.busy_s + self.highest * start_s + float(np.minimum(self.lengths, start_s).sum())

    def keep_alive(self, timeout_s: float, load_s: float, *, drain: bool = True) -> tuple[float, float]:
        """GPU-seconds and cold-start rate of a fixed keep-alive, exactly.

        Args:
            timeout_s: how long an idle replica is kept.
            load_s: GPU-seconds that a start costs.
            drain: whether the last replicas' timeout after the end of the trace is charged.
        """
        starts = self.highest + int((self.lengths > timeout_s).sum())
        idle = float(np.minimum(self.lengths, timeout_s).sum()) + (self.highest * timeout_s if drain else 0.0)
        return self.busy_s + idle + starts * load_s, starts / self.requests if self.requests else 0.0


def gaps_of(arrivals: Array, service_s: Array) -> Gaps:
    """The idle gaps of a trace.

    Args:
        arrivals: (n,) seconds, ascending.
        service_s: (n,) seconds, not negative.
    """
    lengths, highest = kernels.gaps(arrivals, np.sort(arrivals + service_s))
    return Gaps(lengths, highest, float(service_s.sum()), len(arrivals))
