"""What a stage's pods need of a cluster: volumes, placement, account, security (pure).

Written in `spec` for every stage, and in a stage for that one. Names are those of Kubernetes.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from knative.literals import parse_quantity
from pilotlight.agent_values import AgentModel, Quantity
from pilotlight.gpu_settings import Gpu
from weights.cache.location import CACHE_DIR_VARIABLE, CACHE_QUOTA_VARIABLE

_RESERVED_PREFIXES = ("autoscaling.knative.dev/", "serving.knative.dev/", "networking.knative.dev/")
_RESERVED_MOUNTS = frozenset({"/", "/dev", "/dev/log", "/tmp", "/var", "/var/log"})  # noqa: S108  # names, not uses
_POD_SECURITY = frozenset(
    {"runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup", "supplementalGroups", "seccompProfile"}
)
"""The fields of a pod's security context that Knative passes on."""
_AFFINITIES = ("nodeAffinity", "podAffinity", "podAntiAffinity")


def _absolute(path: str) -> str:
    clean = path.rstrip("/") or "/"
    if not path.startswith("/") or ".." in path.split("/"):
        raise ValueError("must be an absolute path without '..'")
    if clean in _RESERVED_MOUNTS:
        raise ValueError(f"must not be one of {', '.join(sorted(_RESERVED_MOUNTS))}: Knative reserves them")
    return clean


def _metadata(values: dict[str, str]) -> dict[str, str]:
    for key in values:
        if key.startswith(_RESERVED_PREFIXES):
            raise ValueError(f"must not have {key!r}: write scaling, progressDeadline or public in the stage")
    return values


def _pod_security(value: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(value.keys() - _POD_SECURITY):
        raise ValueError(f"must have only {', '.join(sorted(_POD_SECURITY))}, not {', '.join(unknown)}")
    return value


def _affinity(value: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(value.keys() - set(_AFFINITIES)):
        raise ValueError(f"must have only {', '.join(_AFFINITIES)}, not {', '.join(unknown)}")
    return value


Metadata = Annotated[dict[str, str], AfterValidator(_metadata)]
MountPath = Annotated[str, AfterValidator(_absolute)]


class ClaimSource(AgentModel):
    """A PersistentVolumeClaim of the agent's namespace; ReadWriteMany where pods run on several nodes."""

    claim_name: str = Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")


class EmptyDirSource(AgentModel):
    """A folder that lives as long as the pod."""

    size_limit: Quantity | None = None
    medium: Literal["", "Memory"] = ""


class Cache(AgentModel):
    """Where `ingest` and `generate` keep weights and compiled artefacts."""

    enabled: bool = True
    """False in a stage: it has no cache volume although `spec` has one."""
    persistent_volume_claim: ClaimSource | None = None
    empty_dir: EmptyDirSource | None = None
    mount_path: MountPath = "/var/cache/pilotlight"
    quota: Quantity | None = None
    """What it may take; what was used longest ago is evicted."""

    @model_validator(mode="before")
    @classmethod
    def _can_be_written(cls, value: Any) -> Any:
        if isinstance(value, dict) and "hostPath" in value:
            raise ValueError(
                "must not have hostPath, which Knative mounts read-only: "
                "write persistentVolumeClaim; its PersistentVolume may be a hostPath"
            )
        return value

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        sources = [self.persistent_volume_claim, self.empty_dir]
        count = sum(source is not None for source in sources)
        if count != (1 if self.enabled else 0):
            raise ValueError(
                "must have exactly one of persistentVolumeClaim, emptyDir"
                if self.enabled
                else "enabled: false must have no volume beside it"
            )
        if self.quota is not None and (parse_quantity(self.quota) or 0) < 1:
            raise ValueError(f"quota ({self.quota}) must be above 0, such as 200Gi")
        return self

    def volume(self) -> dict[str, Any]:
        """The volume's source, as Kubernetes writes it."""
        return self.model_dump(
            by_alias=True,
            exclude_none=True,
            exclude_unset=True,
            include={"persistent_volume_claim", "empty_dir"},
        )

    def env(self) -> dict[str, str]:
        """Variables that say where it is, and how large it may be."""
        quota = None if self.quota is None else parse_quantity(self.quota)
        return {CACHE_DIR_VARIABLE: self.mount_path} | (
            {} if quota is None else {CACHE_QUOTA_VARIABLE: str(int(quota))}
        )


class SharedMemory(AgentModel):
    """A volume in memory at /dev/shm; without it a container has 64 MiB there."""

    enabled: bool = True
    size_limit: Quantity | None = None


class Toleration(AgentModel):
    """A taint that pods may be scheduled in spite of."""

    key: str | None = None
    operator: Literal["Exists", "Equal", "Lt", "Gt"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None

    @model_validator(mode="after")
    def _has_a_meaning(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise ValueError(f"value ({self.value}) must be left out with operator Exists")
        if not self.key and self.operator != "Exists":
            raise ValueError("key is required unless operator is Exists")
        return self


class TopologySpreadConstraint(AgentModel):
    """How evenly pods are spread over zones or nodes."""

    max_skew: int = Field(ge=1)
    topology_key: str = Field(min_length=1)
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    label_selector: dict[str, Any] | None = None
    min_domains: int | None = Field(default=None, ge=1)
    match_label_keys: list[str] | None = None
    node_affinity_policy: Literal["Honor", "Ignore"] | None = None
    node_taints_policy: Literal["Honor", "Ignore"] | None = None


class LocalObjectReference(AgentModel):
    """The name of an object in the agent's namespace."""

    name: str = Field(min_length=1)


class Volume(AgentModel):
    """A volume; exactly one source."""

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    persistent_volume_claim: dict[str, Any] | None = None
    host_path: dict[str, Any] | None = None
    empty_dir: dict[str, Any] | None = None
    config_map: dict[str, Any] | None = None
    secret: dict[str, Any] | None = None
    projected: dict[str, Any] | None = None
    csi: dict[str, Any] | None = None
    ephemeral: dict[str, Any] | None = None
    image: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if self.name.startswith("pilotlight-"):
            raise ValueError(f"name {self.name!r} must not begin with pilotlight-, as the project's own do")
        if len(self.model_fields_set - {"name"}) != 1:
            known = ", ".join(
                field.alias or name for name, field in Volume.model_fields.items() if name != "name"
            )
            raise ValueError(f"must have exactly one of {known}")
        return self


class VolumeMount(AgentModel):
    """Where a container sees a volume."""

    name: str
    mount_path: MountPath
    read_only: bool | None = None
    sub_path: str | None = None
    mount_propagation: str | None = None


class LivenessProbe(AgentModel):
    """Timing of the liveness probe on /healthz/live, in seconds and attempts.

    It answers as soon as the port is open, which is before the model is loaded: `initialDelaySeconds` has to
    cover the imports, not the load.
    """

    initial_delay_seconds: int = Field(default=120, ge=0)
    period_seconds: int = Field(default=10, ge=1)
    timeout_seconds: int = Field(default=5, ge=1)
    failure_threshold: int = Field(default=6, ge=1)


class PodSettings(AgentModel):
    """Settings of pods; what a stage leaves out is taken from `spec`.

    A stage's value replaces that of `spec`, except for `volumes` and `volumeMounts`, which add to it, and for
    `annotations`, `labels` and `securityContext`, which are merged key by key.
    """

    cache: Cache | None = None
    gpu: Gpu | None = None
    shared_memory: SharedMemory | None = None
    node_selector: dict[str, str] | None = None
    affinity: Annotated[dict[str, Any], AfterValidator(_affinity)] | None = None
    tolerations: list[Toleration] | None = None
    topology_spread_constraints: list[TopologySpreadConstraint] | None = None
    priority_class_name: str | None = None
    runtime_class_name: str | None = None
    service_account_name: str | None = None
    automount_service_account_token: bool | None = None
    image_pull_secrets: list[LocalObjectReference] | None = None
    volumes: list[Volume] = Field(default_factory=list)
    volume_mounts: list[VolumeMount] = Field(default_factory=list)
    security_context: dict[str, Any] = Field(default_factory=dict)
    pod_security_context: Annotated[dict[str, Any], AfterValidator(_pod_security)] | None = None
    """The pod's `securityContext`, for `fsGroup`."""
    liveness_probe: LivenessProbe | None = None
    annotations: Metadata = Field(default_factory=dict)
    labels: Metadata = Field(default_factory=dict)
