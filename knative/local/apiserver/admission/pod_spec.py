"""Validation of the pod spec in a Revision: containers, probes, volumes and feature flags (pure).

After knative.dev/serving, `pkg/apis/serving/{k8s_validation,fieldmask}.go`, in its words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from enum import Enum, auto
from fractions import Fraction
from typing import Any

from knative.autoscaling.annotations import FieldError
from knative.literals import LiteralError, parse_quantity, read_quantity
from knative.local.apiserver.admission import field_errors
from knative.local.apiserver.admission.field_errors import Errors
from knative.local.apiserver.admission.serving_config import ServingConfig
from knative.local.apiserver.metadata import is_subdomain

_RESERVED_ENV = frozenset({"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"})
_RESERVED_PORTS = frozenset({8012, 8013, 8022, 9090, 9091})
_RESERVED_CONTAINERS = frozenset({"queue-proxy", "istio-proxy"})
_RESERVED_PATHS = frozenset({"/", "/dev", "/dev/log", "/tmp", "/var", "/var/log"})  # noqa: S108  # names, not uses
_PORT_NAMES = frozenset({"", "h2c", "http1"})
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_IMAGE = re.compile(r"\S+")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_NATIVE = frozenset({"cpu", "memory", "ephemeral-storage"})
_HANDLERS = ("httpGet", "tcpSocket", "exec", "grpc")

_FLAGGED_FIELDS: Mapping[str, str] = {
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
_FLAGGED_VOLUMES: Mapping[str, str] = {
    "persistentVolumeClaim": "podspec-persistent-volume-claim",
    "hostPath": "podspec-volumes-hostpath",
    "csi": "podspec-volumes-csi",
    "ephemeral": "podspec-volumes-ephemeral",
    "image": "podspec-volumes-image",
}
_PLAIN_VOLUMES = ("secret", "configMap", "projected", "emptyDir")


class _Kind(Enum):
    """The role of a container, by which its rules differ."""

    SERVING = auto()
    SIDECAR = auto()


def revision_spec(spec: Mapping[str, Any], config: ServingConfig) -> Errors:
    """All errors in the spec of a Revision; paths are relative to it."""
    yield from _limits(spec, config)
    for field, flag in _FLAGGED_FIELDS.items():
        if field in spec and not config.enabled(flag):
            yield field_errors.disallowed(field)
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
        kind = _Kind.SIDECAR if sidecar else _Kind.SERVING
        yield from field_errors.via(f"containers[{index}]", _container(container, volumes, config, kind))


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
        elif not _LABEL.fullmatch(name):
            yield field_errors.invalid(name, f"{path}.name")
        elif name in seen:
            yield FieldError(f'duplicate volume name "{name}"', (f"{path}.name",))
        seen.add(name)
        sources = [key for key in (*_PLAIN_VOLUMES, *_FLAGGED_VOLUMES) if key in volume]
        for key in sources:
            flag = _FLAGGED_VOLUMES.get(key) or ("podspec-volumes-emptydir" if key == "emptyDir" else None)
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
            yield _no_downward_api(f"projected.sources[{index}].downwardAPI")
    if (claim := volume.get("persistentVolumeClaim")) is not None:
        where = "persistentVolumeClaim.claimName"
        name = str(claim.get("claimName") or "")
        if not name:
            yield field_errors.missing(where)
        elif not is_subdomain(name):  # the claim is a folder of that name
            yield field_errors.invalid(name, where, "must be the name of a PersistentVolumeClaim")


def _container(
    container: Mapping[str, Any],
    volumes: Sequence[Mapping[str, Any]],
    config: ServingConfig,
    kind: _Kind,
) -> Errors:
    name = str(container.get("name") or "")
    if name in _RESERVED_CONTAINERS:
        yield FieldError(f'"{name}" is a reserved container name', ("name",))
    elif name and not _LABEL.fullmatch(name):
        yield field_errors.invalid(name, "name")
    image = container.get("image")
    if not image:
        yield field_errors.missing("image")
    elif not _IMAGE.fullmatch(image):
        yield field_errors.invalid(image, "image", "could not parse reference")
    # PORT is the serving container's; another one may set it as it likes.
    reserved = _RESERVED_ENV if kind is _Kind.SERVING else _RESERVED_ENV - {"PORT"}
    yield from _env(container, reserved)
    yield from _ports(container.get("ports") or [])
    yield from field_errors.via("resources", _resources(container.get("resources") or {}))
    probing = kind is _Kind.SERVING or config.flags.get("multi-container-probing") == "enabled"
    for key in _PROBES:
        if container.get(key) is not None:
            found = _probe(container[key], key, kind) if probing else _unprobed(container[key])
            yield from field_errors.via(key, found)
    yield from field_errors.via("securityContext", _security(container.get("securityContext") or {}, config))
    yield from _mounts(container.get("volumeMounts") or [], volumes, config)


def _env(container: Mapping[str, Any], reserved: Collection[str]) -> Errors:
    for index, entry in enumerate(container.get("env") or ()):
        path, name = f"env[{index}]", str(entry.get("name") or "")
        if not name:
            yield field_errors.missing(f"{path}.name")
        elif name in reserved:
            yield FieldError(f'"{name}" is a reserved environment variable', (f"{path}.name",))
        elif not _ENV_NAME.fullmatch(name):
            yield field_errors.invalid(name, f"{path}.name")
        source = entry.get("valueFrom") or {}
        for key in ("fieldRef", "resourceFieldRef"):
            if key in source:
                yield _no_downward_api(f"{path}.valueFrom.{key}")
    for index, entry in enumerate(container.get("envFrom") or ()):
        path = f"envFrom[{index}]"
        if "configMapRef" in entry and "secretRef" in entry:
            yield field_errors.several_of(f"{path}.configMapRef", f"{path}.secretRef")
        if "configMapRef" not in entry and "secretRef" not in entry:
            yield field_errors.none_of(f"{path}.configMapRef", f"{path}.secretRef")


def _no_downward_api(path: str) -> FieldError:
    return FieldError("must not set the field(s)", (path,), "this platform has no downward API")


def _ports(ports: Sequence[Mapping[str, Any]]) -> Errors:
    for port in ports[:1]:
        number = port.get("containerPort", 0)
        if number in _RESERVED_PORTS:
            taken = f"{number} is a reserved port"
            yield field_errors.invalid(taken, "ports.containerPort", f"{taken}, please use a different value")
        elif not 0 <= number <= 65535:
            yield field_errors.out_of_bounds(number, 0, 65535, "ports.containerPort")
        if port.get("protocol", "TCP") != "TCP":
            yield field_errors.invalid(port["protocol"], "ports.protocol")
        if port.get("name", "") not in _PORT_NAMES:
            yield FieldError(
                f"Port name {port['name']} is not allowed",
                ("ports",),
                "Name must be empty, or one of: 'h2c', 'http1'",
            )


def _resources(resources: Mapping[str, Any]) -> Errors:
    """Amounts are quantities, requests lie within limits, and devices such as GPUs are whole and have limits.

    The first two are Kubernetes' rules for Pods (`pkg/apis/core/validation`), to which Knative leaves them.
    """
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for kind, values in (("limits", limits), ("requests", requests)):
        for name, value in values.items():
            yield from field_errors.via(kind, _amount(name, value))
    for name in sorted({*limits, *requests}):
        limit, request = _quantity(limits.get(name)), _quantity(requests.get(name))
        if "/" in name:
            if name not in limits:
                yield FieldError(
                    "missing field(s)",
                    (f"limits.{name}",),
                    "Limit must be set for non overcommitable resources",
                )
            elif name in requests and request != limit:
                details = f"must be equal to {name} limit of {limits[name]}"
                yield field_errors.invalid(requests[name], f"requests.{name}", details)
        elif limit is not None and request is not None and request > limit:
            details = f"must be less than or equal to {name} limit of {limits[name]}"
            yield field_errors.invalid(requests[name], f"requests.{name}", details)


def _amount(name: str, value: Any) -> Errors:
    try:
        read_quantity(str(value))
    except LiteralError as problem:
        yield field_errors.invalid(value, name, str(problem))
        return
    amount = _quantity(value)
    assert amount is not None
    if amount < 0:
        yield field_errors.invalid(value, name, "must be greater than or equal to 0")
    elif "/" in name and amount.denominator != 1:
        yield field_errors.invalid(value, name, "must be an integer")
    elif "/" not in name and name not in _NATIVE and not name.startswith("hugepages-"):
        yield field_errors.invalid(name, name, "must be a standard resource for containers")


def _quantity(value: Any) -> Fraction | None:
    return None if value is None else parse_quantity(str(value))


def _unprobed(probe: Mapping[str, Any]) -> Errors:
    """A sidecar may have a probe only if the feature flag is set."""
    yield from (field_errors.disallowed(key) for key, value in probe.items() if value is not None)


def _probe(probe: Mapping[str, Any], which: str, kind: _Kind) -> Errors:  # noqa: C901  # one branch for each rule
    handlers = [key for key in _HANDLERS if probe.get(key) is not None]
    if len(handlers) > 1:
        yield field_errors.several_of(*handlers)
    if not handlers:
        yield field_errors.none_of(*_HANDLERS)
    for key in (
        "initialDelaySeconds",
        "periodSeconds",
        "timeoutSeconds",
        "failureThreshold",
        "successThreshold",
    ):
        if (probe.get(key) or 0) < 0:
            yield field_errors.out_of_bounds(probe[key], 0, 2**31 - 1, key)
    period = probe.get("periodSeconds") or 0
    if which == "readinessProbe" and not period:
        # Knative then probes by itself several times a second, without either.
        for key in ("failureThreshold", "timeoutSeconds"):
            if probe.get(key):
                yield field_errors.disallowed(key)
    if which != "readinessProbe" and (probe.get("successThreshold") or 1) != 1:
        yield field_errors.out_of_bounds(probe["successThreshold"], 1, 1, "successThreshold")
    if kind is _Kind.SIDECAR:
        yield from _probe_ports(probe)
    elif which == "startupProbe":
        for key in ("httpGet", "tcpSocket", "grpc"):
            if key in handlers and not probe[key].get("port"):
                yield field_errors.missing(f"{key}.port")


def _probe_ports(probe: Mapping[str, Any]) -> Errors:
    """A sidecar has no port that a probe could default to."""
    for key in ("httpGet", "tcpSocket"):
        if probe.get(key) is not None and not probe[key].get("port"):
            yield field_errors.invalid(
                probe[key].get("port") or 0, f"{key}.port", "Probe port must be specified"
            )


def _security(context: Mapping[str, Any], config: ServingConfig) -> Errors:
    if context.get("privileged"):
        yield field_errors.disallowed("privileged")
    added = (context.get("capabilities") or {}).get("add") or []
    if not config.enabled("containerspec-addcapabilities") and any(
        item != "NET_BIND_SERVICE" for item in added
    ):
        yield field_errors.disallowed("capabilities.add")
    for key in ("runAsUser", "runAsGroup"):
        value = context.get(key)
        if value is not None and not 0 <= value <= 2**31 - 1:
            yield field_errors.out_of_bounds(value, 0, 2**31 - 1, key)


def _mounts(
    mounts: Sequence[Mapping[str, Any]], volumes: Sequence[Mapping[str, Any]], config: ServingConfig
) -> Errors:
    by_name = {volume.get("name"): volume for volume in volumes}
    seen: set[str] = set()
    for index, mount in enumerate(mounts):
        where = f"volumeMounts[{index}]"
        name, path = mount.get("name"), str(mount.get("mountPath") or "")
        if not name:
            yield field_errors.missing(f"{where}.name")
        elif name not in by_name:
            yield FieldError("volumeMount has no matching volume", (f"{where}.name",))
        clean = path.rstrip("/") or "/"
        if not path:
            yield field_errors.missing(f"{where}.mountPath")
        elif clean in _RESERVED_PATHS:
            yield FieldError(f'mountPath "{clean}" is a reserved path', (f"{where}.mountPath",))
        elif not path.startswith("/"):
            yield field_errors.invalid(path, f"{where}.mountPath")
        elif clean in seen:
            yield FieldError(f'"{clean}" must be unique', (f"{where}.mountPath",))
        seen.add(clean)
        volume = by_name.get(name) or {}
        writes = not mount.get("readOnly")
        if (
            "persistentVolumeClaim" in volume
            and writes
            and not (volume["persistentVolumeClaim"] or {}).get("readOnly")
            and not config.enabled("podspec-persistent-volume-write")
        ):
            yield field_errors.disallowed(f"{where}.readOnly")
