"""Validation of one container: environment, ports, resources, security context and mounts (pure).

After knative.dev/serving, `pkg/apis/serving/k8s_validation.go`, in its words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any

from knative import feature_flags
from knative.autoscaling.annotations import FieldError
from knative.literals import LiteralError, parse_quantity, read_quantity
from knative.local.apiserver.admission import field_errors
from knative.local.apiserver.admission.field_errors import Errors
from knative.local.apiserver.admission.probe_spec import (
    PROBES,
    ContainerRole,
    probe_errors,
    sidecar_probe_errors,
)
from knative.local.apiserver.admission.serving_config import ServingConfig

_RESERVED_ENV = frozenset({"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"})
_RESERVED_PORTS = frozenset({8012, 8013, 8022, 9090, 9091})
_RESERVED_CONTAINERS = frozenset({"queue-proxy", "istio-proxy"})
_RESERVED_PATHS = frozenset({"/", "/dev", "/dev/log", "/tmp", "/var", "/var/log"})  # noqa: S108  # names, not uses
_PORT_NAMES = frozenset({"", "h2c", "http1"})
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_IMAGE = re.compile(r"\S+")
_NATIVE = frozenset({"cpu", "memory", "ephemeral-storage"})


def container_errors(
    container: Mapping[str, Any],
    volumes: Sequence[Mapping[str, Any]],
    config: ServingConfig,
    role: ContainerRole,
) -> Errors:
    """All errors of a container; paths are relative to it."""
    name = str(container.get("name") or "")
    if name in _RESERVED_CONTAINERS:
        yield FieldError(f'"{name}" is a reserved container name', ("name",))
    elif name and not field_errors.LABEL.fullmatch(name):
        yield field_errors.invalid(name, "name")
    image = container.get("image")
    if not image:
        yield field_errors.missing("image")
    elif not _IMAGE.fullmatch(image):
        yield field_errors.invalid(image, "image", "could not parse reference")
    # PORT is the serving container's; another one may set it as it likes.
    reserved = _RESERVED_ENV if role is ContainerRole.SERVING else _RESERVED_ENV - {"PORT"}
    yield from _env(container, reserved)
    yield from _ports(container.get("ports") or [])
    yield from field_errors.via("resources", _resources(container.get("resources") or {}))
    probing = role is ContainerRole.SERVING or config.flags.get("multi-container-probing") == "enabled"
    for key in PROBES:
        if container.get(key) is not None:
            found = (
                probe_errors(container[key], key, role) if probing else sidecar_probe_errors(container[key])
            )
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
                yield field_errors.no_downward_api(f"{path}.valueFrom.{key}")
    for index, entry in enumerate(container.get("envFrom") or ()):
        path = f"envFrom[{index}]"
        if "configMapRef" in entry and "secretRef" in entry:
            yield field_errors.several_of(f"{path}.configMapRef", f"{path}.secretRef")
        if "configMapRef" not in entry and "secretRef" not in entry:
            yield field_errors.none_of(f"{path}.configMapRef", f"{path}.secretRef")


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


def _security(context: Mapping[str, Any], config: ServingConfig) -> Errors:
    if context.get("privileged"):
        yield field_errors.disallowed("privileged")
    added = (context.get("capabilities") or {}).get("add") or []
    if added and not config.enabled(feature_flags.ADD_CAPABILITIES):
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
        yield from field_errors.via(where, _mount_of(by_name.get(name) or {}, mount, config))


def _mount_of(volume: Mapping[str, Any], mount: Mapping[str, Any], config: ServingConfig) -> Errors:
    """Whether a volume may be mounted so."""
    claim = volume.get("persistentVolumeClaim")
    if claim is not None and not mount.get("readOnly"):
        if claim.get("readOnly"):
            yield FieldError("volume is readOnly but volume mount is not", ("readOnly",))
        elif not config.enabled(feature_flags.CLAIM_WRITE):
            yield field_errors.disallowed("readOnly")
    propagation = mount.get("mountPropagation")
    if propagation is not None and not config.enabled(feature_flags.MOUNT_PROPAGATION):
        yield field_errors.disallowed("mountPropagation")
    elif propagation not in {None, "None", "HostToContainer"}:
        yield FieldError("mount propagation should be set to None or HostToContainer", ("mountPropagation",))
