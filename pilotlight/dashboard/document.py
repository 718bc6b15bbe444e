"""What the dashboard shows, as one JSON document: a pure function of objects, readings and an instant."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from knative import env_vars
from knative.labels import AGENT_LABEL, STAGE_LABEL
from pilotlight.metric_samples import Key, Sample, by_service
from pilotlight.readiness import ready_condition
from pilotlight.service_readings import Rates, ServiceReading
from pilotlight.service_warnings import kept_by, service_warnings
from warmpool.reconcile import ownership

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Observed:
    """What was gathered at an instant."""

    now: datetime
    services: Sequence[Object] = ()
    pools: Sequence[Object] = ()
    triggers: Sequence[Object] = ()
    readings: Mapping[str, ServiceReading] = field(default_factory=dict)
    """By `NAMESPACE/NAME`, as `rates`."""
    rates: Mapping[str, Rates] = field(default_factory=dict)
    platform: Sequence[Sample] = ()
    """Of the platform's metrics."""
    problems: Sequence[str] = ()
    """What could not be read, and why."""


def document(seen: Observed) -> dict[str, Any]:
    """The overview: agents, Services, pools, queues and cost; JSON values only, unknown is null."""
    samples = by_service(seen.platform)
    pools = {_target(pool): pool for pool in seen.pools}
    services = [
        _service(item, pools.get(_key(item)), samples.get(_key(item), []), seen) for item in seen.services
    ]
    shown = [_pool(pool, seen.now) for pool in seen.pools]
    return {
        "now": seen.now.isoformat(),
        "problems": list(seen.problems),
        "agents": agents(seen.services, seen.triggers),
        "services": sorted(services, key=lambda item: item["id"]),
        "pools": sorted(shown, key=lambda item: item["id"]),
        "queues": sorted(map(_queue, seen.triggers), key=lambda item: item["id"]),
        "cost": _costs(shown),
        "slots": _slots(seen.platform),
    }


def _key(obj: Object) -> Key:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def _target(pool: Object) -> Key:
    return pool["metadata"]["namespace"], str((pool.get("spec") or {}).get("target", ""))


def _service(service: Object, pool: Object | None, samples: list[Sample], seen: Observed) -> dict[str, Any]:
    namespace, name = _key(service)
    identity = f"{namespace}/{name}"
    reading = seen.readings.get(identity, ServiceReading(ready="not yet"))
    rate = seen.rates.get(identity, Rates())
    labels = service["metadata"].get("labels") or {}
    ready = ready_condition(service)
    status = (pool or {}).get("status") or {}
    kept = kept_by(namespace, name, samples) if reading.replicas_ready + reading.replicas_pending else ""
    if ready.status == "True":
        why = "; ".join(filter(None, [str(status.get("reason", "")), kept]))
    else:
        why = f"{ready.reason} {ready.message}".strip()
    return {
        "id": identity,
        "agent": labels.get(AGENT_LABEL),
        "kind": labels.get(STAGE_LABEL),
        "ready": reading.ready,
        "replicas": reading.replicas_ready,
        "pending": reading.replicas_pending,
        "floor": reading.floor,
        "desired": reading.desired,
        "demand": _rounded(reading.demand, 2),
        "warmth": list(reading.warmth),
        "requestsPerSecond": _rounded(rate.requests_per_s, 2),
        "ttft": _rounded(rate.ttft_s, 3),
        "tokensPerSecond": _rounded(rate.tokens_per_s, 1),
        "gpuSeconds": _rounded(reading.gpu_seconds, 0),
        "why": why,
        "warnings": service_warnings(service, status or None, samples),
        "pool": None if pool is None else "/".join(_key(pool)),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def agents(services: Iterable[Object], triggers: Iterable[Object]) -> list[dict[str, Any]]:
    """The graph of each agent: its stages, who calls whom, and the queues that feed them."""
    found: dict[Key, dict[str, Any]] = {}
    owner: dict[Key, dict[str, Any]] = {}
    for service in sorted(services, key=_key):
        namespace, name = _key(service)
        labels = service["metadata"].get("labels") or {}
        if AGENT_LABEL not in labels:
            continue
        agent = found.setdefault(
            (namespace, labels[AGENT_LABEL]),
            {"id": f"{namespace}/{labels[AGENT_LABEL]}", "stages": [], "calls": [], "queues": []},
        )
        owner[namespace, name] = agent
        agent["stages"].append({"service": f"{namespace}/{name}", "kind": labels.get(STAGE_LABEL)})
        agent["calls"] += [[f"{namespace}/{name}", f"{namespace}/{called}"] for called in _called(service)]
    for trigger in triggers:
        namespace, name = _key(trigger)
        target = _trigger_target(trigger)
        if target and (namespace, target) in owner:
            owner[namespace, target]["queues"].append([f"{namespace}/{name}", f"{namespace}/{target}"])
    for agent in found.values():
        agent["stages"] = _in_order(agent["stages"], agent["calls"])
    return list(found.values())


def _in_order(stages: list[dict[str, Any]], calls: list[list[str]]) -> list[dict[str, Any]]:
    """Who calls comes before whom it calls; those in the order in which they are called."""
    order = list(dict.fromkeys(name for call in calls for name in call))
    known = {name: place for place, name in enumerate(order)}
    return sorted(stages, key=lambda stage: known.get(stage["service"], len(known)))


def _called(service: Object) -> list[str]:
    """The Services of the stages that an orchestrating stage calls, in order."""
    for container in service["spec"]["template"]["spec"].get("containers", ()):
        for variable in container.get("env", ()):
            if variable.get("name") == env_vars.STAGES:
                try:
                    urls = [str(stage["url"]) for stage in json.loads(variable.get("value") or "[]")]
                except (ValueError, TypeError, KeyError):
                    return []
                return [url.partition("://")[2].partition(".")[0] for url in urls]
    return []


def _trigger_target(trigger: Object) -> str:
    target = (trigger.get("spec") or {}).get("target")
    if isinstance(target, Mapping):
        return str(target.get("service", ""))
    return str(target or "")


def _pool(pool: Object, now: datetime) -> dict[str, Any]:
    spec, status = pool.get("spec") or {}, pool.get("status") or {}
    following = status.get("nextChange")
    namespace, name = _key(pool)
    return {
        "id": f"{namespace}/{name}",
        "service": "/".join(_target(pool)),
        "enabled": spec.get("enabled", True),
        "held": status.get("held"),
        "ready": status.get("ready"),
        "reason": status.get("reason"),
        "until": status.get("until"),
        "next": None if not following else {key: following.get(key) for key in ("at", "held", "reason")},
        "hold": _hold(pool, now),
        "coldStart": {key: (status.get("coldStart") or {}).get(key) for key in ("p50", "p95", "samples")},
        "cost": _account(status.get("cost")),
    }


def _hold(pool: Object, now: datetime) -> dict[str, Any] | None:
    annotations = pool["metadata"].get("annotations") or {}
    until = ownership.parse_instant(annotations.get(ownership.HOLD_UNTIL))
    if until is None or until <= now:
        return None
    return {"replicas": annotations.get(ownership.HOLD_REPLICAS), "until": until.isoformat()}


def _account(cost: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not cost or "toDate" not in cost:
        return None
    keys = ("currency", "period", "periodStart", "toDate", "projected", "budget", "gpu", "hourly", "byReason")
    busy, idle = cost.get("busyGpuSeconds"), cost.get("idleGpuSeconds")
    return {**{key: cost.get(key) for key in keys}, "busyGpuSeconds": busy, "idleGpuSeconds": idle}


def _costs(pools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sums of the pools' accounts by currency; amounts of different currencies are never added."""
    sums: dict[str, dict[str, Decimal | None]] = {}
    for account in (pool["cost"] for pool in pools if pool["cost"]):
        entry = sums.setdefault(str(account["currency"]), {"toDate": None, "projected": None, "budget": None})
        for key, before in entry.items():
            value = _decimal(account[key])
            if value is not None:
                entry[key] = value + (before or 0)
    return [
        {"currency": currency, **{key: None if value is None else str(value) for key, value in entry.items()}}
        for currency, entry in sorted(sums.items())
    ]


def _decimal(text: object) -> Decimal | None:
    try:
        return None if text is None else Decimal(str(text))
    except InvalidOperation:
        return None


def _queue(trigger: Object) -> dict[str, Any]:
    status = trigger.get("status") or {}
    ready: Mapping[str, Any] = next(
        (item for item in status.get("conditions") or () if item.get("type") == "Ready"), {}
    )
    keys = (
        "source", "target", "backlog", "oldestMessageAge", "inFlight",
        "concurrency", "delivered", "retried", "deadLettered",
    )  # fmt: skip
    return {
        "id": "/".join(_key(trigger)),
        "ready": ready.get("status"),
        "message": ready.get("message"),
        **{key: status.get(key) for key in keys},
    }


def _slots(samples: Iterable[Sample]) -> dict[str, float] | None:
    found = {
        labels.get("state", ""): value for name, labels, value in samples if name == "pilotlight_gpu_slots"
    }
    return found or None
