"""The downward API: what a container may be told of its own pod, after Kubernetes' pkg/fieldpath (pure)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

from knative.client.resources import Object
from knative.literals import parse_quantity
from knative.local import containers
from knative.local.kubelet.environment import ConfigError

NODE = "localhost"
"""The name of the one node."""
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")
_RESOURCES = frozenset({"cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"})


@dataclass(frozen=True, slots=True)
class Machine:
    """What a container without limits may use."""

    cpus: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Source:
    """Answers `fieldRef` and `resourceFieldRef`, of variables and of files, for one container of a pod."""

    pod: Object
    container: Mapping[str, Any]
    host: str
    machine: Machine

    def __call__(self, source: Mapping[str, Any]) -> str | None:
        """The value of what a variable or a file refers to; None if that is nothing of the pod.

        Raises:
            ConfigError: there is no such field.
        """
        if (reference := source.get("fieldRef")) is not None:
            return field(self.pod, str(reference.get("fieldPath") or ""), self.host)
        if (reference := source.get("resourceFieldRef")) is not None:
            return self._resource(reference)
        return None

    def _resource(self, reference: Mapping[str, Any]) -> str:
        name = reference.get("containerName")
        containers = [*(self.pod["spec"].get("initContainers") or ()), *self.pod["spec"]["containers"]]
        container = next((item for item in containers if item["name"] == name), None)
        if name and container is None:
            raise ConfigError(f"container {name} not found")
        return resource(container or self.container, reference, self.machine)


def field(pod: Object, path: str, host: str) -> str:
    """A field of the pod; a label or annotation that isn't there is empty.

    Raises:
        ConfigError: a container can't be told of that field.
    """
    meta, spec = pod["metadata"], pod["spec"]
    found = _SUBSCRIPT.fullmatch(path)
    if path in ("metadata.labels", "metadata.annotations"):  # as a file has them
        listed = sorted((meta.get(path.removeprefix("metadata.")) or {}).items())
        return "\n".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in listed)
    if found is not None:
        return str((meta.get(found[1]) or {}).get(found[2], ""))
    plain = {
        "metadata.name": meta.get("name"),
        "metadata.namespace": meta.get("namespace"),
        "metadata.uid": meta.get("uid"),
        "spec.nodeName": NODE,
        "spec.serviceAccountName": spec.get("serviceAccountName") or "default",
        "status.hostIP": host,
        "status.hostIPs": host,
        "status.podIP": host,
        "status.podIPs": host,
    }
    if path not in plain:
        raise ConfigError(
            f"unsupported fieldPath: {path}; there are {', '.join(plain)}, "
            "metadata.labels['KEY'] and metadata.annotations['KEY']"
        )
    return str(plain[path] or "")


def resource(container: Mapping[str, Any], reference: Mapping[str, Any], machine: Machine) -> str:
    """A limit or request in units of the divisor, rounded up; without a limit, what the machine has.

    Raises:
        ConfigError: there is no such resource, or the divisor is no number above zero.
    """
    path = str(reference.get("resource") or "")
    kind, _, name = path.partition(".")
    if kind not in ("limits", "requests") or name not in _RESOURCES:
        raise ConfigError(
            f"unsupported container resource: {path}; there are limits and requests of "
            f"{', '.join(sorted(_RESOURCES))}"
        )
    text = str(reference.get("divisor") or "1")
    divisor = parse_quantity("1" if text == "0" else text)
    if divisor is None or divisor <= 0:
        raise ConfigError(f"divisor {text} of {path} must be a quantity above zero, such as 1Mi")
    amount = containers.amount(container, kind, name)
    if amount is None:
        amount = _of_machine(name, machine) if kind == "limits" else Fraction(0)
    return str(ceil(amount / divisor))


def _of_machine(name: str, machine: Machine) -> Fraction:
    return Fraction({"cpu": machine.cpus, "memory": machine.memory_bytes}.get(name, 0))
