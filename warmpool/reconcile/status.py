"""A WarmPool's status, built from values; written only when something in it is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from warmpool.domain.account import Account, AccountReading, RevisionReading
from warmpool.domain.cold_start import ColdStartStats, LeadSource
from warmpool.domain.cost import GpuPrice
from warmpool.domain.counts import parse_count
from warmpool.domain.decision import Decision
from warmpool.domain.duration import format_duration
from warmpool.domain.floor import Floor
from warmpool.reconcile import ownership
from warmpool.reconcile.canary_values import Phase, RolloutStep
from warmpool.reconcile.conditions import PoolCondition
from warmpool.reconcile.views import PoolView

COST_INTERVAL: Final = timedelta(minutes=15)
"""How often a status is written in which only the cost differs."""
MOVING_INTERVAL: Final = timedelta(minutes=1)
"""How often one is written in which only what moves with every request differs, e.g. a keep-alive's end."""

_MONEY: Final = ("toDate", "projected", "byReason", "busyGpuSeconds", "idleGpuSeconds", "countedAt")


@dataclass(frozen=True, slots=True)
class NextChange:
    """What the floor will be when it changes next, if nothing else happens."""

    at: datetime
    floor: Floor
    reason: str


@dataclass(frozen=True, slots=True)
class RevisionStatus:
    """The floor on one Revision."""

    name: str
    percent: int
    floor: int
    min_scale: int | None
    ready: int
    via: str


@dataclass(frozen=True, slots=True)
class StatusReport:
    """Everything a status is made from."""

    decision: Decision
    next_change: NextChange | None
    ready: int
    lead: timedelta
    lead_source: LeadSource
    cold_start: ColdStartStats | None
    revisions: Sequence[RevisionStatus]
    held: int = 0
    """Replicas that a pool with an invalid spec still holds, until their floor expires."""
    account: Account | None = None
    projected: Decimal | None = None
    gpu: str | None = None
    price: GpuPrice | None = None
    currency: str = "USD"
    rollout: RolloutStep | None = None


def build(
    pool: PoolView, report: StatusReport, conditions: Sequence[PoolCondition], now: datetime
) -> dict[str, Any]:
    """The status as JSON values, without what is unknown."""
    decision = report.decision
    status: dict[str, Any] = {
        "observedGeneration": pool.generation,
        "floor": report.held or decision.floor.replicas,
        "held": f"{report.held} hot" if report.held else str(decision.floor),
        "ready": report.ready,
        "reason": decision.reason,
        "until": ownership.timestamp(decision.until) if decision.until else None,
        "nextChange": _next(report.next_change),
        "rules": [
            {"rule": entry.policy, "held": str(entry.floor), "reason": entry.reason, "detail": entry.detail}
            for entry in decision.proposals
        ]
        + [
            {
                "rule": entry.rule.source,
                "held": str(entry.after),
                "reason": entry.rule,
                "detail": entry.detail,
            }
            for entry in decision.adjustments
        ],
        "signals": [
            _without_unknown(
                {
                    "name": entry.name,
                    "value": None if entry.value is None else f"{entry.value:.6g}",
                    "replicas": entry.replicas,
                    "problem": entry.problem or None,
                }
            )
            for entry in decision.signals
        ]
        or None,
        "coldStart": _cold_start(report.cold_start),
        "leadTime": format_duration(report.lead),
        "leadTimeSource": report.lead_source,
        "cost": _cost(pool, report),
        "rollout": _rollout(report.rollout),
        "revisions": [
            _without_unknown(
                {
                    "name": revision.name,
                    "percent": revision.percent,
                    "floor": revision.floor,
                    "minScale": revision.min_scale,
                    "ready": revision.ready,
                    "via": revision.via,
                }
            )
            for revision in report.revisions
        ],
        "conditions": _conditions(pool, conditions, now),
    }
    return _without_unknown(status)


def _rollout(step: RolloutStep | None) -> dict[str, Any] | None:
    if step is None:
        return None
    verdict = step.analysis.verdict if step.window is not None or step.phase is Phase.ROLLED_BACK else None
    shown = {
        "phase": step.phase.value,
        "stable": step.stable,
        "canary": step.canary,
        "percent": step.percent,
        "nextPercent": step.next_percent,
        "since": ownership.timestamp(step.since) if step.since else None,
        "detail": step.detail,
        "analysis": [
            {"name": entry.name, "outcome": entry.outcome.value, "detail": entry.detail}
            for entry in verdict.comparisons
        ]
        if verdict is not None
        else None,
    }
    return _without_unknown(shown)


def patch(
    before: Mapping[str, Any], after: Mapping[str, Any], now: datetime, written_at: datetime | None
) -> dict[str, Any] | None:
    """The merge patch from one status to the other; None when the difference is not worth a write.

    `written_at` is when this controller last wrote the status; None: it has not yet.
    """
    same = _essence(before) == _essence(after)
    recent = written_at is not None and written_at <= now < written_at + MOVING_INTERVAL
    moved = _moving(before) != _moving(after) and not recent
    if same and not moved and not _cost_is_due(before, after, now):
        return None
    gone = {key: None for key in before if key not in after}
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    return {**gone, **{key: _with_removed(before.get(key), value) for key, value in changed.items()}} or None


def account(status: Mapping[str, Any]) -> Account | None:
    """The account that a status shows, with the Revisions as they were; None if there is none."""
    shown = status.get("cost") or {}
    since = ownership.parse_instant(shown.get("periodStart"))
    if since is None:
        return None
    try:
        spent = Decimal(shown["toDate"])
        reasons = {reason: Decimal(amount) for reason, amount in (shown.get("byReason") or {}).items()}
    except (KeyError, InvalidOperation):
        return None
    idle, busy = float(shown.get("idleGpuSeconds") or 0), float(shown.get("busyGpuSeconds") or 0)
    last = _last_reading(status, shown)
    return Account(since, spent, reasons, idle_gpu_s=idle, busy_gpu_s=busy, last=last)


def _last_reading(status: Mapping[str, Any], cost: Mapping[str, Any]) -> AccountReading | None:
    """The Revisions as a status shows them; price and GPUs are those of the next reading."""
    at = ownership.parse_instant(cost.get("countedAt"))
    if at is None:
        return None
    revisions = {}
    for entry in status.get("revisions") or ():
        floor, ready = parse_count(entry.get("floor")), parse_count(entry.get("ready"))
        if floor is not None and ready is not None:
            revisions[str(entry.get("name"))] = RevisionReading(Floor.of(floor), ready)
    return AccountReading(at, revisions, reason=str(status.get("reason", "")))


def _with_removed(before: object, after: object) -> object:
    """`after` with null for every key that is gone: a merge patch keeps what it does not name (RFC 7396)."""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return after
    gone = {key: None for key in before if key not in after}
    return {**gone, **{key: _with_removed(before.get(key), value) for key, value in after.items()}}


def _essence(status: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a status of which every change is written at once."""
    kept = {
        key: value
        for key, value in status.items()
        if key not in {"cost", "until", "nextChange", "rules", "signals"}
    }
    rules = [(rule.get("rule"), rule.get("held"), rule.get("reason")) for rule in status.get("rules") or ()]
    cost = {key: value for key, value in (status.get("cost") or {}).items() if key not in _MONEY}
    return {**kept, "rules": rules, "cost": cost}


def _moving(status: Mapping[str, Any]) -> tuple[Any, ...]:
    return status.get("until"), status.get("nextChange"), status.get("rules"), status.get("signals")


def _cost_is_due(before: Mapping[str, Any], after: Mapping[str, Any], now: datetime) -> bool:
    old, new = before.get("cost") or {}, after.get("cost") or {}
    changed = any(old.get(key) != new.get(key) for key in _MONEY if key != "countedAt")
    counted = ownership.parse_instant(old.get("countedAt"))
    return changed and (counted is None or not counted <= now < counted + COST_INTERVAL)


def _next(change: NextChange | None) -> dict[str, Any] | None:
    if change is None:
        return None
    return {
        "at": ownership.timestamp(change.at),
        "floor": change.floor.replicas,
        "held": str(change.floor),
        "reason": change.reason,
    }


def _cold_start(measured: ColdStartStats | None) -> dict[str, Any] | None:
    if measured is None:
        return None
    texts = {phase: f"{median.total_seconds():.1f}s" for phase, median in measured.phases.items()}
    phases = {phase: text for phase, text in texts.items() if text != "0.0s"}
    return _without_unknown(
        {
            "p50": f"{measured.p50.total_seconds():.1f}s",
            "p95": f"{measured.p95.total_seconds():.1f}s",
            "samples": measured.samples,
            "outliers": [format_duration(outlier) for outlier in measured.outliers] or None,
            "phases": phases or None,
        }
    )


def _cost(pool: PoolView, report: StatusReport) -> dict[str, Any] | None:
    account = report.account
    if account is None:
        return None
    budget = pool.spec.limits.budget if pool.spec else None
    return _without_unknown(
        {
            "currency": report.currency,
            "period": budget.period if budget else "month",
            "periodStart": ownership.timestamp(account.since),
            "toDate": f"{account.spent:.2f}",
            "projected": f"{report.projected:.2f}" if report.projected is not None else None,
            "budget": f"{budget.amount:.2f}" if budget else None,
            "gpu": report.gpu,
            "hourly": f"{report.price.hourly}" if report.price else None,
            "byReason": {reason: f"{amount:.2f}" for reason, amount in sorted(account.by_reason.items())},
            "busyGpuSeconds": round(account.busy_gpu_s),
            "idleGpuSeconds": round(account.idle_gpu_s),
            "countedAt": ownership.timestamp(account.last.at) if account.last else None,
        }
    )


def failed(pool: PoolView, condition: PoolCondition, now: datetime) -> dict[str, Any]:
    """The status of a pool that could not be reconciled: as it was, but for its conditions."""
    kept = {key: value for key, value in pool.status.items() if key != "conditions"}
    return {**kept, "conditions": _conditions(pool, (condition,), now)}


def _conditions(pool: PoolView, current: Sequence[PoolCondition], now: datetime) -> list[dict[str, Any]]:
    """Conditions as JSON values; the last transition stays as long as the status is the same."""
    before = {entry.get("type"): entry for entry in pool.status.get("conditions") or ()}
    entries = []
    for condition in current:
        text = condition.status_text
        known = before.get(condition.type)
        since = (
            known["lastTransitionTime"] if known and known.get("status") == text else ownership.timestamp(now)
        )
        entries.append(
            {
                "type": condition.type,
                "status": text,
                "observedGeneration": pool.generation,
                "lastTransitionTime": since,
                "reason": condition.reason,
                "message": condition.message,
            }
        )
    return entries


def _without_unknown(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
