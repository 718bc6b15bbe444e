"""What Knative lets into a Revision's pod: containers, probes, volumes, switches.

After pkg/apis/serving/k8s_validation.go and fieldmask.go of Knative Serving; the texts are its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from knative.annotations import FieldError
from knative.local.admission import fields
from knative.local.admission.features import Features
from knative.local.admission.fields import Errors

_RESERVED_ENV = frozenset({"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"})
_RESERVED_PORTS = frozenset({8012, 8013, 8022, 9090, 9091})
_RESERVED_CONTAINERS = frozenset({"queue-proxy", "istio-proxy"})
_RESERVED_PATHS = frozenset({"/", "/dev", "/dev/log", "/tmp", "/var", "/var/log"})  # noqa: S108  # names, not uses
_PORT_NAMES = frozenset({"", "h2c", "http1"})
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_IMAGE = re.compile(r"\S+")
_HANDLERS = ("httpGet", "tcpSocket", "exec", "grpc")

_SWITCHED_FIELDS: Mapping[str, str] = {
    "affinity": "podspec-affinity",
    "dnsConfig": "podspec-dnsconfig",
    "dnsPolicy": "podspec-dnspolicy",
    "hostAliases": "podspec-hostaliases",
    "hostIPC": "podspec-hostipc",
    "hostNetwork": "podspec-hostnetwork",
    "hostPID": "podspec-hostpid",
    "initContainers": "podspec-init-containers",
    "nodeSelector": "podspec-nodeselector",
    "priorityClassName": "podspec-priorityclassname",
    "runtimeClassName": "podspec-runtimeclassname",
    "schedulerName": "podspec-schedulername",
    "securityContext": "podspec-securitycontext",
    "shareProcessNamespace": "podspec-shareprocessnamespace",
    "tolerations": "podspec-tolerations",
    "topologySpreadConstraints": "podspec-topologyspreadconstraints",
}
_SWITCHED_VOLUMES: Mapping[str, str] = {
    "persistentVolumeClaim": "podspec-persistent-volume-claim",
    "hostPath": "podspec-volumes-hostpath",
    "csi": "podspec-volumes-csi",
    "ephemeral": "podspec-volumes-ephemeral",
    "image": "podspec-volumes-image",
}
_PLAIN_VOLUMES = ("secret", "configMap", "projected", "emptyDir")


def revision_spec(spec: Mapping[str, Any], features: Features) -> Errors:
    """All that is wrong with a Revision's spec; paths begin inside of it."""
    yield from _limits(spec, features)
    for field, flag in _SWITCHED_FIELDS.items():
        if field in spec and not features.enabled(flag):
            yield fields.disallowed(field)
    volumes = spec.get("volumes") or []
    yield from _volumes(volumes, features)
    containers = spec.get("containers") or []
    if not containers:
        yield fields.missing("containers")
        return
    with_ports = [item for item in containers if item.get("ports")]
    if len(containers) > 1 and not with_ports:
        yield fields.missing("containers.ports")
    if len(with_ports) > 1:
        yield fields.several_of("containers.ports")
    mounted: set[str] = set()
    for index, container in enumerate(containers):
        yield from fields.via(f"containers[{index}]", _container(container, volumes, features))
        mounted |= {mount.get("name", "") for mount in container.get("volumeMounts") or ()}
    for index, volume in enumerate(volumes):
        if volume.get("name") and volume["name"] not in mounted:
            yield FieldError(f'volume with name "{volume["name"]}" not mounted', (f"volumes[{index}].name",))


def _limits(spec: Mapping[str, Any], features: Features) -> Errors:
    defaults = features.defaults
    concurrency = spec.get("containerConcurrency") or 0
    least, most = 0 if defaults.allow_zero_concurrency else 1, defaults.max_concurrency
    if not least <= concurrency <= most:
        yield fields.out_of_bounds(concurrency, least, most, "containerConcurrency")
    longest = defaults.max_timeout_s
    timeout = spec.get("timeoutSeconds")
    if timeout is not None and not 0 <= timeout <= longest:
        yield fields.out_of_bounds(timeout, 0, longest, "timeoutSeconds")
    for key in ("responseStartTimeoutSeconds", "idleTimeoutSeconds"):
        value, bound = spec.get(key), timeout if timeout is not None else longest
        if value is not None and not 0 <= value <= bound:
            yield fields.out_of_bounds(value, 0, bound, key)


def _volumes(volumes: Sequence[Mapping[str, Any]], features: Features) -> Errors:
    seen: set[str] = set()
    for index, volume in enumerate(volumes):
        path = f"volumes[{index}]"
        name = str(volume.get("name") or "")
        if not name:
            yield fields.missing(f"{path}.name")
        elif not _LABEL.fullmatch(name):
            yield fields.invalid(name, f"{path}.name")
        elif name in seen:
            yield FieldError(f'duplicate volume name "{name}"', (f"{path}.name",))
        seen.add(name)
        sources = [key for key in (*_PLAIN_VOLUMES, *_SWITCHED_VOLUMES) if key in volume]
        for key in sources:
            flag = _SWITCHED_VOLUMES.get(key) or ("podspec-volumes-emptydir" if key == "emptyDir" else None)
            if flag is not None and not features.enabled(flag):
                yield fields.disallowed(f"{path}.{key}")
        if len(sources) > 1:
            yield fields.several_of(*(f"{path}.{key}" for key in sources))
        if not sources:
            yield fields.none_of(*(f"{path}.{key}" for key in _PLAIN_VOLUMES))


def _container(
    container: Mapping[str, Any], volumes: Sequence[Mapping[str, Any]], features: Features
) -> Errors:
    name = str(container.get("name") or "")
    if name in _RESERVED_CONTAINERS:
        yield FieldError(f'"{name}" is a reserved container name', ("name",))
    elif name and not _LABEL.fullmatch(name):
        yield fields.invalid(name, "name")
    image = container.get("image")
    if not image:
        yield fields.missing("image")
    elif not _IMAGE.fullmatch(image):
        yield fields.invalid(image, "image", "could not parse reference")
    yield from _env(container, features)
    yield from _ports(container.get("ports") or [])
    yield from fields.via("resources", _resources(container.get("resources") or {}))
    for key in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(key) is not None:
            yield from fields.via(key, _probe(container[key], key))
    yield from fields.via("securityContext", _security(container.get("securityContext") or {}, features))
    yield from _mounts(container.get("volumeMounts") or [], volumes, features)


def _env(container: Mapping[str, Any], features: Features) -> Errors:
    for index, entry in enumerate(container.get("env") or ()):
        path, name = f"env[{index}]", str(entry.get("name") or "")
        if not name:
            yield fields.missing(f"{path}.name")
        elif name in _RESERVED_ENV:
            yield FieldError(f'"{name}" is a reserved environment variable', (f"{path}.name",))
        elif not _ENV_NAME.fullmatch(name):
            yield fields.invalid(name, f"{path}.name")
        source = entry.get("valueFrom") or {}
        for key in ("fieldRef", "resourceFieldRef"):
            if key in source and not features.enabled("podspec-fieldref"):
                yield fields.disallowed(f"{path}.valueFrom.{key}")
    for index, entry in enumerate(container.get("envFrom") or ()):
        path = f"envFrom[{index}]"
        if "configMapRef" in entry and "secretRef" in entry:
            yield fields.several_of(f"{path}.configMapRef", f"{path}.secretRef")
        if "configMapRef" not in entry and "secretRef" not in entry:
            yield fields.none_of(f"{path}.configMapRef", f"{path}.secretRef")


def _ports(ports: Sequence[Mapping[str, Any]]) -> Errors:
    if len(ports) > 1:
        yield FieldError(
            "More than one container port is set",
            ("ports",),
            "Only a single port is allowed across all containers",
        )
        return
    for port in ports:
        number = port.get("containerPort", 0)
        if number in _RESERVED_PORTS:
            yield FieldError(f"{number} is a reserved port", ("ports.containerPort",))
        elif not 0 <= number <= 65535:
            yield fields.out_of_bounds(number, 0, 65535, "ports.containerPort")
        if port.get("protocol", "TCP") != "TCP":
            yield fields.invalid(port["protocol"], "ports.protocol")
        if port.get("name", "") not in _PORT_NAMES:
            yield FieldError(
                f"Port name {port['name']} is not allowed",
                ("ports",),
                "Name must be empty, or one of: 'h2c', 'http1'",
            )


def _resources(resources: Mapping[str, Any]) -> Errors:
    """Devices such as GPUs come whole, and as limits."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name in sorted({*limits, *requests}):
        if "/" not in name:
            continue
        for kind, values in (("limits", limits), ("requests", requests)):
            value = str(values.get(name, "0"))
            if not value.isdigit():
                yield fields.invalid(value, f"{kind}.{name}", "must be an integer")
        if name not in limits:
            yield FieldError(
                "missing field(s)",
                (f"limits.{name}",),
                "Limit must be set for non overcommitable resources",
            )
        elif name in requests and str(requests[name]) != str(limits[name]):
            yield fields.invalid(
                requests[name], f"requests.{name}", f"must be equal to {name} limit of {limits[name]}"
            )


def _probe(probe: Mapping[str, Any], which: str) -> Errors:  # noqa: C901  # one branch for each rule
    handlers = [key for key in _HANDLERS if probe.get(key) is not None]
    if len(handlers) > 1:
        yield fields.several_of(*handlers)
    if not handlers:
        yield fields.none_of(*_HANDLERS)
    for key in (
        "initialDelaySeconds",
        "periodSeconds",
        "timeoutSeconds",
        "failureThreshold",
        "successThreshold",
    ):
        if (probe.get(key) or 0) < 0:
            yield fields.out_of_bounds(probe[key], 0, 2**31 - 1, key)
    period = probe.get("periodSeconds") or 0
    if which == "readinessProbe" and not period:
        # Knative's own, quicker probing, which has neither.
        for key in ("failureThreshold", "timeoutSeconds"):
            if probe.get(key):
                yield fields.disallowed(key)
    if which != "readinessProbe" and (probe.get("successThreshold") or 1) != 1:
        yield fields.out_of_bounds(probe["successThreshold"], 1, 1, "successThreshold")
    if which == "startupProbe":
        for key in ("httpGet", "tcpSocket", "grpc"):
            if key in handlers and not probe[key].get("port"):
                yield fields.missing(f"{key}.port")


def _security(context: Mapping[str, Any], features: Features) -> Errors:
    if context.get("privileged"):
        yield fields.disallowed("privileged")
    added = (context.get("capabilities") or {}).get("add") or []
    if not features.enabled("containerspec-addcapabilities") and any(
        item != "NET_BIND_SERVICE" for item in added
    ):
        yield fields.disallowed("capabilities.add")
    for key in ("runAsUser", "runAsGroup"):
        value = context.get(key)
        if value is not None and not 0 <= value <= 2**31 - 1:
            yield fields.out_of_bounds(value, 0, 2**31 - 1, key)


def _mounts(
    mounts: Sequence[Mapping[str, Any]], volumes: Sequence[Mapping[str, Any]], features: Features
) -> Errors:
    by_name = {volume.get("name"): volume for volume in volumes}
    seen: set[str] = set()
    for index, mount in enumerate(mounts):
        where = f"volumeMounts[{index}]"
        name, path = mount.get("name"), str(mount.get("mountPath") or "")
        if not name:
            yield fields.missing(f"{where}.name")
        elif name not in by_name:
            yield FieldError("volumeMount has no matching volume", (f"{where}.name",))
        clean = path.rstrip("/") or "/"
        if not path:
            yield fields.missing(f"{where}.mountPath")
        elif clean in _RESERVED_PATHS:
            yield FieldError(f'mountPath "{clean}" is a reserved path', (f"{where}.mountPath",))
        elif not path.startswith("/"):
            yield fields.invalid(path, f"{where}.mountPath")
        elif clean in seen:
            yield FieldError(f'"{clean}" must be unique', (f"{where}.mountPath",))
        seen.add(clean)
        volume = by_name.get(name) or {}
        writes = not mount.get("readOnly")
        if (
            "persistentVolumeClaim" in volume
            and writes
            and not (volume["persistentVolumeClaim"] or {}).get("readOnly")
            and not features.enabled("podspec-persistent-volume-write")
        ):
            yield fields.disallowed(f"{where}.readOnly")
