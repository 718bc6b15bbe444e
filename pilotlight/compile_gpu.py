"""What `gpu` of an agent file becomes in a pod: limits, placement, price (pure)."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pilotlight.agent import Agent
from pilotlight.gpu_settings import GKE_LABEL, GPU, PRODUCT_LABEL, Gpu, GpuType, packaged_types
from pilotlight.stage_spec import Kind, StageSpec

PRICE_ANNOTATION = "pilotlight.dev/gpu"
"""On a Service: the name of its GPU in the warm-pool controller's price list."""
TOLERATION: dict[str, Any] = {"key": GPU, "operator": "Exists"}
"""Of the taint that GPU nodes have on GKE, and by convention elsewhere."""
_STRATEGY_LABEL = "nvidia.com/gpu.sharing-strategy"
_GKE_STRATEGY_LABEL = "cloud.google.com/gke-gpu-sharing-strategy"
_GKE_PARTITION_LABEL = "cloud.google.com/gke-gpu-partition-size"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_HEAVIEST = 100


@dataclass(frozen=True)
class GpuPlacement:
    """What a stage's GPUs ask of the cluster.

    Attributes:
        limits: of the container.
        node_selector: labels that a node must have.
        choices: of a label's key, the values that a node may have, those of each type in order of preference.
        key: of `choices`.
        runtime_class_name: of the pod.
        annotations: of the Service.
    """

    limits: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    choices: tuple[tuple[str, ...], ...] = ()
    key: str = PRODUCT_LABEL
    runtime_class_name: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


def gpu_types(agent: Agent) -> Mapping[str, GpuType]:
    """The types that the file may name."""
    return {**packaged_types(), **agent.spec.gpu_types}


def gpu_of(agent: Agent, stage: StageSpec) -> Gpu | None:
    """The GPUs of a stage: its own, else for a model on this pod those of the agent."""
    gpu = stage.gpu
    if gpu is None and stage.kind is Kind.GENERATE and stage.engine_type != "openai":
        gpu = agent.spec.gpu
    return gpu if gpu is not None and gpu.enabled else None


def compile_gpu(agent: Agent, stage: StageSpec) -> GpuPlacement | None:
    """What a stage's `gpu` asks for; None without one."""
    gpu = gpu_of(agent, stage)
    if gpu is None:
        return None
    key, suffix, selector = _labels(gpu)
    types = gpu_types(agent)
    choices = tuple(
        tuple(f"{value}{suffix}" for value in types[name].node_labels[gpu.node_label]) for name in gpu.type
    )
    if len(choices) == 1 and len(choices[0]) == 1:
        selector[key] = choices[0][0]
        choices = ()
    price = gpu.price_name()
    return GpuPlacement(
        limits={gpu.resource_name(): str(gpu.count)},
        node_selector=selector,
        choices=choices,
        key=key,
        runtime_class_name=gpu.runtime_class_name,
        annotations={} if price is None else {PRICE_ANNOTATION: price},
    )


def _labels(gpu: Gpu) -> tuple[str, str, dict[str, str]]:
    """Key of the type's label, what stands behind its values, and further labels of the nodes."""
    profile = gpu.mig_profile
    if gpu.node_label == GKE_LABEL:
        if profile is not None:
            return GKE_LABEL, "", {_GKE_PARTITION_LABEL: profile}
        strategies = {"time-slicing": "time-sharing", "mps": "mps"}
        strategy = strategies.get(gpu.share)
        return GKE_LABEL, "", {} if strategy is None else {_GKE_STRATEGY_LABEL: strategy}
    if gpu.node_label != PRODUCT_LABEL or gpu.share == "none":
        return gpu.node_label, "", {}
    renamed = gpu.resource_name() != GPU
    if profile is not None:
        # GPU feature discovery labels each resource; with MIG strategy "single" that is nvidia.com/gpu.
        key = f"nvidia.com/mig-{profile}.product" if renamed else PRODUCT_LABEL
        return key, f"-MIG-{profile}", {}
    return PRODUCT_LABEL, "" if renamed else "-SHARED", {_STRATEGY_LABEL: gpu.share}


def place(fields: dict[str, Any], gpu: GpuPlacement, *, tolerate: bool) -> None:
    """Add a stage's GPUs to the fields of its pod, beside what the file says there."""
    if gpu.node_selector:
        fields["nodeSelector"] = {**gpu.node_selector, **fields.get("nodeSelector", {})}
    if gpu.choices:
        fields["affinity"] = _affinity(fields.get("affinity", {}), gpu)
    known = fields.get("tolerations", [])
    if tolerate and not any(item.get("key") in {None, GPU} for item in known):
        fields["tolerations"] = [*known, TOLERATION]
    if gpu.runtime_class_name is not None:
        fields.setdefault("runtimeClassName", gpu.runtime_class_name)


def _affinity(affinity: Mapping[str, Any], gpu: GpuPlacement) -> dict[str, Any]:
    """The affinity, with every alternative bound to the types, and the types in order of preference."""
    merged: dict[str, Any] = copy.deepcopy(dict(affinity))
    node = merged.setdefault("nodeAffinity", {})
    wanted = {"key": gpu.key, "operator": "In", "values": [value for group in gpu.choices for value in group]}
    terms = node.setdefault(_REQUIRED, {"nodeSelectorTerms": []})["nodeSelectorTerms"] or [{}]
    node[_REQUIRED]["nodeSelectorTerms"] = [
        {**term, "matchExpressions": [*term.get("matchExpressions", ()), wanted]} for term in terms
    ]
    if len(gpu.choices) > 1:
        step = _HEAVIEST // len(gpu.choices)
        node[_PREFERRED] = [
            *node.get(_PREFERRED, ()),
            *(
                {
                    "weight": _HEAVIEST - index * step,
                    "preference": {
                        "matchExpressions": [{"key": gpu.key, "operator": "In", "values": list(group)}]
                    },
                }
                for index, group in enumerate(gpu.choices[:-1])
            ),
        ]
    return merged
