"""A pool in words: why its floor is what it is, and what its schedule brings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from warmpool.domain.budget_period import budget_period
from warmpool.domain.decision import AdjustmentRule
from warmpool.domain.duration import parse_duration
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import DEFAULT_LEAD
from warmpool.domain.pool import Limits, WarmPoolSpec
from warmpool.domain.spec_warnings import spec_warnings
from warmpool.domain.timeline import Segment, next_change, timeline
from warmpool.reconcile import parsing

_PHASES_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Change:
    """The floor of the schedule, within the limits, from an instant on."""

    at: datetime
    floor: Floor
    reason: str
    opens: datetime | None = None
    """When the window opens for which the floor rises at `at`."""


def lead_of(pool: Mapping[str, Any]) -> timedelta:
    """The lead time that the controller uses, from the pool's status."""
    text = (pool.get("status") or {}).get("leadTime")
    try:
        return parse_duration(text) if text else DEFAULT_LEAD
    except ValueError:
        return DEFAULT_LEAD


def changes(spec: WarmPoolSpec, lead: timedelta, now: datetime, days: int = 7) -> list[Change]:
    """Every change of the schedule's floor in the coming days; the first one is the current floor."""
    found: list[Change] = []
    for segment in timeline(spec, lead, now, now + timedelta(days=days)):
        change = _change(segment, spec.limits)
        if not found or change.floor != found[-1].floor:
            found.append(change)
    return found


def later_change(spec: WarmPoolSpec, lead: timedelta, now: datetime, days: int = 7) -> Change | None:
    """The first change of the schedule's floor after the coming days; None if there is none for years."""
    end = now + timedelta(days=days)
    current = timeline(spec, lead, now, end)[-1].floor
    segment = next_change(spec, lead, end, current)
    return _change(segment, spec.limits) if segment else None


def explanation(obj: Mapping[str, Any], now: datetime, days: int = 7) -> list[str]:
    """The lines of `pilotlight pool explain`."""
    view = parsing.parse_pool(obj)
    namespace, name = view.key
    if view.spec is None:
        return [f"{namespace}/{name} is invalid:", *(f"  {problem}" for problem in view.problems)]
    spec, status = view.spec, view.status
    zone = spec.zone
    return [
        f"{namespace}/{name} keeps Service {spec.target} warm ({spec.time_zone}, now {_local(now, zone)}).",
        *_floor(status),
        *_rules(status),
        *_measured(status),
        *(f"Warning: {warning}" for warning in spec_warnings(spec, now)),
        f"Schedule of the next {_days(days)} (a budget, a hold or requests may change it):",
        *_schedule(spec, status, lead_of(obj), now, days),
    ]


def _change(segment: Segment, limits: Limits) -> Change:
    floor = segment.floor | Floor.of(limits.min)
    floor = floor if limits.max is None else floor.at_most(limits.max)
    reason = ", ".join(name.replace("/", " ") for name in segment.names) or "no window"
    return Change(segment.start, floor, reason, segment.opens)


def _floor(status: Mapping[str, Any]) -> list[str]:
    if not status:
        return ["No controller has reconciled it yet: is one running?"]
    until = f" until {status['until']}" if status.get("until") else ""
    held = status.get("held", status.get("floor"))
    lines = [f"Floor {held}{until}, {status.get('ready', 0)} ready: {status.get('reason')}."]
    for condition in status.get("conditions") or ():
        healthy = "True" if condition["type"] == "Ready" else "False"
        if condition["status"] != healthy:
            head = f"{condition['type']} is {condition['status']} ({condition['reason']})"
            lines.append(f"{head}: {condition.get('message') or 'no message'}")
    if rollout := status.get("rollout"):
        share = f", {rollout['canary']} has {rollout.get('percent', 0)} %" if rollout.get("canary") else ""
        lines.append(f"Rollout {rollout.get('phase')}{share}: {rollout.get('detail')}.")
    return lines


def _rules(status: Mapping[str, Any]) -> list[str]:
    rules = status.get("rules") or ()
    if not rules:
        return []
    lines = ["Rules (the highest counts, then limits, then the budget):"]
    lines += [f"  {rule['rule']:<11} {rule['held']:<12} {rule['detail']}" for rule in rules]
    return lines


def _measured(status: Mapping[str, Any]) -> list[str]:
    lines = []
    cold = status.get("coldStart")
    sources = {"measured": "the measured p95", "fixed": "as the pool says", "default": "nothing measured yet"}
    if status.get("leadTime"):
        source = sources.get(status.get("leadTimeSource", ""), "")
        samples = (
            f"; p50 {cold['p50']}, p95 {cold['p95']}, cold starts seen: {cold['samples']}" if cold else ""
        )
        lines.append(f"Lead time {status['leadTime']} ({source}{samples}).")
    if cold and cold.get("outliers"):
        lines.append(f"Left out as outliers: cold starts of {', '.join(cold['outliers'])}.")
    if cold and cold.get("phases"):
        lines.append(_phases(cold))
    cost = status.get("cost")
    if cost:
        budget = f" of {cost['budget']}" if cost.get("budget") else ""
        projected = f", {cost['projected']} projected" if cost.get("projected") else ""
        gpu = (
            f" ({cost['gpu']} at {cost['hourly']} an hour)" if cost.get("gpu") and cost.get("hourly") else ""
        )
        spent = f"{cost['toDate']}{budget} {cost['currency']}"
        lines.append(f"Cost this {cost['period']}: {spent}{projected}{gpu}.")
    return lines


def _phases(cold: Mapping[str, Any]) -> str:
    """How the time of a cold start is spent, the longest phases first."""
    seconds = {phase: float(text.removesuffix("s")) for phase, text in cold["phases"].items()}
    longest = sorted(seconds, key=lambda phase: -seconds[phase])[:_PHASES_SHOWN]
    parts = ", ".join(f"{phase} {seconds[phase]:.1f} s" for phase in longest)
    return f"Cold start p95 {cold['p95'].removesuffix('s')} s of {cold['samples']} (median {parts})."


def _schedule(
    spec: WarmPoolSpec, status: Mapping[str, Any], lead: timedelta, now: datetime, days: int
) -> Iterator[str]:
    zone = spec.zone
    coming = changes(spec, lead, now, days)
    spent_until = _spent_until(spec, status, now)
    for change in coming:
        if change.at <= now:
            yield _line("now", *_current(change, status))
        elif spent_until is not None and change.at < spent_until:
            yield _line(_local(change.at, zone), str(NOTHING), f"{_asked(change)}; the budget allows nothing")
        else:
            yield _line(_local(change.at, zone), str(change.floor), _reason(change, zone))
    later = later_change(spec, lead, now, days)
    if later is not None:
        reason = f"{_reason(later, zone)} (the first change after these {_days(days)})"
        yield _line(_local(later.at, zone), str(later.floor), reason)


def _spent_until(spec: WarmPoolSpec, status: Mapping[str, Any], now: datetime) -> datetime | None:
    """Until when the budget allows no floor; None: it does."""
    if spec.limits.budget is None:
        return None
    if status.get("reason") == AdjustmentRule.EXHAUSTED:
        return budget_period(now, spec.limits.budget.period, spec.zone)[1]
    return (
        datetime.max.replace(tzinfo=now.tzinfo)
        if status.get("reason") == AdjustmentRule.UNCOUNTABLE
        else None
    )


def _current(change: Change, status: Mapping[str, Any]) -> tuple[str, str]:
    """The floor that is held, and why if that is not what the schedule asks for."""
    held, scheduled = status.get("held"), str(change.floor)
    if held is None or held == scheduled:
        return scheduled, change.reason
    return held, f"{status.get('reason')} ({_asked(change)})"


def _asked(change: Change) -> str:
    return (
        f"{change.reason} asks for {change.floor}" if change.floor != NOTHING else "the schedule asks for 0"
    )


def _reason(change: Change, zone: ZoneInfo) -> str:
    return change.reason + (f", ready by {change.opens.astimezone(zone):%H:%M}" if change.opens else "")


def _days(count: int) -> str:
    return "24 hours" if count == 1 else f"{count} days"


def _line(when: str, floor: str, reason: str) -> str:
    return f"  {when:<22} {floor:<12} {reason}"


def _local(instant: datetime, zone: ZoneInfo) -> str:
    return f"{instant.astimezone(zone):%a %d %b %Y %H:%M}"
