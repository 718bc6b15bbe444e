"""Schedule: the floor of the windows that are open, or about to be.

Windows name clock times; nothing here is learned. The timeline is worked out once and then only looked up, so
a decision costs microseconds until the timeline runs out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from warmpool.domain.calendar import Segment, exception_on, timeline
from warmpool.domain.decision import PolicyName, Proposal
from warmpool.domain.floor import NOTHING
from warmpool.domain.observation import Observation
from warmpool.domain.pool import WarmPoolTemplate, WeeklyWindow
from warmpool.policy.formatting import format_instant

_HORIZONS: Final = (timedelta(hours=40), timedelta(days=9), timedelta(days=400))
"""How far ahead to look for the next change, each only when the one before has none.

The last one only where something does not repeat every week: an exception or a cron expression.
"""


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """The part of the timeline that is worked out: valid in `[start, end)` for this pool and lead time."""

    pool: WarmPoolTemplate | None = None
    lead: timedelta = timedelta(0)
    start: datetime | None = None
    end: datetime | None = None
    proposal: Proposal | None = None


def initial() -> ScheduleState:
    """Nothing worked out yet."""
    return ScheduleState()


def step(state: ScheduleState, observation: Observation, now: datetime) -> tuple[ScheduleState, Proposal]:
    """The floor of the schedule at `now`."""
    if (
        state.proposal is not None
        and state.pool is observation.pool
        and state.lead == observation.lead
        and state.start is not None
        and state.start <= now  # a clock set back is a reason to look again
        and (state.end is None or now < state.end)
    ):
        return state, state.proposal
    proposal, end = _look(observation, now)
    return ScheduleState(observation.pool, observation.lead, now, end, proposal), proposal


def _look(observation: Observation, now: datetime) -> tuple[Proposal, datetime | None]:
    """The proposal at `now` and the instant until which it is the same."""
    pool = observation.pool
    if not pool.windows and not any(exception.replicas for exception in pool.exceptions):
        return Proposal(PolicyName.SCHEDULE, NOTHING, "schedule/none", "The pool has no windows."), None
    segments: tuple[Segment, ...] = ()
    until: datetime | None = None
    weekly = not pool.exceptions and all(isinstance(window, WeeklyWindow) for window in pool.windows)
    for horizon in _HORIZONS[:-1] if weekly else _HORIZONS:
        segments = timeline(pool, observation.lead, now, now + horizon)
        until = next((piece.start for piece in segments if piece.floor != segments[0].floor), None)
        if until is not None:
            break
    current = segments[0]
    # The reason may change before the floor: two windows of one height, or the end of a window's lead.
    end = current.end if until is None or current.end < until else until
    return _explain(current, observation, now, until), end


def _explain(current: Segment, observation: Observation, now: datetime, until: datetime | None) -> Proposal:
    zone = observation.pool.zone
    when = f" until {format_instant(until, now, zone)}" if until else ""
    if current.floor == NOTHING:
        exception = exception_on(observation.pool, now)
        if exception is not None:
            reason, text = (
                f"exception/{exception.name}",
                f"Exception {exception.name} closes every window{when}.",
            )
        else:
            reason, text = "schedule/closed", f"No window is open{when}."
        return Proposal(PolicyName.SCHEDULE, NOTHING, reason, text, until)
    reason = "+".join(current.names)
    named = " and ".join(name.replace("/", " ") for name in current.names)
    if current.opens is not None:
        text = (
            f"{named} opens at {format_instant(current.opens, now, zone)}; replicas start "
            f"{int(observation.lead.total_seconds())} s earlier so that {current.floor} are ready by then."
        )
    else:
        text = f"{named} holds {current.floor}{when}."
    return Proposal(
        PolicyName.SCHEDULE, current.floor, reason, text[0].upper() + text[1:], until, current.opens
    )
