"""Which feature flags of Knative Serving the fields of a Revision need (pure).

Flags are keys of the ConfigMap `config-features` in `knative-serving`, prefixed `kubernetes.`; after
knative.dev/serving, `pkg/apis/config/features.go` and `pkg/apis/serving/{fieldmask,k8s_validation}.go`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

PREFIX: Final = "kubernetes."
CONFIG_MAP_NAME: Final = "config-features"

FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "affinity": "podspec-affinity",
        "dnsConfig": "podspec-dnsconfig",
        "dnsPolicy": "podspec-dnspolicy",
        "hostAliases": "podspec-hostaliases",
        "hostIPC": "podspec-hostipc",
        "hostNetwork": "podspec-hostnetwork",
        "hostPID": "podspec-hostpid",
        "nodeSelector": "podspec-nodeselector",
        "priorityClassName": "podspec-priorityclassname",
        "runtimeClassName": "podspec-runtimeclassname",
        "schedulerName": "podspec-schedulername",
        "securityContext": "podspec-securitycontext",
        "shareProcessNamespace": "podspec-shareprocessnamespace",
        "tolerations": "podspec-tolerations",
        "topologySpreadConstraints": "podspec-topologyspreadconstraints",
    }
)
"""Of a pod's fields."""
VOLUMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "persistentVolumeClaim": "podspec-persistent-volume-claim",
        "hostPath": "podspec-volumes-hostpath",
        "csi": "podspec-volumes-csi",
        "ephemeral": "podspec-volumes-ephemeral",
        "image": "podspec-volumes-image",
    }
)
"""Of a volume's sources; `emptyDir` has a flag as well, which is on by default."""
EMPTY_DIR: Final = "podspec-volumes-emptydir"
CLAIM_WRITE: Final = "podspec-persistent-volume-write"
ADD_CAPABILITIES: Final = "containerspec-addcapabilities"
FIELD_REF: Final = "podspec-fieldref"
INIT_CONTAINERS: Final = "podspec-init-containers"
ON_BY_DEFAULT: Final = frozenset({EMPTY_DIR})
MOUNT_PROPAGATION: Final = "podspec-volumes-mount-propagation"


def is_enabled(flag: str, data: Mapping[str, str]) -> bool:
    """Whether `kubernetes.FLAG` lets a field pass, by the data of `config-features`.

    `allowed` lets it pass as `enabled` does; an unknown value counts as unset.
    """
    value = data.get(f"{PREFIX}{flag}", "").lower()
    if value not in {"enabled", "allowed", "disabled"}:
        return flag in ON_BY_DEFAULT
    return value != "disabled"


def needed(spec: Mapping[str, Any]) -> dict[str, str]:
    """The flags that the spec of a Revision needs, each with the first field that needs it."""
    found: dict[str, str] = {}
    for flag, field in _needed(spec):
        found.setdefault(flag, field)
    return found


def _needed(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for field, flag in FIELDS.items():
        if field in spec:
            yield flag, field
    if spec.get("initContainers"):
        yield INIT_CONTAINERS, "initContainers"
    volumes = {volume.get("name"): volume for volume in spec.get("volumes") or ()}
    for name, volume in volumes.items():
        for source in volume:
            if (known := EMPTY_DIR if source == "emptyDir" else VOLUMES.get(source)) is not None:
                yield known, f"volumes[{name}].{source}"
    for container in spec.get("containers") or ():
        yield from _needed_by(container, volumes)


def _needed_by(
    container: Mapping[str, Any], volumes: Mapping[Any, Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    for mount in container.get("volumeMounts") or ():
        claim = volumes.get(mount.get("name"), {}).get("persistentVolumeClaim")
        if claim is not None and not mount.get("readOnly") and not claim.get("readOnly"):
            yield CLAIM_WRITE, f"volumeMounts[{mount['name']}] (written to)"
        if mount.get("mountPropagation"):
            yield MOUNT_PROPAGATION, f"volumeMounts[{mount.get('name')}].mountPropagation"
    capabilities = (container.get("securityContext") or {}).get("capabilities") or {}
    if capabilities.get("add"):
        yield ADD_CAPABILITIES, "securityContext.capabilities.add"
    for entry in container.get("env") or ():
        if (entry.get("valueFrom") or {}).keys() & {"fieldRef", "resourceFieldRef"}:
            yield FIELD_REF, f"env[{entry.get('name')}].valueFrom"


def missing(spec: Mapping[str, Any], data: Mapping[str, str]) -> dict[str, str]:
    """Those of `needed` that the data of `config-features` does not enable."""
    return {flag: field for flag, field in needed(spec).items() if not is_enabled(flag, data)}
