"""Whether a floor has taken effect, by the PodAutoscalers, and what to do if it has not.

Three things go wrong on a real cluster without any error:

* the annotation does not reach the PodAutoscaler (Knative before 1.21): it is then written there as well;
* the autoscaler has had no data since it restarted and ignores a raised floor at zero: one request wakes it;
* there are no free GPUs: the Service stays Ready, and only the number of replicas shows it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from warmpool.domain.cold_start import ColdStart
from warmpool.reconcile.views import AutoscalerView, RevisionView

PROPAGATION: Final = timedelta(seconds=10)
"""How long a floor may take to become the PodAutoscaler's desired scale; usually it takes about a second."""
FIRST_CHECK: Final = timedelta(seconds=1)
"""How long after a write to check it for the first time."""
WAKE_INTERVALS: Final = (timedelta(0), timedelta(seconds=20), timedelta(seconds=60), timedelta(minutes=5))
"""Time between wake-up requests; the last one is repeated."""
SCHEDULING: Final = timedelta(seconds=3)
"""How long the scheduler may take to place a pod before its pods are asked why."""
CAPACITY_SLACK: Final = timedelta(seconds=30)
"""How much longer than a cold start replicas may be missing before capacity counts as short."""


@dataclass(frozen=True, slots=True)
class RolloutProgress:
    """What is remembered of one Revision's floor between two reconciliations."""

    behind_since: datetime | None = None
    """Since when the PodAutoscaler wants fewer replicas than the floor."""
    unlike_since: datetime | None = None
    """Since when its annotation differs from the Revision's."""
    wakes: int = 0
    """Wake-up requests sent since then."""
    woken_at: datetime | None = None
    short_since: datetime | None = None
    """Since when fewer replicas are ready than the floor."""
    start_since: datetime | None = None
    """Since when more replicas are wanted than are ready: a cold start is under way."""
    start_goal: int = 0
    """Replicas with which that cold start is over."""
    tainted: bool = False
    """Whether this start had to wait for GPUs, so that its duration predicts nothing about the next one."""


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """How the floor of one Revision fares, and what to do about it."""

    progress: RolloutProgress
    wake: bool = False
    """Whether to send a wake-up request."""
    autoscaler_min_scale: int | None = None
    """What to write on the PodAutoscaler itself, because the Revision's min-scale is not copied there."""
    short: str | None = None
    """Why capacity is short."""
    started: ColdStart | None = None
    """A cold start that has just ended."""
    check_again: datetime | None = None


def check(
    progress: RolloutProgress,
    share: int,
    revision: RevisionView,
    autoscaler: AutoscalerView | None,
    *,
    now: datetime,
    cold_start: timedelta,
) -> RolloutStatus:
    """Check one Revision that is meant to have the floor `share`.

    `cold_start` is how long its replicas usually take to become ready.
    """
    if autoscaler is None:
        return RolloutStatus(RolloutProgress())
    progress, started = _track_start(progress, revision, autoscaler, now)
    goal = max(share, revision.min_scale or 0)
    if not share:
        kept = RolloutProgress(
            start_since=progress.start_since, start_goal=progress.start_goal, tainted=progress.tainted
        )
        return RolloutStatus(kept, started=started, check_again=_next_check(kept, now, cold_start))
    actual, desired = autoscaler.actual or 0, autoscaler.desired or 0
    unlike = _since(progress.unlike_since, now, holds=autoscaler.min_scale != revision.min_scale)
    behind = _since(progress.behind_since, now, holds=desired < goal and actual < goal)
    short = _since(progress.short_since, now, holds=actual < goal)
    progress = replace(progress, unlike_since=unlike, behind_since=behind, short_since=short)
    not_copied = unlike is not None and now >= unlike + PROPAGATION and not revision.class_hpa
    progress, wake = _wake(progress, now)
    return RolloutStatus(
        progress,
        wake=wake and unlike is None,  # a request only helps once the annotation has arrived
        autoscaler_min_scale=goal if not_copied else None,
        short=_short(progress, revision, autoscaler, goal, now=now, cold_start=cold_start),
        started=started,
        check_again=_next_check(progress, now, cold_start),
    )


def _since(since: datetime | None, now: datetime, *, holds: bool) -> datetime | None:
    """Since when something holds; a clock that was set back starts anew."""
    if not holds:
        return None
    return since if since is not None and since <= now else now


def _wake_interval(progress: RolloutProgress) -> timedelta:
    return WAKE_INTERVALS[min(progress.wakes, len(WAKE_INTERVALS) - 1)]


def _wake(progress: RolloutProgress, now: datetime) -> tuple[RolloutProgress, bool]:
    if progress.behind_since is None:
        return replace(progress, wakes=0, woken_at=None), False
    if now < progress.behind_since + PROPAGATION:
        return progress, False
    if progress.woken_at is not None and now < progress.woken_at + _wake_interval(progress):
        return progress, False
    return replace(progress, wakes=progress.wakes + 1, woken_at=now), True


def _short(
    progress: RolloutProgress,
    revision: RevisionView,
    autoscaler: AutoscalerView,
    goal: int,
    *,
    now: datetime,
    cold_start: timedelta,
) -> str | None:
    if progress.short_since is None or (autoscaler.desired or 0) < goal:
        return None
    ready = f"{autoscaler.actual or 0} of {goal} replicas of {revision.name} are ready"
    if revision.unschedulable is not None:
        return f"{ready}: {revision.unschedulable}"
    if now < progress.short_since + start_deadline(cold_start):
        return None
    active = autoscaler.active
    reason = f" ({active.reason})" if active and active.status != "True" else ""
    return f"{ready} after {int((now - progress.short_since).total_seconds())} s{reason}"


def start_deadline(cold_start: timedelta) -> timedelta:
    """How long replicas may be missing before capacity counts as short."""
    return cold_start * 1.5 + CAPACITY_SLACK


def _track_start(
    progress: RolloutProgress, revision: RevisionView, autoscaler: AutoscalerView, now: datetime
) -> tuple[RolloutProgress, ColdStart | None]:
    actual, desired = autoscaler.actual or 0, autoscaler.desired or 0
    tainted = progress.tainted or revision.unschedulable is not None
    if progress.start_since is None or progress.start_since > now:
        if desired > actual:
            return replace(progress, start_since=now, start_goal=desired, tainted=tainted), None
        return replace(progress, start_since=None, tainted=False), None
    ended = replace(progress, start_since=None, start_goal=0, tainted=False)
    if actual >= progress.start_goal:
        seconds = (now - progress.start_since).total_seconds()
        return ended, None if tainted else ColdStart(progress.start_since, seconds)
    if desired <= actual:
        return ended, None  # the replicas are no longer wanted
    return replace(progress, tainted=tainted), None


def _next_check(progress: RolloutProgress, now: datetime, cold_start: timedelta) -> datetime | None:
    checks = []
    if progress.start_since is not None:
        checks.append(progress.start_since + SCHEDULING)
    if progress.unlike_since is not None:
        checks.append(progress.unlike_since + PROPAGATION)
    if progress.behind_since is not None:
        woken = progress.woken_at
        checks.append(woken + _wake_interval(progress) if woken else progress.behind_since + PROPAGATION)
    if progress.short_since is not None:
        checks.append(progress.short_since + start_deadline(cold_start))
    return min((check for check in checks if check > now), default=None)
