"""A pool in words: why its floor is what it is, and what the coming days bring. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from warmpool.domain.duration import parse_duration
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import DEFAULT_LEAD
from warmpool.domain.pool import WarmPoolSpec
from warmpool.domain.timeline import timeline
from warmpool.reconcile import parsing

_LONGEST: Final = 3
"""How many phases of a cold start are named."""


@dataclass(frozen=True, slots=True)
class Change:
    """The floor of the schedule from an instant on."""

    at: datetime
    floor: Floor
    why: str
    opens: datetime | None = None
    """When the window opens for which the floor rises at `at`."""


def lead_of(pool: Mapping[str, Any]) -> timedelta:
    """The lead time that the controller uses, as its status says."""
    text = (pool.get("status") or {}).get("leadTime")
    try:
        return parse_duration(text) if text else DEFAULT_LEAD
    except ValueError:
        return DEFAULT_LEAD


def changes(spec: WarmPoolSpec, lead: timedelta, now: datetime, days: int = 7) -> list[Change]:
    """Every change of the schedule's floor in the coming days, the current floor first."""
    found: list[Change] = []
    for piece in timeline(spec, lead, now, now + timedelta(days=days)):
        if found and piece.floor == found[-1].floor:
            continue
        why = ", ".join(name.replace("/", " ") for name in piece.names) or "no window"
        found.append(
            Change(
                piece.start, piece.floor.at_most(spec.limits.max or piece.floor.replicas), why, piece.opens
            )
        )
    return found


def explanation(obj: Mapping[str, Any], now: datetime, days: int = 7) -> list[str]:
    """The lines of `pilotlight pool explain`."""
    view = parsing.parse_pool(obj)
    namespace, name = view.key
    if view.spec is None:
        return [f"{namespace}/{name} cannot be read:", *(f"  {problem}" for problem in view.problems)]
    spec, status = view.spec, view.status
    zone = spec.zone
    lines = [
        f"{namespace}/{name} keeps Service {spec.target} warm ({spec.time_zone}, now {_local(now, zone)})."
    ]
    lines += _now(status)
    lines += _rules(status)
    lines += _measured(status)
    lines += [f"Schedule of the next {days} days (a budget, a hold or requests may change it):"]
    lead = lead_of(obj)
    for change in changes(spec, lead, now, days):
        when = "now" if change.at <= now else _local(change.at, zone)
        early = f", ready by {change.opens.astimezone(zone):%H:%M}" if change.opens else ""
        floor = str(change.floor) if change.floor != NOTHING else "0"
        lines.append(f"  {when:<22} {floor:<12} {change.why}{early}")
    return lines


def _now(status: Mapping[str, Any]) -> list[str]:
    if not status:
        return ["No controller has looked at it yet: is one running?"]
    until = f" until {status['until']}" if status.get("until") else ""
    held = status.get("held", status.get("floor"))
    lines = [f"Floor {held}{until}, {status.get('ready', 0)} ready: {status.get('reason')}."]
    for condition in status.get("conditions") or ():
        bad = condition["status"] != "True" if condition["type"] == "Ready" else condition["status"] == "True"
        if bad:
            told = f"{condition['type']} is {condition['status']} ({condition['reason']})"
            lines.append(f"{told}: {condition.get('message') or 'no more is known'}")
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
    source = {"measured": "the measured p95", "fixed": "as the pool says", "default": "nothing measured yet"}
    if status.get("leadTime"):
        told = source.get(status.get("leadTimeSource", ""), "")
        samples = (
            f"; p50 {cold['p50']}, p95 {cold['p95']}, cold starts seen: {cold['samples']}" if cold else ""
        )
        lines.append(f"Lead time {status['leadTime']} ({told}{samples}).")
    if cold and cold.get("phases"):
        lines.append(_phases(cold))
    cost = status.get("cost")
    if cost:
        of = f" of {cost['budget']}" if cost.get("budget") else ""
        ahead = f", {cost['projected']} projected" if cost.get("projected") else ""
        gpu = (
            f" ({cost['gpu']} at {cost['hourly']} an hour)" if cost.get("gpu") and cost.get("hourly") else ""
        )
        lines.append(f"Cost this {cost['period']}: {cost['toDate']}{of} {cost['currency']}{ahead}{gpu}.")
    return lines


def _phases(cold: Mapping[str, Any]) -> str:
    """Where the time of a start goes, the longest phases first."""
    seconds = {phase: float(told.removesuffix("s")) for phase, told in cold["phases"].items()}
    longest = sorted(seconds, key=lambda phase: -seconds[phase])[:_LONGEST]
    parts = ", ".join(f"{phase} {seconds[phase]:.1f} s" for phase in longest)
    return f"Cold start p95 {cold['p95'].removesuffix('s')} s of {cold['samples']} (median {parts})."


def _local(instant: datetime, zone: Any) -> str:
    return f"{instant.astimezone(zone):%a %d %b %Y %H:%M}"
