"""Validation of the pod spec in a Revision: containers together, volumes, limits and feature flags (pure).

After knative.dev/serving, `pkg/apis/serving/{k8s_validation,fieldmask}.go`, in its words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from knative import feature_flags
from knative.autoscaling.annotations import FieldError
from knative.local.apiserver.admission import field_errors
from knative.local.apiserver.admission.container_spec import container_errors
from knative.local.apiserver.admission.field_errors import Errors
from knative.local.apiserver.admission.probe_spec import ContainerRole
from knative.local.apiserver.admission.serving_config import ServingConfig
from knative.local.apiserver.metadata import is_subdomain

_POD_SECURITY = {"runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup", "supplementalGroups", "seccompProfile"}
"""The fields of a pod's security context that Knative has, whatever the flags."""
_PLAIN_VOLUMES = ("secret", "configMap", "projected", "emptyDir")


def revision_spec(spec: Mapping[str, Any], config: ServingConfig) -> Errors:
    """All errors in the spec of a Revision; paths are relative to it."""
    yield from _limits(spec, config)
    for field, flag in feature_flags.FIELDS.items():
        if field in spec and not config.enabled(flag):
            yield field_errors.disallowed(field)
    if unknown := sorted((spec.get("securityContext") or {}).keys() - _POD_SECURITY):
        yield field_errors.disallowed(*(f"securityContext.{key}" for key in unknown))
    volumes = spec.get("volumes") or []
    yield from _volumes(volumes, config)
    containers = spec.get("containers") or []
    if not containers:
        yield field_errors.missing("containers")
        return
    yield from _containers(containers, volumes, config)
    if spec.get("initContainers"):
        yield FieldError(
            "must not set the field(s)", ("initContainers",), "this platform runs no init containers"
        )
    mounted = {mount.get("name") for item in containers for mount in item.get("volumeMounts") or ()}
    for index, volume in enumerate(volumes):
        if volume.get("name") and volume["name"] not in mounted:
            yield FieldError(f'volume with name "{volume["name"]}" not mounted', (f"volumes[{index}].name",))


def _containers(
    containers: Sequence[Mapping[str, Any]], volumes: Sequence[Mapping[str, Any]], config: ServingConfig
) -> Errors:
    """One container serves requests and has the only port; the others are sidecars."""
    ports = sum(len(container.get("ports") or ()) for container in containers)
    if ports == 0 and len(containers) > 1:
        yield field_errors.missing("containers[*].ports")
    if ports > 1:
        yield FieldError(
            "more than one container port is set",
            ("containers[*].ports",),
            "Only a single port is allowed across all containers",
        )
    if len(containers) > 1 and config.flags.get("multi-container") in ("disabled", "allowed"):
        yield FieldError(f"multi-container is off, but found {len(containers)} containers", ())
        return
    names: set[str] = set()
    for index, container in enumerate(containers):
        if container.get("name") in names:
            yield FieldError(
                f'duplicate container name "{container["name"]}"', (f"containers[{index}].name",)
            )
        names.add(str(container.get("name")))
        sidecar = len(containers) > 1 and not container.get("ports")
        role = ContainerRole.SIDECAR if sidecar else ContainerRole.SERVING
        found = container_errors(container, volumes, config, role)
        yield from field_errors.via(f"containers[{index}]", found)


def _limits(spec: Mapping[str, Any], config: ServingConfig) -> Errors:
    defaults = config.defaults
    concurrency = spec.get("containerConcurrency") or 0
    least, most = 0 if defaults.allow_zero_concurrency else 1, defaults.max_concurrency
    if not least <= concurrency <= most:
        yield field_errors.out_of_bounds(concurrency, least, most, "containerConcurrency")
    longest = defaults.max_timeout_s
    timeout = spec.get("timeoutSeconds")
    if timeout is not None and not 0 <= timeout <= longest:
        yield field_errors.out_of_bounds(timeout, 0, longest, "timeoutSeconds")
    for key in ("responseStartTimeoutSeconds", "idleTimeoutSeconds"):
        value, bound = spec.get(key), timeout if timeout is not None else longest
        if value is not None and not 0 <= value <= bound:
            yield field_errors.out_of_bounds(value, 0, bound, key)


def _volumes(volumes: Sequence[Mapping[str, Any]], config: ServingConfig) -> Errors:
    seen: set[str] = set()
    for index, volume in enumerate(volumes):
        path = f"volumes[{index}]"
        name = str(volume.get("name") or "")
        if not name:
            yield field_errors.missing(f"{path}.name")
        elif not field_errors.LABEL.fullmatch(name):
            yield field_errors.invalid(name, f"{path}.name")
        elif name in seen:
            yield FieldError(f'duplicate volume name "{name}"', (f"{path}.name",))
        seen.add(name)
        sources = [key for key in (*_PLAIN_VOLUMES, *feature_flags.VOLUMES) if key in volume]
        for key in sources:
            flag = feature_flags.VOLUMES.get(key) or (feature_flags.EMPTY_DIR if key == "emptyDir" else None)
            if flag is not None and not config.enabled(flag):
                yield field_errors.disallowed(f"{path}.{key}")
        if len(sources) > 1:
            yield field_errors.several_of(*(f"{path}.{key}" for key in sources))
        if not sources:
            yield field_errors.none_of(*(f"{path}.{key}" for key in _PLAIN_VOLUMES))
        yield from field_errors.via(path, _volume_source(volume))


def _volume_source(volume: Mapping[str, Any]) -> Errors:
    for index, source in enumerate((volume.get("projected") or {}).get("sources") or ()):
        if "downwardAPI" in source:
            yield field_errors.no_downward_api(f"projected.sources[{index}].downwardAPI")
    if (claim := volume.get("persistentVolumeClaim")) is not None:
        where = "persistentVolumeClaim.claimName"
        name = str(claim.get("claimName") or "")
        if not name:
            yield field_errors.missing(where)
        elif not is_subdomain(name):  # the claim is a folder of that name
            yield field_errors.invalid(name, where, "must be the name of a PersistentVolumeClaim")
