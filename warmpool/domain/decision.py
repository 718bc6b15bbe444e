"""A decision as a value: what each policy asked, what was cut from it, and what came out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from warmpool.domain.floor import NOTHING, Floor


@dataclass(frozen=True, slots=True)
class Ask:
    """What one policy wants, and why."""

    policy: str
    floor: Floor
    reason: str
    """A short machine-readable reason: `window/office-hours`, `keep-alive`, `hold`."""
    detail: str
    """One sentence for a person."""
    until: datetime | None = None
    """When this ask changes if nothing else happens; None: not by itself."""
    opens: datetime | None = None
    """When the window opens for which the floor is up early."""
    missing: tuple[str, ...] = ()
    """Readings that the policy needed and nobody could take."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What a limit or the budget took away (or added, for the lower limit)."""

    rule: str
    """`limits/min`, `limits/max`, `budget/extras`, `budget/warmth`, `budget/replicas`, `budget/exhausted`."""
    before: Floor
    after: Floor
    detail: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The floor, and everything that led to it."""

    floor: Floor
    reason: str
    until: datetime | None = None
    """When the floor may change if nothing else happens."""
    look: datetime | None = None
    """When to decide again, should that be sooner: money may have run out by then."""
    asks: tuple[Ask, ...] = ()
    cuts: tuple[Cut, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def budget_exceeded(self) -> bool:
        """Whether the budget took anything away."""
        return any(cut.rule.startswith("budget/") for cut in self.cuts)


DISABLED = Decision(NOTHING, "disabled")
