"""The `gpu` of an agent file, and the table of GPU types that it may name."""

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from knative.literals import parse_quantity
from pilotlight.agent_values import AgentModel, Quantity

GPU = "nvidia.com/gpu"
SHARED_GPU = "nvidia.com/gpu.shared"
PRODUCT_LABEL = "nvidia.com/gpu.product"
"""Of GPU feature discovery: the device's name."""
GKE_LABEL = "cloud.google.com/gke-accelerator"

_MIG = re.compile(r"mig-([1-9]g\.([1-9][0-9]*)gb)")
_PROFILE = re.compile(r"[1-9]g\.[1-9][0-9]*gb")
_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_GI = 1 << 30


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _types(names: list[str]) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"must name {name!r} once")
    return names


def _share(value: str) -> str:
    if value not in {"none", "time-slicing", "mps"} and not _MIG.fullmatch(value):
        raise ValueError("must be none, time-slicing, mps, or mig- and a profile, such as mig-1g.10gb")
    return value


def _key(value: str) -> str:
    if not _KEY.fullmatch(value):
        raise ValueError(f"must be a key as Kubernetes has them, such as {PRODUCT_LABEL}")
    return value


def _profiles(values: list[str]) -> list[str]:
    for value in values:
        if not _PROFILE.fullmatch(value):
            raise ValueError(f"{value!r} must be a MIG profile such as 1g.10gb")
    return values


class GpuType(AgentModel):
    """What is known of one type of GPU."""

    memory: Quantity
    """Of one device."""
    compute_capability: Annotated[float, Field(ge=1, le=99)] | None = None
    """As NVIDIA numbers its architectures; None where it is not known."""
    node_labels: dict[str, list[str]] = Field(default_factory=dict)
    """By a label's key, the values of nodes with this GPU."""
    mig: Annotated[list[str], AfterValidator(_profiles)] = Field(default_factory=list)
    """Profiles that it can be partitioned into; empty for a GPU without MIG."""

    @property
    def memory_bytes(self) -> int:
        """Of one device, in bytes."""
        return int(parse_quantity(self.memory) or 0)


class Gpu(AgentModel):
    """GPUs of a stage's pods."""

    enabled: bool = True
    """False in a stage: it has none although `spec` says so."""
    type: Annotated[list[str], BeforeValidator(_listed), AfterValidator(_types)] = Field(default_factory=list)
    """Names of the table, in order of preference; empty: any GPU."""
    count: int = Field(default=1, ge=1)
    share: Annotated[str, AfterValidator(_share)] = "none"
    """How the device is shared with other pods."""
    node_label: Annotated[str, AfterValidator(_key)] = PRODUCT_LABEL
    """The key of the label by which nodes are chosen."""
    resource: Annotated[str, AfterValidator(_key)] | None = None
    """The extended resource, where the device plugin calls it otherwise."""
    runtime_class_name: str | None = None

    @model_validator(mode="after")
    def _shares_one_device(self) -> Self:
        if self.share != "none" and self.count != 1:
            raise ValueError(
                f"count ({self.count}) must be 1 with share {self.share}: "
                "a process uses one part of a device, and a second part may be of the same device"
            )
        return self

    @property
    def mig_profile(self) -> str | None:
        """Such as 1g.10gb; None where the device is not partitioned."""
        found = _MIG.fullmatch(self.share)
        return found[1] if found else None

    def resource_name(self) -> str:
        """The extended resource in the container's limits."""
        if self.resource is not None:
            return self.resource
        # GKE tells shared and partitioned devices apart by node labels alone.
        if self.share == "none" or self.node_label == GKE_LABEL:
            return GPU
        return SHARED_GPU if self.mig_profile is None else f"nvidia.com/{self.share}"

    def price_name(self) -> str | None:
        """The name in the price list: that of the preferred type, with the share behind it."""
        if not self.type:
            return None
        return self.type[0] if self.share == "none" else f"{self.type[0]}-{self.share}"

    def memory_bytes(self, types: Mapping[str, GpuType]) -> int | None:
        """Memory of the smallest device that a pod may get, in bytes; None if no type is named."""
        if (found := _MIG.fullmatch(self.share)) is not None:
            return int(found[2]) * _GI
        known = [types[name].memory_bytes for name in self.type if name in types]
        return min(known, default=None)


@lru_cache(maxsize=1)
def packaged_types() -> Mapping[str, GpuType]:
    """The table that comes with the package."""
    content: dict[str, Any] = yaml.safe_load((files("pilotlight") / "gpu_types.yaml").read_text())
    return {name: GpuType.model_validate(value) for name, value in content.items()}
