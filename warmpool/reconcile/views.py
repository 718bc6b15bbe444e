"""The part of each Kubernetes object that decisions need, as values.

`parsing` reads them once, when an object arrives. A controller of ten thousand pools can keep these in
memory; it could not keep the objects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from warmpool.domain.object_key import ObjectKey
from warmpool.domain.observation import DEFAULT_DRAIN, Hold
from warmpool.domain.pool import WarmPoolSpec
from warmpool.reconcile import ownership
from warmpool.reconcile.canary_record import RolloutRecord, Traffic
from warmpool.reconcile.ownership import FloorOwnership


@dataclass(frozen=True, slots=True)
class KnativeCondition:
    """One entry of `status.conditions` of a Knative object."""

    status: str
    """`True`, `False` or `Unknown`."""
    reason: str = ""
    message: str = ""
    since: datetime | None = None
    """Its last transition."""


@dataclass(frozen=True, slots=True)
class PoolView:
    """A WarmPool: its spec, or why it is invalid."""

    key: ObjectKey
    uid: str
    version: str
    generation: int
    created: str
    spec: WarmPoolSpec | None
    problems: tuple[str, ...]
    """What is wrong with the spec, one line for each field."""
    hold: Hold | None
    deleting: bool
    finalizers: tuple[str, ...]
    status_json: str
    """Its status in the cluster, as text: a fifth of the memory of the values, which are rarely needed."""
    rollout_order: str | None = None
    """What a person has ordered about a Revision, see `canary_record`."""
    rollout_paused: bool = False

    @property
    def status(self) -> Mapping[str, Any]:
        """Its status in the cluster, as JSON values."""
        found: dict[str, Any] = json.loads(self.status_json)
        return found

    @property
    def finalized(self) -> bool:
        """Whether it has the controller's finalizer."""
        return ownership.FINALIZER in self.finalizers

    @property
    def target(self) -> ObjectKey | None:
        """The Service that it keeps warm; None while the spec is invalid."""
        return (self.key[0], self.spec.target) if self.spec else None


@dataclass(frozen=True, slots=True)
class TrafficShare:
    """A Revision's share of a Service's traffic."""

    revision: str
    percent: int
    tag: str | None = None
    latest: bool = False
    """Whether the newest Revision takes over this share as soon as it is ready."""


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A Knative Service: its traffic split, its addresses, and what one of its replicas occupies."""

    key: ObjectKey
    uid: str
    traffic: tuple[TrafficShare, ...]
    url: str | None
    """Its external URL."""
    address: str | None
    """Its URL inside the cluster."""
    latest_created: str | None
    latest_ready: str | None
    deleting: bool
    gpu: str | None
    """The GPU's name in the price list; None: the default one."""
    gpus: int
    """GPUs, or parts of GPUs, that one replica occupies."""
    container_concurrency: int
    timeout_s: float = 300.0
    """How long a request may wait for its response."""
    gpu_resource: str | None = None
    """The resource that names its GPUs, e.g. `nvidia.com/mig-1g.10gb`; None: `nvidia.com/gpu`."""
    progress_deadline_s: float = 600.0
    """How long the first replicas of a Revision may take to become ready."""
    spec_traffic: Traffic = ()
    """The split that it asks for; `traffic` is the one in effect."""
    rollout: RolloutRecord | None = None
    """What its pool's rollout has done so far."""
    traffic_manager: str = ""
    """Who wrote that split last, as the API calls them."""


@dataclass(frozen=True, slots=True)
class Unscheduled:
    """Pods of a Revision for which the scheduler finds no node."""

    pods: int
    message: str
    """The scheduler's reason for the first of them."""


@dataclass(frozen=True, slots=True)
class RevisionView:
    """A Revision: its floor, its bounds and its conditions."""

    key: ObjectKey
    uid: str
    version: str
    service: ObjectKey | None
    annotations: Mapping[str, str]
    """Only those that carry the floor and its ownership."""
    min_scale: int | None
    max_scale: int | None
    activation_scale: int | None
    class_hpa: bool
    """Whether Kubernetes' HorizontalPodAutoscaler scales it."""
    conditions: Mapping[str, KnativeCondition]
    deleting: bool
    unscheduled: Unscheduled | None = None
    drain: timedelta = DEFAULT_DRAIN
    """How long Knative may keep its replicas after its floor fell, without traffic."""

    @property
    def name(self) -> str:
        """Its name, which is also its PodAutoscaler's."""
        return self.key[1]

    @property
    def ownership(self) -> FloorOwnership | None:
        """The pool that holds its floor."""
        return ownership.read(self.annotations)

    @property
    def user_min_scale(self) -> int | None:
        """Its own min-scale, without the floor of a pool."""
        return ownership.user_min_scale(self.annotations)

    @property
    def unschedulable(self) -> str | None:
        """Why the scheduler finds no node for its replicas; None while it does."""
        condition = self.conditions.get("ResourcesAvailable")
        if condition is not None and condition.status != "True" and condition.reason == "Unschedulable":
            return condition.message or condition.reason
        # While one replica is ready, the Revision does not report the others; their pods do.
        return self.unscheduled.message if self.unscheduled else None


@dataclass(frozen=True, slots=True)
class AutoscalerView:
    """A PodAutoscaler, which has its Revision's name."""

    key: ObjectKey
    version: str
    min_scale: int | None
    desired: int | None
    """Replicas that the autoscaler wants; None while it has no data."""
    actual: int | None
    """Replicas that are ready."""
    active: KnativeCondition | None = None
    written_by: str | None = None
    """The pool that has written min-scale on it directly, not only on the Revision."""
