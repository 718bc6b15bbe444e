"""Who caused what a pool has cost (pure): the cost of each Service, divided by what its callers used.

A Service's cost is divided by tokens, and where it has none, by requests. Held capacity that nobody used is
divided as well: it was held for those who call.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from knative.labels import AGENT_LABEL
from pilotlight.metric_samples import Sample

By = Literal["service", "pool", "agent", "key", "team", "reason"]
KEY_REQUESTS = "pilotlight_key_requests_total"
KEY_TOKENS = "pilotlight_key_tokens_total"
NOBODY = "(no key)"
"""The share of a Service that no request with a key has used."""
NO_REASON = "(no reason)"
"""Of a pool that has cost nothing yet."""


@dataclass(frozen=True, slots=True)
class ServiceCost:
    """What a Service's pool has cost in its period."""

    namespace: str
    service: str
    agent: str
    """Empty for a Service that belongs to none."""
    amount: Decimal
    currency: str
    pool: str = ""
    by_reason: Mapping[str, Decimal] = field(default_factory=dict)
    """Parts of the amount by the rule for which capacity was held."""
    since: datetime | None = None
    """When the period began."""
    until: datetime | None = None
    """Up to when it was counted."""


@dataclass(frozen=True, slots=True)
class CallerUse:
    """What one caller used of one Service."""

    namespace: str
    service: str
    key: str
    team: str
    requests: float
    tokens: float


@dataclass(frozen=True, slots=True)
class CostShare:
    """One line of the account."""

    name: str
    amount: Decimal | None
    """None: none of the Services that it used has a pool, so there is no price."""
    currency: str
    requests: float | None
    """None: a request has no reason for which capacity is held."""
    tokens: float | None


def uses_of(samples: Iterable[Sample]) -> list[CallerUse]:
    """What callers used, as samples of replicas say that carry a `namespace` label."""
    counts: defaultdict[tuple[str, str, str, str], dict[str, float]] = defaultdict(
        lambda: {KEY_REQUESTS: 0.0, KEY_TOKENS: 0.0}
    )
    for name, labels, value in samples:
        if name in {KEY_REQUESTS, KEY_TOKENS}:
            who = tuple(labels.get(label, "") for label in ("namespace", "stage", "key", "team"))
            counts[who[0], who[1], who[2], who[3]][name] += value
    return [
        CallerUse(*who, requests=count[KEY_REQUESTS], tokens=count[KEY_TOKENS])
        for who, count in counts.items()
    ]


def service_costs(
    pools: Iterable[Mapping[str, Any]], services: Iterable[Mapping[str, Any]]
) -> tuple[list[ServiceCost], datetime | None]:
    """What each pool has cost as its status says, and when the earliest of their periods began."""
    agents = {
        (meta["namespace"], meta["name"]): str((meta.get("labels") or {}).get(AGENT_LABEL, ""))
        for meta in (service["metadata"] for service in services)
    }
    found: list[ServiceCost] = []
    begun: list[datetime] = []
    for pool in pools:
        namespace, target = pool["metadata"]["namespace"], str((pool.get("spec") or {}).get("target", ""))
        account = (pool.get("status") or {}).get("cost") or {}
        if "toDate" not in account:
            continue
        begun += [datetime.fromisoformat(account["periodStart"])] if "periodStart" in account else []
        amount, currency = Decimal(str(account["toDate"])), str(account.get("currency", ""))
        found.append(
            ServiceCost(
                namespace,
                target,
                agents.get((namespace, target), ""),
                amount,
                currency,
                pool["metadata"]["name"],
                {why: Decimal(str(part)) for why, part in (account.get("byReason") or {}).items()},
                _instant(account.get("periodStart")),
                _instant(account.get("countedAt")),
            )
        )
    return found, min(begun, default=None)


def shares(costs: Iterable[ServiceCost], uses: Iterable[CallerUse], by: By) -> list[CostShare]:
    """The account, dearest first; amounts of different currencies are never added."""
    costs, uses = list(costs), list(uses)
    amounts: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    priced: set[str] = set()
    for cost in costs:
        of_service = [use for use in uses if (use.namespace, use.service) == (cost.namespace, cost.service)]
        for name, part in parts(cost, of_service, by).items():
            amounts[name, cost.currency] += cost.amount * part
            priced.add(name)
    requests: defaultdict[str, float] = defaultdict(float)
    tokens: defaultdict[str, float] = defaultdict(float)
    known = {(cost.namespace, cost.service): cost for cost in costs}
    for use in uses if by != "reason" else ():
        name = _name(use, known.get((use.namespace, use.service)), by)
        requests[name] += use.requests
        tokens[name] += use.tokens
    lines = [
        CostShare(
            name,
            amount,
            currency,
            None if by == "reason" else requests[name],
            None if by == "reason" else tokens[name],
        )
        for (name, currency), amount in amounts.items()
    ]
    lines += [
        CostShare(name, None, "", requests[name], tokens[name]) for name in requests if name not in priced
    ]
    return sorted(lines, key=lambda line: (-(line.amount or Decimal(0)), line.name))


def parts(cost: ServiceCost, uses: list[CallerUse], by: By) -> dict[str, Decimal]:
    """The part of a Service's cost by name, where `uses` are of that Service; they add up to 1."""
    match by:
        case "service":
            return {f"{cost.namespace}/{cost.service}": Decimal(1)}
        case "pool":
            return {f"{cost.namespace}/{cost.pool}": Decimal(1)}
        case "agent":
            return {f"{cost.namespace}/{cost.agent}" if cost.agent else "(no agent)": Decimal(1)}
        case "reason":
            total = sum(cost.by_reason.values())
            whole = {NO_REASON: Decimal(1)}
            return {why: part / total for why, part in cost.by_reason.items()} if total else whole
    weights: defaultdict[str, Decimal] = defaultdict(Decimal)
    counts_tokens = any(use.tokens for use in uses)
    for use in uses:
        weights[_name(use, cost, by)] += Decimal(use.tokens if counts_tokens else use.requests)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()} if total else {NOBODY: Decimal(1)}


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _name(use: CallerUse, cost: ServiceCost | None, by: By) -> str:
    match by:
        case "service":
            return f"{use.namespace}/{use.service}"
        case "pool":
            return "(no pool)" if cost is None else f"{use.namespace}/{cost.pool}"
        case "agent":
            return f"{use.namespace}/{cost.agent}" if cost is not None and cost.agent else "(no agent)"
        case "team":
            return use.team or "(no team)"
    return use.key
