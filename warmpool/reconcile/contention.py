"""Two controllers at once: the one that would hold less gives way, lest they write in turns for ever.

They are of one mind about everything that stands in the cluster, but not about what each has seen for itself
(the last request, how long cold starts take). A floor that was lowered and is there again, though nobody
here raised it, is another controller's; it is lowered again later and later. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from warmpool.reconcile.planning import FloorWrite, WritePlan

FIRST: Final = timedelta(seconds=30)
LONGEST: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class FloorLowering:
    """The last time that a Revision's floor was lowered here, and how often in a row."""

    at: datetime
    to: int
    times: int = 1

    def patience(self) -> timedelta:
        """How long to wait before lowering it again."""
        doubled: int = 2 ** min(self.times - 1, 10)
        return min(FIRST * doubled, LONGEST)


def give_way(plan: WritePlan, lowered: Mapping[str, FloorLowering], now: datetime) -> WritePlan:
    """The plan without the writes that are to wait."""
    kept: list[FloorWrite] = []
    notes = list(plan.notes)
    for write in plan.writes:
        before = lowered.get(write.revision[1])
        raised = before is not None and write.held > before.to
        if (
            write.lowers
            and raised
            and before is not None
            and before.at <= now < before.at + before.patience()
        ):
            notes.append(f"{write.revision[1]}: another controller holds more; it is lowered again later")
        else:
            kept.append(write)
    return WritePlan(tuple(kept), plan.shares, tuple(notes), plan.tight)


def remember(lowered: dict[str, FloorLowering], write: FloorWrite, now: datetime) -> None:
    """Note a write that was made; a raise of our own starts the count anew."""
    name = write.revision[1]
    if not write.lowers:
        lowered.pop(name, None)
        return
    before = lowered.get(name)
    again = before is not None and write.held > before.to and now < before.at + 4 * LONGEST
    lowered[name] = FloorLowering(
        now, write.min_scale or 0, before.times + 1 if before is not None and again else 1
    )
