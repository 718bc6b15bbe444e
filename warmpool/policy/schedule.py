"""Schedule: the floor of the windows that are open, or that open within the lead time.

The result stands until the schedule changes next, so that a decision in between costs microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from warmpool.domain.decision import PolicyName, Proposal
from warmpool.domain.floor import NOTHING
from warmpool.domain.observation import Observation
from warmpool.domain.occurrences import exception_at
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.domain.timeline import Segment, horizons, timeline
from warmpool.policy.formatting import format_instant


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """The latest proposal: valid in `[start, end)` for this pool and lead time."""

    pool: WarmPoolTemplate | None = None
    lead: timedelta = timedelta(0)
    start: datetime | None = None
    end: datetime | None = None
    """None: for ever."""
    proposal: Proposal | None = None


def initial() -> ScheduleState:
    """The state before the first decision."""
    return ScheduleState()


def step(state: ScheduleState, observation: Observation, now: datetime) -> tuple[ScheduleState, Proposal]:
    """Propose the floor of the schedule at `now`."""
    if (
        state.proposal is not None
        and state.pool is observation.pool
        and state.lead == observation.lead
        and state.start is not None
        and state.start <= now  # else the clock was set back
        and (state.end is None or now < state.end)
    ):
        return state, state.proposal
    proposal, end = _propose(observation, now)
    return ScheduleState(observation.pool, observation.lead, now, end, proposal), proposal


def _propose(observation: Observation, now: datetime) -> tuple[Proposal, datetime | None]:
    """The proposal at `now`, and until when it is the same."""
    pool = observation.pool
    if not pool.windows and not any(exception.replicas for exception in pool.exceptions):
        return Proposal(PolicyName.SCHEDULE, NOTHING, "schedule/none", "The pool has no windows."), None
    segments: tuple[Segment, ...] = ()
    until: datetime | None = None
    for horizon in horizons(pool):
        segments = timeline(pool, observation.lead, now, now + horizon)
        until = next((segment.start for segment in segments if segment.floor != segments[0].floor), None)
        if until is not None:
            break
    current = segments[0]
    # The reason may change before the floor does: two windows of equal height, or a window that opens.
    end = current.end if until is None or current.end < until else until
    return _explain(current, observation, now, until), end


def _explain(current: Segment, observation: Observation, now: datetime, until: datetime | None) -> Proposal:
    zone = observation.pool.zone
    suffix = f" until {format_instant(until, now, zone)}" if until else ""
    if current.floor == NOTHING:
        reason, detail = "schedule/closed", f"No window is open{suffix}."
        exception = exception_at(observation.pool, now)
        if exception is not None:
            reason = f"exception/{exception.name}"
            detail = f"Exception {exception.name} closes every window{suffix}."
        return Proposal(PolicyName.SCHEDULE, NOTHING, reason, detail, until)
    reason = "+".join(current.names)
    named = " and ".join(name.replace("/", " ") for name in current.names)
    if current.opens is not None:
        detail = (
            f"{named} opens at {format_instant(current.opens, now, zone)}; replicas start "
            f"{int(observation.lead.total_seconds())} s earlier so that {current.floor} are ready by then."
        )
    else:
        detail = f"{named} holds {current.floor}{suffix}."
    detail = detail[0].upper() + detail[1:]
    return Proposal(PolicyName.SCHEDULE, current.floor, reason, detail, until, current.opens)
