"""Did the floor arrive? What the PodAutoscalers say about a floor that was written, and what to do about it.

Three things can go wrong in silence on a real cluster:

* the annotation does not reach the PodAutoscaler (Knative before 1.21): it is then written there too;
* the autoscaler has no data since it restarted and ignores a raised floor at zero: one request wakes it;
* there is no room: the Service stays Ready, and only the replicas that are missing tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from warmpool.domain.cold_start import ColdStart
from warmpool.reconcile.views import RevisionView, ScaleView

PATIENCE: Final = timedelta(seconds=10)
"""How long a floor may take to reach the PodAutoscaler's wish; it takes about a second."""
ARRIVING: Final = timedelta(seconds=1)
"""When to look first whether a floor that was written has arrived."""
WAKE_GAPS: Final = (timedelta(0), timedelta(seconds=20), timedelta(seconds=60), timedelta(minutes=5))
"""Time between wake-up requests, the last for all that follow."""
PLACING: Final = timedelta(seconds=3)
"""How long the scheduler may take to find a place for a replica before it is asked what is wrong."""
SHORT_FLOOR: Final = timedelta(seconds=30)
"""How much longer than a cold start replicas may be missing before capacity is called short."""


@dataclass(frozen=True, slots=True)
class RolloutProgress:
    """What is remembered of one Revision between looks."""

    behind_since: datetime | None = None
    """Since when the PodAutoscaler wants less than the floor."""
    unlike_since: datetime | None = None
    """Since when its annotation is not the Revision's."""
    wakes: int = 0
    woken_at: datetime | None = None
    short_since: datetime | None = None
    """Since when there are fewer replicas than the floor."""
    start_since: datetime | None = None
    """Since when more replicas are wanted than there are: a cold start is under way."""
    start_goal: int = 0
    tainted: bool = False
    """Whether this start had to wait for room, so that it says nothing about the next."""


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """What to do and to say after a look at one Revision."""

    watch: RolloutProgress
    wake: bool = False
    lever: int | None = None
    """The min-scale to write on the PodAutoscaler itself, because the Revision's does not arrive there."""
    short: str | None = None
    """Why capacity is short."""
    started: ColdStart | None = None
    look_again: datetime | None = None


def check(
    watch: RolloutProgress,
    share: int,
    revision: RevisionView,
    scale: ScaleView | None,
    *,
    now: datetime,
    cold_start: timedelta,
) -> RolloutStatus:
    """Judge one Revision that is meant to have the floor `share`."""
    if scale is None:
        return RolloutStatus(RolloutProgress())
    watch, started = _starts(watch, revision, scale, now)
    goal = max(share, revision.min_scale or 0)
    if not share:
        kept = RolloutProgress(
            start_since=watch.start_since, start_goal=watch.start_goal, tainted=watch.tainted
        )
        return RolloutStatus(kept, started=started, look_again=_next_look(kept, now, cold_start))
    actual, desired = scale.actual or 0, scale.desired or 0
    unlike = _since(watch.unlike_since, now, holds=scale.min_scale != revision.min_scale)
    behind = _since(watch.behind_since, now, holds=desired < goal and actual < goal)
    short = _since(watch.short_since, now, holds=actual < goal)
    watch = replace(watch, unlike_since=unlike, behind_since=behind, short_since=short)
    lever = goal if unlike and now >= unlike + PATIENCE and not revision.hpa else None
    watch, wake = _wake(watch, now)
    return RolloutStatus(
        watch,
        wake=wake and unlike is None,  # the annotation has to be there before a request helps
        lever=lever,
        short=_short(watch, revision, scale, goal, now=now, cold_start=cold_start),
        started=started,
        look_again=_next_look(watch, now, cold_start),
    )


def _since(since: datetime | None, now: datetime, *, holds: bool) -> datetime | None:
    """Since when something holds; a clock set back starts the count anew."""
    if not holds:
        return None
    return since if since is not None and since <= now else now


def _wake(watch: RolloutProgress, now: datetime) -> tuple[RolloutProgress, bool]:
    if watch.behind_since is None:
        return replace(watch, wakes=0, woken_at=None), False
    if now < watch.behind_since + PATIENCE:
        return watch, False
    gap = WAKE_GAPS[min(watch.wakes, len(WAKE_GAPS) - 1)]
    if watch.woken_at is not None and now < watch.woken_at + gap:
        return watch, False
    return replace(watch, wakes=watch.wakes + 1, woken_at=now), True


def _short(
    watch: RolloutProgress,
    revision: RevisionView,
    scale: ScaleView,
    goal: int,
    *,
    now: datetime,
    cold_start: timedelta,
) -> str | None:
    if watch.short_since is None or (scale.desired or 0) < goal:
        return None
    have = f"{scale.actual or 0} of {goal} replicas of {revision.key[1]} are there"
    if revision.unschedulable is not None:
        return f"{have}: {revision.unschedulable}"
    if now < watch.short_since + patience(cold_start):
        return None
    waiting = f" ({scale.active.reason})" if scale.active and scale.active.status != "True" else ""
    return f"{have} after {int((now - watch.short_since).total_seconds())} s{waiting}"


def patience(cold_start: timedelta) -> timedelta:
    """How long replicas may be missing before capacity is called short."""
    return cold_start * 1.5 + SHORT_FLOOR


def _starts(
    watch: RolloutProgress, revision: RevisionView, scale: ScaleView, now: datetime
) -> tuple[RolloutProgress, ColdStart | None]:
    actual, desired = scale.actual or 0, scale.desired or 0
    tainted = watch.tainted or revision.unschedulable is not None
    if watch.start_since is None or watch.start_since > now:
        if desired > actual:
            return replace(watch, start_since=now, start_goal=desired, tainted=tainted), None
        return replace(watch, start_since=None, tainted=False), None
    ended = replace(watch, start_since=None, start_goal=0, tainted=False)
    if actual >= watch.start_goal:
        seconds = (now - watch.start_since).total_seconds()
        return ended, None if tainted else ColdStart(watch.start_since, seconds)
    if desired <= actual:
        return ended, None  # the wish went away
    return replace(watch, tainted=tainted), None


def _next_look(watch: RolloutProgress, now: datetime, cold_start: timedelta) -> datetime | None:
    looks = []
    if watch.start_since is not None:
        looks.append(watch.start_since + PLACING)
    if watch.unlike_since is not None:
        looks.append(watch.unlike_since + PATIENCE)
    if watch.behind_since is not None:
        gap = WAKE_GAPS[min(watch.wakes, len(WAKE_GAPS) - 1)]
        looks.append(watch.woken_at + gap if watch.woken_at else watch.behind_since + PATIENCE)
    if watch.short_since is not None:
        looks.append(watch.short_since + patience(cold_start))
    return min((look for look in looks if look > now), default=None)
