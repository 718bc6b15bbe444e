"""The little of each Kubernetes object that decisions need, read once when the object arrives.

A controller of ten thousand pools can keep these; it could not keep the objects.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from knative.autoscaling.annotations import ACTIVATION_SCALE, CLASS, HPA, MAX_SCALE, lookup
from knative.labels import PROGRESS_DEADLINE_ANNOTATION, SERVICE_LABEL
from warmpool.domain.duration import parse_duration
from warmpool.domain.observation import Hold
from warmpool.domain.pool import WarmPoolSpec
from warmpool.domain.spec_errors import SpecError
from warmpool.reconcile import ownership

Key = tuple[str, str]
"""Namespace and name."""


_GPU_RESOURCE = "nvidia.com/gpu"
_GPU_NODE_LABEL = "nvidia.com/gpu.product"


@dataclass(frozen=True, slots=True)
class PoolView:
    """A WarmPool: its spec, or why it cannot be read."""

    key: Key
    uid: str
    version: str
    generation: int
    created: str
    spec: WarmPoolSpec | None
    problems: tuple[str, ...]
    hold: Hold | None
    deleting: bool
    finalized: bool
    """Whether it has our finalizer."""
    finalizers: tuple[str, ...]
    written: bytes
    """Its status as compressed JSON, which is a twentieth of the size of the objects."""

    @property
    def status(self) -> Mapping[str, Any]:
        """Its status as it stands in the cluster."""
        found: dict[str, Any] = json.loads(zlib.decompress(self.written))
        return found


@dataclass(frozen=True, slots=True)
class TrafficShare:
    """A Revision's part of a Service's traffic."""

    revision: str
    percent: int
    tag: str | None = None
    latest: bool = False
    """Whether the newest Revision takes this part over as soon as it is ready."""


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A Knative Service: who gets its traffic, and what a replica holds."""

    key: Key
    uid: str
    traffic: tuple[TrafficShare, ...]
    url: str | None
    """Where it answers from outside."""
    address: str | None
    """Where it answers inside the cluster."""
    latest_created: str | None
    latest_ready: str | None
    deleting: bool
    gpu: str | None
    gpus: int
    container_concurrency: int
    timeout_s: float = 300.0
    """How long a request may be held."""
    progress_deadline_s: float = 600.0
    """How long the first start of a Revision may take."""


@dataclass(frozen=True, slots=True)
class KnativeCondition:
    """One of Knative's conditions."""

    status: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class RevisionView:
    """A Revision: its floor, its bounds, and how it fares."""

    key: Key
    uid: str
    version: str
    service: Key | None
    annotations: dict[str, str]
    """Only those that matter here."""
    min_scale: int | None
    max_scale: int | None
    activation_scale: int | None
    hpa: bool
    actual: int | None
    desired: int | None
    conditions: Mapping[str, KnativeCondition]
    deleting: bool
    unplaced: str | None = None
    """What the scheduler says of one of its pods that finds no place."""

    @property
    def ownership(self) -> ownership.FloorOwnership | None:
        """What a pool has written on it."""
        return ownership.read(self.annotations)

    @property
    def user_min_scale(self) -> int | None:
        """Its own min-scale."""
        return ownership.user_min_scale(self.annotations)

    @property
    def unschedulable(self) -> str | None:
        """Why its replicas find no place, if they do not."""
        condition = self.conditions.get("ResourcesAvailable")
        if condition is None or condition.status == "True" or condition.reason != "Unschedulable":
            return self.unplaced  # while one replica is there, the Revision says nothing of the others
        return condition.message or condition.reason


@dataclass(frozen=True, slots=True)
class ScaleView:
    """A PodAutoscaler, which has its Revision's name."""

    key: Key
    version: str
    min_scale: int | None
    desired: int | None
    actual: int | None
    active: KnativeCondition | None = None
    marked: bool = False
    """Whether a pool has written on it directly."""


def pool(obj: Mapping[str, Any], before: PoolView | None = None) -> PoolView:
    """Read a WarmPool; the spec of `before` is kept while the generation is the same: memories stay good."""
    meta = obj["metadata"]
    generation = meta.get("generation", 0)
    if before is not None and (before.uid, before.generation) == (meta.get("uid", ""), generation):
        spec, problems = before.spec, before.problems
    else:
        spec, problems = _spec(obj)
    finalizers = tuple(meta.get("finalizers") or ())
    return PoolView(
        key=_key(obj),
        uid=meta.get("uid", ""),
        version=meta.get("resourceVersion", ""),
        generation=generation,
        created=meta.get("creationTimestamp", ""),
        spec=spec,
        problems=problems,
        hold=_hold(meta.get("annotations") or {}),
        deleting="deletionTimestamp" in meta,
        finalized=ownership.FINALIZER in finalizers,
        finalizers=finalizers,
        written=zlib.compress(json.dumps(obj.get("status") or {}).encode(), 1),
    )


def _spec(obj: Mapping[str, Any]) -> tuple[WarmPoolSpec | None, tuple[str, ...]]:
    try:
        return WarmPoolSpec.parse(obj.get("spec")), ()
    except SpecError as wrong:
        return None, tuple(wrong.problems)


def _hold(annotations: Mapping[str, str]) -> Hold | None:
    replicas = annotations.get(ownership.HOLD_REPLICAS, "")
    until = ownership.parse_instant(annotations.get(ownership.HOLD_UNTIL))
    return Hold(int(replicas), until) if replicas.isdigit() and until is not None else None


def service(obj: Mapping[str, Any]) -> ServiceView:
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
    return ServiceView(
        key=_key(obj),
        uid=meta.get("uid", ""),
        traffic=shares,
        url=status.get("url"),
        address=(status.get("address") or {}).get("url"),
        latest_created=status.get("latestCreatedRevisionName"),
        latest_ready=status.get("latestReadyRevisionName"),
        deleting="deletionTimestamp" in meta,
        gpu=annotations.get(ownership.GPU) or (pod.get("nodeSelector") or {}).get(_GPU_NODE_LABEL),
        gpus=sum(_gpus(container) for container in pod.get("containers") or ()),
        container_concurrency=pod.get("containerConcurrency") or 0,
        timeout_s=float(pod.get("timeoutSeconds") or 300),
        progress_deadline_s=_seconds(annotations.get(PROGRESS_DEADLINE_ANNOTATION)) or 600.0,
    )


def _gpus(container: Mapping[str, Any]) -> int:
    amount = str(((container.get("resources") or {}).get("limits") or {}).get(_GPU_RESOURCE, "0"))
    return int(amount) if amount.isdigit() else 0


def revision(obj: Mapping[str, Any]) -> RevisionView:
    """Read a Revision."""
    meta, status = obj["metadata"], obj.get("status") or {}
    annotations = meta.get("annotations") or {}
    namespace, name = _key(obj)
    owner = (meta.get("labels") or {}).get(SERVICE_LABEL)
    most = lookup(annotations, MAX_SCALE)
    kept = {key: annotations[key] for key in ownership.KEPT if key in annotations}
    return RevisionView(
        key=(namespace, name),
        uid=meta.get("uid", ""),
        version=meta.get("resourceVersion", ""),
        service=(namespace, sys.intern(owner)) if owner else None,
        annotations=kept,
        min_scale=ownership.min_scale(annotations),
        max_scale=_number(most[1] if most else None) or None,  # 0 is Knative's word for no limit
        activation_scale=_number(annotations.get(ACTIVATION_SCALE)),
        hpa=annotations.get(CLASS) == HPA,
        actual=status.get("actualReplicas"),
        desired=status.get("desiredReplicas"),
        conditions=_conditions(status),
        deleting="deletionTimestamp" in meta,
    )


def unplaced(pods: Iterable[Mapping[str, Any]]) -> str | None:
    """What the scheduler says of a pod that finds no place; None when all have one."""
    for pod in pods:
        if "deletionTimestamp" in pod["metadata"]:
            continue
        for entry in (pod.get("status") or {}).get("conditions") or ():
            told = (entry["type"], entry["status"], entry.get("reason"))
            if told == ("PodScheduled", "False", "Unschedulable"):
                return entry.get("message") or "Unschedulable"
    return None


def scale(obj: Mapping[str, Any]) -> ScaleView:
    """Read a PodAutoscaler."""
    meta, status = obj["metadata"], obj.get("status") or {}
    desired = status.get("desiredScale")
    return ScaleView(
        key=_key(obj),
        version=meta.get("resourceVersion", ""),
        min_scale=ownership.min_scale(meta.get("annotations") or {}),
        desired=desired if desired is not None and desired >= 0 else None,  # -1 is Knative's unknown
        actual=status.get("actualScale"),
        active=_conditions(status).get("Active"),
        marked=ownership.LEVER in (meta.get("annotations") or {}),
    )


def _conditions(status: Mapping[str, Any]) -> dict[str, KnativeCondition]:
    return {
        entry["type"]: KnativeCondition(entry["status"], entry.get("reason", ""), entry.get("message", ""))
        for entry in status.get("conditions") or ()
    }


def _key(obj: Mapping[str, Any]) -> Key:
    """The strings are shared with everything else that names the object: there are tens of thousands."""
    meta = obj["metadata"]
    return sys.intern(meta.get("namespace", "")), sys.intern(meta["name"])


def _seconds(text: str | None) -> float | None:
    """A Go duration of whole seconds, as the annotation wants it; None when it is none of these."""
    try:
        return parse_duration(text).total_seconds() if text else None
    except ValueError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
