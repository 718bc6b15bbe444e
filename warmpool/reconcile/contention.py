"""Two controllers at once: the one that would hold less backs off, so that they do not fight forever.

They agree about everything that is in the cluster, but not about what each has observed by itself (the last
request, how long cold starts take). A floor that was lowered here and is higher again, though nothing here
raised it, is another controller's; it is lowered again with exponential back-off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from warmpool.reconcile.planning import FloorWrite, WritePlan

FIRST_BACKOFF: Final = timedelta(seconds=30)
LONGEST_BACKOFF: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class FloorLowering:
    """The last time that a Revision's floor was lowered here, and how often in a row."""

    at: datetime
    to: int
    times: int = 1

    def backoff(self) -> timedelta:
        """How long to wait before lowering it again."""
        doubled: int = 2 ** min(self.times - 1, 10)
        return min(FIRST_BACKOFF * doubled, LONGEST_BACKOFF)


def back_off(plan: WritePlan, lowerings: Mapping[str, FloorLowering], now: datetime) -> WritePlan:
    """The plan without the writes that have to wait; `lowerings` by Revision name."""
    kept: list[FloorWrite] = []
    notes = list(plan.notes)
    for write in plan.writes:
        name = write.revision[1]
        before = lowerings.get(name)
        contended = write.lowers and before is not None and write.held > before.to
        if contended and before is not None and before.at <= now < before.at + before.backoff():
            notes.append(f"{name}: another controller holds more; it is lowered again later")
        else:
            kept.append(write)
    return replace(plan, writes=tuple(kept), notes=tuple(notes))


def after_writes(
    lowerings: Mapping[str, FloorLowering], writes: Iterable[FloorWrite], now: datetime
) -> dict[str, FloorLowering]:
    """The lowerings after some writes were made; raising a floor starts the count anew."""
    result = dict(lowerings)
    for write in writes:
        name = write.revision[1]
        if not write.lowers:
            result.pop(name, None)
            continue
        before = result.get(name)
        again = before is not None and write.held > before.to and now < before.at + 4 * LONGEST_BACKOFF
        times = before.times + 1 if before is not None and again else 1
        result[name] = FloorLowering(now, write.min_scale or 0, times)
    return result
