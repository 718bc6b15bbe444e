"""A decision as a value: what the policies asked for, what limits and budget changed, and the floor."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from warmpool.domain.floor import NOTHING, Floor


class PolicyName(StrEnum):
    """The policies that ask for a floor, as the status names them."""

    HOLD = "hold"
    SCHEDULE = "schedule"
    BACKLOG = "backlog"
    KEEP_ALIVE = "keep-alive"
    FORECAST = "forecast"
    SIGNALS = "signals"


class AdjustmentSource(StrEnum):
    """The part of the spec that changed what the policies asked for."""

    LIMITS = "limits"
    BUDGET = "budget"


class AdjustmentRule(StrEnum):
    """The rule of the limits or of the budget that changed what the policies asked for."""

    MIN = "limits/min"
    MAX = "limits/max"
    EXTRAS = "budget/extras"
    """Only what the schedule asks for is left."""
    WARMTH = "budget/warmth"
    REPLICAS = "budget/replicas"
    EXHAUSTED = "budget/exhausted"
    UNCOUNTABLE = "budget/uncountable"
    """What the floor costs is not known, so the budget allows none."""

    @property
    def source(self) -> AdjustmentSource:
        """Whether it is a rule of the limits or of the budget."""
        return (
            AdjustmentSource.LIMITS
            if self in {AdjustmentRule.MIN, AdjustmentRule.MAX}
            else AdjustmentSource.BUDGET
        )


@dataclass(frozen=True, slots=True)
class SignalOutcome:
    """What came of one signal of the pool."""

    name: str
    value: float | None
    """Its reading; None: there is none."""
    replicas: int
    """What it asks for."""
    problem: str = ""
    """Why it cannot be read; empty: it can, or there is nothing to measure."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The floor that one policy proposes, and why."""

    policy: PolicyName
    floor: Floor
    reason: str
    """A short machine-readable reason: `window/office-hours`, `keep-alive`, `hold`."""
    detail: str
    """The same as a sentence."""
    until: datetime | None = None
    """When this proposal changes if nothing else happens; None: not by itself."""
    opens: datetime | None = None
    """When the window opens for which the floor is already up; None: the window is open, or there is none."""
    missing: tuple[str, ...] = ()
    """Readings that the policy needed and that could not be taken."""
    follows_demand: bool = False
    """Whether `until` moves with every request, so that it is not worth writing down exactly."""
    signals: tuple[SignalOutcome, ...] = ()
    """What each signal of the pool said."""


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A floor that a limit or the budget changed: lowered, or raised to the lower limit."""

    rule: AdjustmentRule
    before: Floor
    after: Floor
    detail: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The floor, and everything that led to it."""

    floor: Floor
    reason: str
    """The reason of the proposal or the rule of the adjustment that decided; status and metrics show it."""
    detail: str = ""
    """The same as a sentence."""
    until: datetime | None = None
    """When the floor may change if nothing else happens."""
    decide_again: datetime | None = None
    """When to decide again, should that be sooner: the budget may be exhausted by then."""
    follows_demand: bool = False
    """Whether `until` moves with every request."""
    disabled: bool = False
    """Whether the pool is switched off."""
    proposals: tuple[Proposal, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()
    missing: tuple[str, ...] = ()
    """Readings that a policy needed and that could not be taken."""

    @property
    def signals(self) -> tuple[SignalOutcome, ...]:
        """What each signal of the pool said."""
        return tuple(entry for proposal in self.proposals for entry in proposal.signals)

    @property
    def budget_adjustment(self) -> Adjustment | None:
        """The last adjustment by the budget; None when the floor is within the budget."""
        return next(
            (entry for entry in reversed(self.adjustments) if entry.rule.source is AdjustmentSource.BUDGET),
            None,
        )


DISABLED = Decision(NOTHING, "disabled", disabled=True)
