"""What is read of a cluster, as values; each fact may be unknown for itself (pure)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pilotlight.doctor.findings import Unknown


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """An action on a kind in a namespace; `namespace` is empty for kinds without one."""

    verb: str
    group: str
    resource: str
    namespace: str = ""

    def __str__(self) -> str:
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {kind}" + (f" in {self.namespace}" if self.namespace else "")


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """An object that pods name; `namespace` is empty for kinds without one."""

    kind: str
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster.

    Attributes:
        name: of the node.
        labels: of the node.
        taints: as Kubernetes writes them.
        gpus: devices by the name of their resource.
        taken: those that pods hold; None where pods cannot be read.
        schedulable: ready and not cordoned.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, Any], ...] = ()
    gpus: Mapping[str, int] = field(default_factory=dict)
    taken: Mapping[str, int] | None = field(default_factory=dict)
    schedulable: bool = True


@dataclass(frozen=True, slots=True)
class Claim:
    """A PersistentVolumeClaim."""

    access_modes: tuple[str, ...]
    storage_class: str | None
    phase: str


@dataclass(frozen=True, slots=True)
class StorageClass:
    """A storage class."""

    name: str
    provisioner: str


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What is known of a cluster.

    Attributes:
        server: its URL.
        version: Kubernetes' version, as the server calls it.
        local: it is the platform of this machine, which has no nodes, accounts and storage classes.
        rights: which of the actions that a deploy needs are permitted.
        serving: Knative Serving's version; None where it is not installed.
        features: data of `config-features`.
        defaults: data of `config-defaults`.
        autoscaling: data of `config-autoscaler`.
        network: data of `config-network`.
        groups: API groups that the server has.
        controllers: ready replicas of the warm-pool controller's Deployment; None: there is none.
        nodes: its nodes.
        provisioners: what adds nodes when pods wait for them.
        claims: by name within a namespace, the claims that pods name; None: there is none.
        storage_classes: all of them.
        references: whether the objects that pods name are there.
        cold_starts: seconds of the measured p95, by namespace and name of the Service.
    """

    server: str
    version: str | Unknown
    local: bool = False
    rights: Mapping[Right, bool | Unknown] = field(default_factory=dict)
    serving: str | Unknown | None = None
    features: Mapping[str, str] | Unknown = field(default_factory=dict)
    defaults: Mapping[str, str] | Unknown = field(default_factory=dict)
    autoscaling: Mapping[str, str] | Unknown = field(default_factory=dict)
    network: Mapping[str, str] | Unknown = field(default_factory=dict)
    groups: frozenset[str] | Unknown = frozenset()
    controllers: int | Unknown | None = None
    nodes: tuple[Node, ...] | Unknown = ()
    provisioners: tuple[str, ...] = ()
    claims: Mapping[tuple[str, str], Claim | Unknown | None] = field(default_factory=dict)
    storage_classes: tuple[StorageClass, ...] | Unknown = ()
    references: Mapping[Reference, bool | Unknown] = field(default_factory=dict)
    cold_starts: Mapping[tuple[str, str], float] | Unknown = field(default_factory=dict)
