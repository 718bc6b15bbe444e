"""What a check found, and the facts that could not be read (pure)."""

from dataclasses import dataclass
from enum import StrEnum

Location = tuple[str | int, ...]
"""A path in the agent file."""


class Level(StrEnum):
    """How serious a finding is; `unknown` where a fact could not be read."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        level: how serious it is.
        check: what was looked at.
        text: what was found, and why it matters.
        fix: what to do; empty where nothing is to be done.
        field: where in the agent file; None for what no file can change.
        agent: index of the agent that `field` belongs to.
    """

    level: Level
    check: str
    text: str
    fix: str = ""
    field: Location | None = None
    agent: int = 0


@dataclass(frozen=True, slots=True)
class Unknown:
    """A fact that could not be read, and why."""

    because: str


def ok(check: str, text: str) -> Finding:
    """Nothing is to be done."""
    return Finding(Level.OK, check, text)


def unknown(check: str, what: str, fact: Unknown) -> Finding:
    """A check that could not be made."""
    return Finding(Level.UNKNOWN, check, f"{what}: unknown, because {fact.because}")
