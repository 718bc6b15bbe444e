"""Kubernetes objects as JSON values, read into views."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from knative.autoscaling.annotations import (
    ACTIVATION_SCALE,
    CLASS,
    HPA,
    MAX_SCALE,
    POD_RETENTION,
    SCALE_DOWN_DELAY,
    WINDOW,
    lookup,
)
from knative.labels import PROGRESS_DEADLINE_ANNOTATION, SERVICE_LABEL
from knative.literals import parse_duration as parse_go_duration
from warmpool.domain.account import SCALE_TO_ZERO_GRACE
from warmpool.domain.counts import parse_count
from warmpool.domain.duration import parse_duration
from warmpool.domain.object_key import ObjectKey
from warmpool.domain.observation import Hold
from warmpool.domain.pool import WarmPoolSpec
from warmpool.domain.spec_errors import SpecError
from warmpool.reconcile import canary_record, ownership
from warmpool.reconcile.views import (
    AutoscalerView,
    KnativeCondition,
    PoolView,
    RevisionView,
    ServiceView,
    TrafficShare,
    Unscheduled,
)

_GPU_RESOURCES: Final = re.compile(r"(nvidia\.com/(gpu(\.shared)?|mig-[0-9a-z.+-]+)|amd\.com/gpu)")
"""Extended resources that occupy a GPU or a part of one, by their device plugins' names."""
_WHOLE_GPU: Final = "nvidia.com/gpu"
_GPU_NODE_LABEL: Final = "nvidia.com/gpu.product"
_STABLE_WINDOW: Final = timedelta(seconds=60)
"""Knative's default."""
_LONGEST_DRAIN_S: Final = 3600.0
"""The longest period that Knative's annotations allow."""
_LONGEST_PROBLEM: Final = 500
"""Characters of an unexpected error that the status shows."""


def object_key(obj: Mapping[str, Any]) -> ObjectKey:
    """Namespace and name, interned: they are shared by everything that names the object."""
    meta = obj["metadata"]
    return sys.intern(meta.get("namespace", "")), sys.intern(meta["name"])


def object_key_or_none(obj: Mapping[str, Any]) -> ObjectKey | None:
    """The same; None for an object that does not say who it is."""
    try:
        return object_key(obj)
    except (KeyError, TypeError, AttributeError):
        return None


def parse_pool(obj: Mapping[str, Any], before: PoolView | None = None) -> PoolView:
    """Read a WarmPool.

    The spec of `before` is kept while the generation is the same, because policies recognise an unchanged
    spec by its identity.
    """
    meta = obj["metadata"]
    generation = meta.get("generation", 0)
    if before is not None and (before.uid, before.generation) == (meta.get("uid", ""), generation):
        spec, problems = before.spec, before.problems
    else:
        spec, problems = _spec(obj)
    return PoolView(
        key=object_key(obj),
        uid=meta.get("uid", ""),
        version=meta.get("resourceVersion", ""),
        generation=generation,
        created=meta.get("creationTimestamp", ""),
        spec=spec,
        problems=problems,
        hold=_hold(meta.get("annotations") or {}),
        deleting="deletionTimestamp" in meta,
        finalizers=tuple(meta.get("finalizers") or ()),
        rollout_order=(meta.get("annotations") or {}).get(canary_record.ORDER),
        rollout_paused=(meta.get("annotations") or {}).get(canary_record.PAUSED) == "true",
        status_json=json.dumps(obj.get("status") or {}),
    )


def _spec(obj: Mapping[str, Any]) -> tuple[WarmPoolSpec | None, tuple[str, ...]]:
    try:
        return WarmPoolSpec.parse(obj.get("spec")), ()
    except SpecError as wrong:
        return None, tuple(wrong.problems)
    except Exception as fault:  # noqa: BLE001  whatever is in a spec, it concerns this pool alone
        return None, (f"spec cannot be read: {fault!r}"[:_LONGEST_PROBLEM],)


def _hold(annotations: Mapping[str, str]) -> Hold | None:
    replicas = parse_count(annotations.get(ownership.HOLD_REPLICAS))
    until = ownership.parse_instant(annotations.get(ownership.HOLD_UNTIL))
    return Hold(replicas, until) if replicas is not None and until is not None else None


def parse_service(obj: Mapping[str, Any]) -> ServiceView:
    """Read a Knative Service."""
    meta, status = obj["metadata"], obj.get("status") or {}
    template = (obj.get("spec") or {}).get("template") or {}
    pod = template.get("spec") or {}
    annotations = {
        **(meta.get("annotations") or {}),
        **((template.get("metadata") or {}).get("annotations") or {}),
    }
    shares = tuple(
        TrafficShare(
            sys.intern(entry["revisionName"]),
            entry.get("percent") or 0,
            entry.get("tag"),
            latest=bool(entry.get("latestRevision")),
        )
        for entry in status.get("traffic") or ()
        if entry.get("revisionName")
    )
    gpus = _gpus(pod.get("containers") or ())
    return ServiceView(
        key=object_key(obj),
        uid=meta.get("uid", ""),
        traffic=shares,
        url=status.get("url"),
        address=(status.get("address") or {}).get("url"),
        latest_created=status.get("latestCreatedRevisionName"),
        latest_ready=status.get("latestReadyRevisionName"),
        deleting="deletionTimestamp" in meta,
        gpu=annotations.get(ownership.GPU) or (pod.get("nodeSelector") or {}).get(_GPU_NODE_LABEL),
        gpus=sum(gpus.values()),
        gpu_resource=next((name for name in gpus if name != _WHOLE_GPU), None),
        container_concurrency=pod.get("containerConcurrency") or 0,
        timeout_s=float(pod.get("timeoutSeconds") or 300),
        progress_deadline_s=_seconds(annotations.get(PROGRESS_DEADLINE_ANNOTATION)) or 600.0,
        spec_traffic=canary_record.parse_traffic((obj.get("spec") or {}).get("traffic")),
        rollout=canary_record.read(meta.get("annotations") or {}),
        traffic_manager=_traffic_manager(meta.get("managedFields")),
    )


def _traffic_manager(managed: object) -> str:
    """The field manager that wrote `spec.traffic` last; empty when it is not known."""
    found = [
        (str(entry.get("time", "")), str(entry.get("manager", "")))
        for entry in (managed if isinstance(managed, list) else ())
        if isinstance(entry, Mapping) and "f:traffic" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    ]
    return max(found, default=("", ""))[1]


def _gpus(containers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many GPUs a pod asks for, by the name of the resource."""
    found: dict[str, int] = {}
    for container in containers:
        limits = (container.get("resources") or {}).get("limits") or {}
        for name, amount in limits.items():
            if _GPU_RESOURCES.fullmatch(name):
                found[name] = found.get(name, 0) + (parse_count(amount) or 0)
    return found


def _drain(annotations: Mapping[str, str]) -> timedelta:
    """How long Knative may keep a replica without traffic (pkg/autoscaler/scaling/autoscaler.go).

    First its average over the stable window has to fall, then scale-down-delay to pass, and the last replica
    stays for the grace period or its retention period.
    """
    seconds = {
        key: parse_go_duration(str(found[1])) if (found := lookup(annotations, key)) else None
        for key in (WINDOW, SCALE_DOWN_DELAY, POD_RETENTION)
    }
    window, delay, retention = (
        timedelta(seconds=min(float(value), _LONGEST_DRAIN_S)) if value is not None and value > 0 else None
        for value in seconds.values()
    )
    none = timedelta(0)
    return (window or _STABLE_WINDOW) + (delay or none) + max(SCALE_TO_ZERO_GRACE, retention or none)


def parse_revision(obj: Mapping[str, Any]) -> RevisionView:
    """Read a Revision."""
    meta, status = obj["metadata"], obj.get("status") or {}
    annotations = meta.get("annotations") or {}
    namespace, name = object_key(obj)
    owner = (meta.get("labels") or {}).get(SERVICE_LABEL)
    most = lookup(annotations, MAX_SCALE)
    return RevisionView(
        key=(namespace, name),
        uid=meta.get("uid", ""),
        version=meta.get("resourceVersion", ""),
        service=(namespace, sys.intern(owner)) if owner else None,
        annotations={key: annotations[key] for key in ownership.KEPT if key in annotations},
        min_scale=ownership.min_scale(annotations),
        max_scale=parse_count(most[1] if most else None) or None,  # 0 means no limit in Knative
        activation_scale=parse_count(annotations.get(ACTIVATION_SCALE)),
        class_hpa=annotations.get(CLASS) == HPA,
        conditions=_conditions(status, {"Ready", "ResourcesAvailable"}),
        deleting="deletionTimestamp" in meta,
        drain=_drain(annotations),
    )


def parse_unscheduled(pods: Iterable[Mapping[str, Any]]) -> Unscheduled | None:
    """How many of a Revision's pods the scheduler finds no node for; None when it places them all."""
    unschedulable = ("PodScheduled", "False", "Unschedulable")
    messages = [
        entry.get("message") or "Unschedulable"
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        for entry in (pod.get("status") or {}).get("conditions") or ()
        if (entry["type"], entry["status"], entry.get("reason")) == unschedulable
    ]
    return Unscheduled(len(messages), messages[0]) if messages else None


def parse_autoscaler(obj: Mapping[str, Any]) -> AutoscalerView:
    """Read a PodAutoscaler."""
    meta, status = obj["metadata"], obj.get("status") or {}
    annotations = meta.get("annotations") or {}
    return AutoscalerView(
        key=object_key(obj),
        version=meta.get("resourceVersion", ""),
        min_scale=ownership.min_scale(annotations),
        desired=parse_count(status.get("desiredScale")),  # -1 means unknown in Knative
        actual=parse_count(status.get("actualScale")),
        active=_conditions(status, {"Active"}).get("Active"),
        written_by=annotations.get(ownership.LEVER),
    )


def _conditions(status: Mapping[str, Any], types: Collection[str]) -> dict[str, KnativeCondition]:
    """The conditions of these types."""
    return {
        entry["type"]: KnativeCondition(
            entry["status"],
            entry.get("reason", ""),
            entry.get("message", ""),
            ownership.parse_instant(entry.get("lastTransitionTime")),
        )
        for entry in status.get("conditions") or ()
        if entry["type"] in types
    }


def _seconds(text: str | None) -> float | None:
    """A Go duration in whole seconds, as Knative's annotation requires; None when it is not one."""
    try:
        return parse_duration(text).total_seconds() if text else None
    except ValueError:
        return None
