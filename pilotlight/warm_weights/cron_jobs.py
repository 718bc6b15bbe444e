"""CronJobs that fill an agent's cache ahead of the windows of its warm pool (pure)."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from knative.client.resources import CRON_JOB
from pilotlight.agent import Agent
from pilotlight.warm_weights.jobs import WarmError, WarmTarget
from warmpool.domain.field_types import DAYS
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.domain.windows import WeeklyWindow

_DAY_MINUTES = 24 * 60
_LONGEST = timedelta(days=1)


def pool_of(agent: Agent, target: WarmTarget) -> WarmPoolTemplate:
    """The warm pool of the stage that reads the cache.

    Raises:
        WarmError: it has none.
    """
    for stage in agent.spec.services:
        if agent.service_name(stage) == target.name and (pool := agent.pool(stage)) is not None:
            return pool
    raise WarmError(f"{target.name} has no warmPool, so there are no windows to be ahead of")


def schedules(pool: WarmPoolTemplate, before: timedelta) -> dict[str, str]:
    """When to fill, as a cron expression in the pool's time zone, by the name of the window.

    Only windows by days of the week have a schedule that Kubernetes' cron can say; exceptions are not in it.

    Args:
        pool: with the windows.
        before: how long before a window opens.

    Raises:
        WarmError: `before` is out of bounds, or no window is by days of the week.
    """
    if not timedelta(minutes=1) <= before <= _LONGEST or before % timedelta(minutes=1):
        raise WarmError("--before-windows must be whole minutes from 1m to 24h")
    found = {
        window.name: _cron(window, before) for window in pool.windows if isinstance(window, WeeklyWindow)
    }
    if not found:
        raise WarmError("none of the pool's windows is by days of the week")
    return found


def _cron(window: WeeklyWindow, before: timedelta) -> str:
    opens = window.from_.hour * 60 + window.from_.minute
    days_back, minute = divmod(opens - int(before.total_seconds()) // 60, _DAY_MINUTES)
    weekdays = sorted((DAYS.index(day) + 1 + days_back) % 7 for day in window.days)
    days = "*" if len(weekdays) == len(DAYS) else ",".join(map(str, weekdays))
    return f"{minute % 60} {minute // 60} * * {days}"


def cron_jobs(
    jobs: Sequence[Mapping[str, Any]], pool: WarmPoolTemplate, before: timedelta
) -> Iterator[dict[str, Any]]:
    """A CronJob for each window and Job.

    Args:
        jobs: from `warm_job`.
        pool: with the windows.
        before: how long before a window opens; one that is missed for longer is left out.

    Raises:
        WarmError: as `schedules`.
    """
    for window, schedule in schedules(pool, before).items():
        for job in jobs:
            meta = job["metadata"]
            spec = {
                "schedule": schedule,
                "timeZone": pool.time_zone,
                "concurrencyPolicy": "Forbid",
                "startingDeadlineSeconds": int(before.total_seconds()),
                "successfulJobsHistoryLimit": 1,
                "failedJobsHistoryLimit": 3,
                "jobTemplate": {"metadata": {"labels": meta["labels"]}, "spec": job["spec"]},
            }
            digest = hashlib.sha256(json.dumps([window, spec], sort_keys=True).encode()).hexdigest()[:8]
            service = meta["name"].removeprefix("warm-").rpartition("-")[0]
            yield {
                "apiVersion": CRON_JOB.api_version,
                "kind": CRON_JOB.kind,
                # Kubernetes adds eleven characters for each Job, of which 63 fit.
                "metadata": {**meta, "name": f"warm-{service[:34].rstrip('-')}-{digest}"},
                "spec": spec,
            }
