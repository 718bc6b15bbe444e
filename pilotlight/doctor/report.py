"""Findings as lines for people and as JSON for programs (pure)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pilotlight.doctor.findings import Finding, Level

_MARKS = {Level.OK: "ok", Level.WARNING: "warning", Level.ERROR: "error", Level.UNKNOWN: "unknown"}
_WIDTH = 9


@dataclass(frozen=True, slots=True)
class Line:
    """A finding with where it stands: `FILE:LINE: FIELD`; empty for what no file can change."""

    finding: Finding
    where: str = ""

    @property
    def text(self) -> str:
        """Level, check, place, what was found, and what to do."""
        mark = _MARKS[self.finding.level].ljust(_WIDTH)
        return mark + self.message.replace("\n", "\n" + " " * _WIDTH)

    @property
    def message(self) -> str:
        """The same without the level."""
        place = f"{self.where}: " if self.where else ""
        first = f"{self.finding.check}: {place}{self.finding.text}"
        return first if not self.finding.fix else f"{first}\n  fix: {self.finding.fix}"

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        found = {
            "level": self.finding.level.value,
            "check": self.finding.check,
            "text": self.finding.text,
            "fix": self.finding.fix or None,
            "where": self.where or None,
        }
        return {key: value for key, value in found.items() if value is not None}


def has_errors(lines: Sequence[Line]) -> bool:
    """Whether something cannot work."""
    return any(line.finding.level is Level.ERROR for line in lines)


def summary(lines: Sequence[Line]) -> str:
    """How many of each level there are."""
    counts = {level: sum(line.finding.level is level for line in lines) for level in Level}
    return ", ".join(f"{count} {_MARKS[level]}" for level, count in counts.items() if count)
