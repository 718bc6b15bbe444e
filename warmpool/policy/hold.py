"""Hold: an operator's request to keep some replicas hot until a given instant."""

from __future__ import annotations

from datetime import datetime

from warmpool.domain.decision import PolicyName, Proposal
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import Observation
from warmpool.policy.formatting import format_instant


def initial() -> None:
    """A hold is read anew each time, so there is no state."""


def step(state: None, observation: Observation, now: datetime) -> tuple[None, Proposal]:
    """Propose the replicas of the hold until it ends."""
    order = observation.hold
    if order is None or now >= order.until:
        return state, Proposal(PolicyName.HOLD, NOTHING, "hold/none", "The pool has no hold.")
    text = (
        f"Held at {order.replicas} by hand until {format_instant(order.until, now, observation.pool.zone)}."
    )
    return state, Proposal(PolicyName.HOLD, Floor.of(order.replicas), "hold", text, order.until)
