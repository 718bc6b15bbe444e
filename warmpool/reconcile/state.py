"""What the controller remembers of one pool between reconciliations; a restart may lose all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from warmpool.domain.account import Account
from warmpool.domain.decision import Decision
from warmpool.domain.floor import Floor
from warmpool.policy import compose
from warmpool.reconcile.canary_analysis import AnalysisState
from warmpool.reconcile.canary_values import RolloutStep
from warmpool.reconcile.contention import FloorLowering
from warmpool.reconcile.rollout_check import RolloutProgress


@dataclass(frozen=True, slots=True)
class WarmthTarget:
    """The floor that replicas are ordered to, and how many replicas it was worked out for."""

    floor: Floor
    replicas: int


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the latest events announced: the floor, or why the pool holds none."""

    floor: Floor
    refusal: str = ""
    """The reason of the condition Ready when the pool cannot hold anything."""


@dataclass(frozen=True, slots=True)
class PoolState:
    """The state of one pool; `transition.next_state` alone makes a new one."""

    policy_states: compose.PolicyStates = field(default_factory=compose.initial)
    decision: Decision | None = None
    rollouts: Mapping[str, RolloutProgress] = field(default_factory=dict)
    """By Revision name."""
    lowerings: Mapping[str, FloorLowering] = field(default_factory=dict)
    """By Revision name."""
    crowded_out: str | None = None
    """The Revision whose rollout found no free GPUs."""
    analysis: AnalysisState = field(default_factory=AnalysisState)
    """The looks at the present step of a rollout."""
    rollout: RolloutStep | None = None
    """The last step of its rollout."""
    account: Account | None = None
    announced: Announcement | None = None
    warmth_applied: WarmthTarget | None = None
    warmth_error: str | None = None
    """Why replicas do not have the warmth that they should have."""
    failures: int = 0
    """Reconciliations in a row of which the API refused a write."""
    write_error: str | None = None
    """The API's message about the last of them."""
    status_written_at: datetime | None = None
    next_at: datetime | None = None
    """When to reconcile again without a change in the cluster."""
    reconciled_at: datetime | None = None
    stale_at: datetime | None = None
    """When to reconcile again though nothing is expected to have changed."""
    observed: object = None
    """What the last reconciliation was based on; the same again gives the same result until `stale_at`."""
    ready: int = 0
    requested: int = 0
    """Replicas that the pool's min-scales request, after max-scale and activation-scale."""
    lead_s: float = 0.0
    budget_left: Decimal | None = None
