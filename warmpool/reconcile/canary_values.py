"""What a step of a rollout is made from and comes to, and how the floor is divided meanwhile (values)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from warmpool.domain.answers import AnswerReading, RolloutWindow
from warmpool.domain.rollout import Rollout
from warmpool.reconcile.canary_analysis import AnalysisState
from warmpool.reconcile.canary_record import Order, RolloutRecord, Traffic
from warmpool.reconcile.views import AutoscalerView, RevisionView, ServiceView


class Phase(StrEnum):
    """Where a rollout is."""

    STEADY = "Steady"
    """The running Revision has all of the traffic, and there is no newer one."""
    STARTING = "Starting"
    """The new Revision is not ready yet; it gets no request."""
    WARMING = "Warming"
    """Replicas of the new Revision start for its next share."""
    ANALYSING = "Analysing"
    PAUSED = "Paused"
    ROLLED_BACK = "RolledBack"
    OVERRIDDEN = "Overridden"
    """Somebody else has changed the traffic; it is left alone."""


@dataclass(frozen=True, slots=True)
class RolloutInputs:
    """What a step is based on."""

    spec: Rollout
    service: ServiceView
    revisions: Mapping[str, RevisionView]
    """Those of the Service, by name."""
    autoscalers: Mapping[str, AutoscalerView]
    floor: int
    """Replicas that the pool holds."""
    order: Order | None = None
    paused: bool = False
    affordable: bool = True
    """Whether the budget can pay for more than the floor."""
    reading: AnswerReading | None = None
    analysis: AnalysisState = field(default_factory=AnalysisState)


@dataclass(frozen=True, slots=True)
class TrafficWrite:
    """Traffic and record, to be written together, if the traffic still is what it was."""

    service: str
    before: Traffic
    record: RolloutRecord | None
    """None gives the traffic back: the Service follows its newest Revision again."""


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """What a rollout came to."""

    phase: Phase
    detail: str
    stable: str | None
    canary: str | None = None
    percent: int = 0
    next_percent: int | None = None
    since: datetime | None = None
    floors: Mapping[str, int] | None = None
    """By Revision name; None: they follow the traffic."""
    write: TrafficWrite | None = None
    analysis: AnalysisState = field(default_factory=AnalysisState)
    window: RolloutWindow | None = None
    """What answers have to be counted for."""
    check_again: datetime | None = None
    waits_for_replicas: bool = False
    """Whether the next share waits for replicas, of which at least one finds no GPU or no money."""


def needed(floor: int, percent: int) -> int:
    """Replicas of a Revision that are warm before it gets a share, at least one."""
    return max(1, math.ceil(floor * percent / 100))


def floors(floor: int, stable: str, canary: str, percent: int, *, surge: int = 0) -> dict[str, int]:
    """How the pool's floor is divided between both, with the canary's for a share of `percent`.

    Their sum is the floor, and more only as far as the running Revision needs one replica for the traffic
    that it still has, and for `surge`. A smaller floor takes no replica that requests keep busy: the
    autoscaler keeps those.
    """
    mine = needed(floor, percent)
    return {stable: max(1 if floor else 0, min(floor, floor + surge - mine)), canary: mine}
