"""What the controller remembers of one pool between ticks; a restart may lose all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from warmpool.domain.account import Account
from warmpool.domain.decision import Decision
from warmpool.domain.floor import Floor
from warmpool.policy import compose
from warmpool.reconcile.contention import FloorLowering
from warmpool.reconcile.rollout_check import RolloutProgress


@dataclass(slots=True)
class PoolState:
    """The policy_states of one pool."""

    policy_states: compose.PolicyStates = field(default_factory=compose.initial)
    decision: Decision | None = None
    due: datetime | None = None
    """When to look again without being told."""
    watches: dict[str, RolloutProgress] = field(default_factory=dict)
    """By Revision."""
    account: Account | None = None
    status_at: datetime | None = None
    """When its status was last written."""
    failures: int = 0
    """Ticks in a row in which the API did not take what was to be written."""
    trouble: str | None = None
    """What went wrong last."""
    announced: tuple[Floor, str] | None = None
    """Floor and reason of the last event."""
    lowered: dict[str, FloorLowering] = field(default_factory=dict)
    """By Revision: when its floor was last lowered here."""
    tight: str | None = None
    """The Revision whose rollout found no room."""
    arranged: tuple[Floor, int] | None = None
    """The floor and the number of replicas that were last ordered to their warmth."""
    warmth_trouble: str | None = None
    seen: object = None
    """What the last look was based on; the same again is not worth another before `stale`."""
    reconciled_at: datetime | None = None
    stale: datetime | None = None
    ready: int = 0
    lead_s: float = 0.0
    budget_left: Decimal | None = None
