"""Class hpa: the HorizontalPodAutoscaler, the PodAutoscaler's status, replicas as `hpa` sees them (pure).

After pkg/reconciler/autoscaling/hpa of Knative Serving.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from knative.autoscaling import annotations as vocabulary
from knative.autoscaling.config import Config
from knative.client.cluster import HORIZONTAL_POD_AUTOSCALER, Object
from knative.hpa import POLICY_PERCENT, POLICY_PERIOD_S, POLICY_PODS
from knative.hpa_spec import HpaSpec
from knative.local import containers, objects
from knative.local.controllers.reconcilers import conditions
from knative.local.controllers.reconcilers.conditions import Condition
from knative.local.horizontal import HorizontalStatus
from knative.utilization import CPU, MEMORY, Pod, Proposal, Target


def pods(found: Iterable[Mapping[str, Any]], resource: str) -> list[Pod]:
    """A Revision's pods with their requests of `resource`."""
    return [_pod(item, resource) for item in found]


def _pod(pod: Mapping[str, Any], resource: str) -> Pod:
    status = pod.get("status") or {}
    phase, ready, started = status.get("phase"), objects.condition(pod, "Ready"), status.get("startTime")
    return Pod(
        objects.name_of(pod),
        running=phase != "Pending",
        ignored=bool(pod["metadata"].get("deletionTimestamp")) or phase == "Failed",
        ready=None if ready is None else ready["status"] != "False",
        ready_changed=0.0 if ready is None else _seconds(ready["lastTransitionTime"]),
        started=None if started is None else _seconds(started),
        requests=tuple(
            (str(item.get("name")), request(item, resource)) for item in pod["spec"].get("containers") or ()
        ),
    )


def _seconds(text: str) -> float:
    return objects.parse_timestamp(text).timestamp()


def request(container: Mapping[str, Any], resource: str) -> int | None:
    """What a container asks for, in thousandths."""
    quantity = containers.amount(container, "requests", resource)
    return None if quantity is None else math.ceil(quantity * 1000)


def horizontal(autoscaler: Mapping[str, Any], settings: HpaSpec) -> Object:
    """The HorizontalPodAutoscaler of a PodAutoscaler."""
    meta = autoscaler["metadata"]
    spec: Object = {
        "maxReplicas": settings.most,
        "metrics": [_metric(settings.target)],
        "minReplicas": settings.least,
        "scaleTargetRef": objects.clone(autoscaler["spec"]["scaleTargetRef"]),
    }
    if settings.window_s is not None:
        spec["behavior"] = _behavior(int(settings.window_s))
    return objects.typed(
        HORIZONTAL_POD_AUTOSCALER,
        {
            "metadata": {
                "name": meta["name"],
                "namespace": meta["namespace"],
                "labels": dict(objects.labels_of(autoscaler)),
                "annotations": dict(objects.annotations_of(autoscaler)),
                "ownerReferences": [objects.owner_reference(autoscaler)],
            },
            "spec": spec,
        },
    )


def _metric(target: Target) -> Object:
    if target.resource in (CPU, MEMORY):
        if target.utilization is not None:
            amount: Object = {"type": "Utilization", "averageUtilization": target.utilization}
        else:
            amount = {"type": "AverageValue", "averageValue": _amount(target.resource, target.average or 0)}
        return {"type": "Resource", "resource": {"name": target.resource, "target": amount}}
    amount = {"type": "AverageValue", "averageValue": _amount(target.resource, target.average or 0)}
    return {"type": "Pods", "pods": {"metric": {"name": target.resource}, "target": amount}}


def _amount(resource: str, thousandths: int) -> str:
    """A quantity as Kubernetes prints it."""
    whole, rest = divmod(thousandths, 1000)
    if rest:
        return f"{thousandths}m"
    if resource == MEMORY:
        for power, suffix in ((4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
            if whole and whole % 1024**power == 0:
                return f"{whole // 1024**power}{suffix}"
    return str(whole)


def _behavior(window_s: int) -> Object:
    percent = {"type": "Percent", "value": POLICY_PERCENT, "periodSeconds": int(POLICY_PERIOD_S)}
    pods_each = {"type": "Pods", "value": POLICY_PODS, "periodSeconds": int(POLICY_PERIOD_S)}
    common = {"stabilizationWindowSeconds": window_s, "selectPolicy": "Max"}
    return {
        "scaleDown": {**common, "policies": [percent]},
        "scaleUp": {**common, "policies": [pods_each, percent]},
    }


def horizontal_status(obj: Mapping[str, Any], status: HorizontalStatus, now: str) -> Object:
    """The HorizontalPodAutoscaler's status; nothing is known of it before the first decision."""
    found = [
        Condition(item.type, "True" if item.status == "True" else "False", item.reason, item.message)
        for item in status.state.findings.values()
    ]
    result: Object = {
        "currentReplicas": status.replicas,
        "desiredReplicas": status.replicas,
        "conditions": conditions.written(found, conditions.before(obj), now),
    }
    if status.settings is not None and status.state.proposal is not None:
        result["currentMetrics"] = [_current(status.settings.target, status.state.proposal)]
    if status.scaled_at is not None:
        result["lastScaleTime"] = objects.timestamp(datetime.fromtimestamp(status.scaled_at, UTC))
    return result


def _current(target: Target, proposal: Proposal) -> Object:
    current: Object = {"averageValue": _amount(target.resource, proposal.average)}
    if proposal.utilization is not None:
        current["averageUtilization"] = proposal.utilization
    return {"type": "Resource", "resource": {"name": target.resource, "current": current}}


def status(
    autoscaler: Mapping[str, Any],
    scaling: HorizontalStatus,
    ready_count: int,
    now: str,
    *,
    config: Config,
) -> Object:
    """The PodAutoscaler's status: always active, whatever its HorizontalPodAutoscaler has to say."""
    meta = autoscaler["metadata"]
    if scaling.settings is None:
        refused = conditions.false(
            "Active", "FailedCreate", f'Failed to create HorizontalPodAutoscaler "{meta["name"]}".'
        )
        others = [conditions.unknown("ScaleTargetInitialized"), conditions.unknown("SKSReady")]
        return _written(autoscaler, [refused, *others], now, {"metricsServiceName": "", "serviceName": ""})
    initialized = objects.condition_status(autoscaler, "ScaleTargetInitialized") == "True" or (
        ready_count > 0 and scaling.replicas >= threshold(autoscaler, config)
    )
    found = [
        conditions.true("Active"),
        conditions.true("ScaleTargetInitialized")
        if initialized
        else conditions.unknown("ScaleTargetInitialized"),
        conditions.true("SKSReady")
        if ready_count
        else conditions.unknown("SKSReady", "NotReady", "SKS Services are not ready yet"),
    ]
    return _written(
        autoscaler,
        found,
        now,
        {
            "actualScale": scaling.replicas,
            "desiredScale": scaling.replicas,
            "metricsServiceName": f"{meta['name']}-private",
            "serviceName": meta["name"],
        },
    )


def threshold(autoscaler: Mapping[str, Any], config: Config) -> int:
    """Replicas from which on a new Revision has reached its scale."""
    marks = objects.annotations_of(autoscaler)
    least = config.min_scale
    if (found := vocabulary.lookup(marks, vocabulary.MIN_SCALE)) is not None:
        least = int(found[1])
    if autoscaler["spec"].get("reachability") == "Unreachable":
        least = 0
    return max(least, vocabulary.initial_scale(marks, config))


def _written(
    autoscaler: Mapping[str, Any], found: list[Condition], now: str, fields: Mapping[str, Any]
) -> Object:
    return {
        "conditions": conditions.written(conditions.with_ready(found), conditions.before(autoscaler), now),
        **fields,
        "observedGeneration": autoscaler["metadata"]["generation"],
    }
