"""What an agent says of its pods, as fields of a Revision's spec (pure)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilotlight.agent import Agent
from pilotlight.agent_graph import tool_mounts
from pilotlight.agent_values import AgentModel
from pilotlight.compile_access import secret_mounts
from pilotlight.compile_gpu import compile_gpu, place
from pilotlight.compile_runs import runs_mount
from pilotlight.mesh.identities import account_of
from pilotlight.pod_settings import Cache, LivenessProbe
from pilotlight.stage_spec import Kind, StageSpec

NO_IMAGE = "pilotlight.invalid/set-spec.image"
"""The image of an agent that names none: the local platform runs no images, and this host cannot exist
(RFC 2606)."""

SAFE_SECURITY_CONTEXT: dict[str, Any] = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""For stages that run the project's own image; Kubernetes' Pod Security Standard "restricted" asks for it."""

POD_SECURITY_CONTEXT: dict[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Of pods that run the project's images outside of Knative: the images' own user."""

SNAPSHOT_SECURITY_CONTEXT: dict[str, Any] = {
    "runAsNonRoot": True,
    # CRIU has its capabilities from its file, which this would forbid.
    "allowPrivilegeEscalation": True,
    "capabilities": {"drop": ["ALL"], "add": ["CHECKPOINT_RESTORE", "SETPCAP"]},
    # CRIU cannot write a process with a filter, and RuntimeDefault keeps it from choosing process ids.
    "seccompProfile": {"type": "Unconfined"},
}
"""For stages with `snapshot: true`; the image's criu has these two capabilities in its file."""

_REPLACED = (
    "node_selector",
    "affinity",
    "tolerations",
    "topology_spread_constraints",
    "priority_class_name",
    "runtime_class_name",
    "service_account_name",
    "image_pull_secrets",
)
CACHE_VOLUME = "pilotlight-cache"
SHM_VOLUME = "pilotlight-shm"


@dataclass(frozen=True)
class Pod:
    """The pod of one stage.

    Attributes:
        fields: fields of the Revision's spec, beside its container.
        volume_mounts: of the container.
        security_context: of the container.
        liveness_probe: of the container; None for a container of the user's own.
        cache: variables that say where the cache is, and how large; empty where there is none.
        limits: of the container, beside those in its `resources`.
        annotations: of the Service, under those in the file.
    """

    fields: dict[str, Any]
    volume_mounts: list[dict[str, Any]]
    security_context: dict[str, Any]
    liveness_probe: dict[str, Any] | None
    cache: Mapping[str, str]
    limits: Mapping[str, str]
    annotations: Mapping[str, str]


def compile_pod(agent: Agent, stage: StageSpec) -> Pod:
    """The pod of a stage: its own settings, else the agent's, else safe defaults."""
    spec = agent.spec
    own = stage.is_own_image
    fields: dict[str, Any] = {}
    for name in _REPLACED:
        value = _chosen(stage, spec, name)
        if value:
            fields[type(spec).model_fields[name].alias or name] = _plain(value)
    if security := _chosen(stage, spec, "pod_security_context"):
        fields["securityContext"] = security
    automount = _chosen(stage, spec, "automount_service_account_token")
    if automount is None and "serviceAccountName" not in fields:
        automount = False
    if automount is not None:
        fields["automountServiceAccountToken"] = automount
    if spec.mesh.type != "none":
        fields["serviceAccountName"] = account_of(agent, stage)

    gpu = compile_gpu(agent, stage)
    if gpu is not None:
        place(fields, gpu, tolerate=_chosen(stage, spec, "tolerations") != [])

    cache = _cache(agent, stage)
    volumes, mounts = _volumes(agent, stage, cache)
    if volumes:
        fields["volumes"] = volumes
    return Pod(
        fields=fields,
        volume_mounts=mounts,
        security_context=_default_security_context(stage) | spec.security_context | stage.security_context,
        liveness_probe=None if own else _liveness(agent, stage),
        cache={} if cache is None else cache.env(),
        limits={} if gpu is None else gpu.limits,
        annotations={} if gpu is None else gpu.annotations,
    )


def _default_security_context(stage: StageSpec) -> dict[str, Any]:
    if stage.is_own_image:
        return {}
    return SNAPSHOT_SECURITY_CONTEXT if stage.snapshot else SAFE_SECURITY_CONTEXT


def _volumes(
    agent: Agent, stage: StageSpec, cache: Cache | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The volumes that the container mounts, and its mounts."""
    spec = agent.spec
    mounts = [_plain(mount) for mount in (*spec.volume_mounts, *stage.volume_mounts)]
    mounted = {mount["name"] for mount in mounts}
    # Knative refuses a volume that no container mounts.
    volumes = [_plain(volume) for volume in (*spec.volumes, *stage.volumes) if volume.name in mounted]
    if cache is not None:
        volumes.append({"name": CACHE_VOLUME, **cache.volume()})
        mounts.append({"name": CACHE_VOLUME, "mountPath": cache.mount_path})
    authorities = spec.s3.volume() if spec.s3 is not None and spec.reads_model(stage) else None
    if authorities is not None:
        volumes.append(authorities[0])
        mounts.append(authorities[1])
    if (memory := _shared_memory(agent, stage)) is not None:
        volumes.append({"name": SHM_VOLUME, "emptyDir": memory})
        mounts.append({"name": SHM_VOLUME, "mountPath": "/dev/shm"})  # noqa: S108  # a mount point
    runs = runs_mount(stage)
    secrets = [*secret_mounts(agent, stage), *([] if runs is None else [runs]), *tool_mounts(agent, stage)]
    volumes += [secret.volume() for secret in secrets]
    mounts += [secret.mount() for secret in secrets]
    return volumes, mounts


def _chosen(stage: StageSpec, spec: AgentModel, name: str) -> Any:
    value = getattr(stage, name)
    return getattr(spec, name) if value is None else value


def _plain(value: Any) -> Any:
    """A value of the file as Kubernetes writes it."""
    if isinstance(value, AgentModel):
        return value.model_dump(by_alias=True, exclude_none=True, exclude_unset=True)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _cache(agent: Agent, stage: StageSpec) -> Cache | None:
    if not agent.spec.reads_model(stage):
        return None
    cache = stage.cache or agent.spec.cache
    return cache if cache is not None and cache.enabled else None


def _shared_memory(agent: Agent, stage: StageSpec) -> dict[str, Any] | None:
    """The emptyDir at /dev/shm: what the file says for `generate`, else where workers share tensors."""
    memory = stage.shared_memory
    if memory is None and stage.kind is Kind.GENERATE:
        memory = agent.spec.shared_memory
    if memory is None and stage.parallel_workers == 1:
        return None
    if memory is not None and not memory.enabled:
        return None
    size = None if memory is None else memory.size_limit
    return {"medium": "Memory"} | ({} if size is None else {"sizeLimit": size})


def _liveness(agent: Agent, stage: StageSpec) -> dict[str, Any]:
    timing = stage.liveness_probe or agent.spec.liveness_probe or LivenessProbe()
    return {"httpGet": {"path": "/healthz/live"}, **timing.model_dump(by_alias=True)}
