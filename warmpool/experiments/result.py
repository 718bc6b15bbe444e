"""What the requests of a function saw in one arm, and what its replicas cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from warmpool.domain.field_types import WARMTHS, Warmth

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What one function saw in one arm, or several together.

    Attributes:
        name: the function.
        waited_s: (n,) from arrival to the beginning of service, s; of an agent, the sum over its stages.
        served_s: (n,) from there to the end, s.
        first_token_s: (n,) from arrival to the first token, s.
        cold: (n,) whether the request waited for a replica to start.
        woke: (n,) whether it waited for a replica to wake.
        busy_gpu_s: GPU-seconds with at least one request in the replica.
        idle_gpu_s: GPU-seconds of ready replicas without a request, however warm.
        starting_gpu_s: GPU-seconds of replicas that started.
        waking_gpu_s: GPU-seconds of replicas that woke.
        starts: replicas that were started.
        floor_changes: how often the floor moved.
        cost: at the replica's hourly price and the shares of its warmths.
        replicas: (k, 3) steps: instant (s), ready, starting.
        floor: (k, 2) steps: instant (s), floor.
        lost: requests that never got a slot.
        idle_by_warmth: `idle_gpu_s` by how warm they were.
        unused_gpu_s: GPU-seconds of nodes that no replica held; 0 without nodes.
        arrived_s: (n,) when the requests arrived, s.
    """

    name: str
    waited_s: Floats
    served_s: Floats
    first_token_s: Floats
    cold: Flags
    busy_gpu_s: float
    idle_gpu_s: float
    starting_gpu_s: float
    starts: int
    floor_changes: int
    cost: float
    replicas: Floats
    floor: Floats
    lost: int
    woke: Flags = field(default_factory=lambda: np.zeros(0, np.bool_))
    waking_gpu_s: float = 0.0
    idle_by_warmth: dict[Warmth, float] = field(default_factory=dict)
    unused_gpu_s: float = 0.0
    arrived_s: Floats = field(default_factory=lambda: np.empty(0))

    @property
    def gpu_s(self) -> float:
        """All GPU-seconds."""
        return self.busy_gpu_s + self.idle_gpu_s + self.starting_gpu_s + self.waking_gpu_s + self.unused_gpu_s

    @property
    def wasted_gpu_s(self) -> float:
        """GPU-seconds in which no request was served."""
        return self.gpu_s - self.busy_gpu_s

    @property
    def cold_rate(self) -> float:
        """The share of requests that waited for a start."""
        return float(self.cold.mean()) if len(self.cold) else 0.0

    @property
    def woke_rate(self) -> float:
        """The share of requests that waited for a replica to wake."""
        return float(self.woke.mean()) if len(self.woke) else 0.0

    def percentile(self, values: Floats, q: float) -> float | None:
        """A percentile (0 to 100) of one of the arrays; None without requests."""
        return float(np.percentile(values, q)) if len(values) else None


def side_by_side(name: str, results: Sequence[Result]) -> Result:
    """Functions that serve different requests, as one."""
    return _together(
        name,
        results,
        waited_s=np.concatenate([one.waited_s for one in results]),
        served_s=np.concatenate([one.served_s for one in results]),
        first_token_s=np.concatenate([one.first_token_s for one in results]),
        cold=np.concatenate([one.cold for one in results]),
        woke=np.concatenate([one.woke for one in results]),
        arrived_s=np.concatenate([one.arrived_s for one in results]),
        lost=sum(one.lost for one in results),
    )


def in_a_row(name: str, stages: Sequence[Result]) -> Result:
    """The stages of an agent, each of which served every request, as one.

    The first token is that of the last stage; a request is cold, or woke a replica, if it did in any stage.
    """
    last = stages[-1]
    arrived = stages[0].arrived_s
    return _together(
        name,
        stages,
        waited_s=np.sum([stage.waited_s for stage in stages], axis=0),
        served_s=np.sum([stage.served_s for stage in stages], axis=0),
        first_token_s=last.arrived_s - arrived + last.first_token_s,
        cold=np.any([stage.cold for stage in stages], axis=0),
        woke=np.any([stage.woke for stage in stages], axis=0),
        arrived_s=arrived,
        lost=max(stage.lost for stage in stages),
    )


def _together(
    name: str,
    results: Sequence[Result],
    *,
    waited_s: Floats,
    served_s: Floats,
    first_token_s: Floats,
    cold: Flags,
    woke: Flags,
    arrived_s: Floats,
    lost: int,
) -> Result:
    return Result(
        name=name,
        waited_s=waited_s,
        served_s=served_s,
        first_token_s=first_token_s,
        cold=cold,
        busy_gpu_s=sum(one.busy_gpu_s for one in results),
        idle_gpu_s=sum(one.idle_gpu_s for one in results),
        starting_gpu_s=sum(one.starting_gpu_s for one in results),
        starts=sum(one.starts for one in results),
        floor_changes=sum(one.floor_changes for one in results),
        cost=sum(one.cost for one in results),
        replicas=_sum_of_steps([one.replicas for one in results]),
        floor=_sum_of_steps([one.floor for one in results]),
        lost=lost,
        woke=woke,
        waking_gpu_s=sum(one.waking_gpu_s for one in results),
        idle_by_warmth={
            warmth: sum(one.idle_by_warmth.get(warmth, 0.0) for one in results) for warmth in WARMTHS
        },
        unused_gpu_s=sum(one.unused_gpu_s for one in results),
        arrived_s=arrived_s,
    )


def _sum_of_steps(series: Sequence[Floats]) -> Floats:
    """Step functions, (k, 1 + values) each, added up."""
    if len(series) == 1:
        return series[0]
    changes = [np.column_stack([steps[:, 0], np.diff(steps[:, 1:], axis=0, prepend=0.0)]) for steps in series]
    merged = np.concatenate(changes)
    merged = merged[np.argsort(merged[:, 0], kind="stable")]
    merged[:, 1:] = np.cumsum(merged[:, 1:], axis=0)
    last_of_instant = np.append(np.diff(merged[:, 0]) > 0, True)
    return np.asarray(merged[last_of_instant])
