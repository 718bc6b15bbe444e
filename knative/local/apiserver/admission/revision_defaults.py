"""Knative's defaults of a Revision's spec (pure).

After knative.dev/serving, `pkg/apis/serving/v1/revision_defaults.go`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from knative.client.resources import Object
from knative.local.apiserver.admission.serving_config import RevisionDefaults, ServingConfig

_WRITABLE = ("emptyDir", "persistentVolumeClaim", "ephemeral")
"""Volumes that containers may write to; those of other kinds, hostPath included, are mounted read-only."""


def fill_revision_spec(spec: Object, config: ServingConfig, owner: Mapping[str, Any]) -> None:
    """Fill in Knative's defaults of a Revision's spec; `owner` is the metadata of the object that holds it.

    After pkg/apis/serving/v1/revision_defaults.go.
    """
    defaults = config.defaults
    if not spec.get("timeoutSeconds"):
        spec["timeoutSeconds"] = defaults.timeout_s
    for key, seconds in (
        ("idleTimeoutSeconds", defaults.idle_timeout_s),
        ("responseStartTimeoutSeconds", defaults.response_start_timeout_s),
    ):
        if key not in spec and 0 < seconds < spec["timeoutSeconds"]:
            spec[key] = seconds
    spec.setdefault("containerConcurrency", defaults.concurrency)
    if defaults.service_links is not None:
        spec.setdefault("enableServiceLinks", defaults.service_links)
    containers = spec.get("containers") or []
    taken = {item["name"] for item in containers if item.get("name")}
    _name_containers(containers, taken, defaults.named(defaults.container_name, owner))
    serving = next((item for item in containers if item.get("ports")), None) or (containers or [None])[0]
    volumes = {volume.get("name"): volume for volume in spec.get("volumes") or ()}
    for container in containers:
        _fill_container(container, volumes, defaults)
        if container is serving:
            probe: Object = container.setdefault("readinessProbe", {})
            if not any(probe.get(key) is not None for key in ("httpGet", "tcpSocket", "exec", "grpc")):
                probe["tcpSocket"] = {"port": 0}
            probe.setdefault("successThreshold", 1)
            if probe.get("periodSeconds"):
                probe.setdefault("failureThreshold", 3)
                probe.setdefault("timeoutSeconds", 1)


def _fill_container(
    container: Object, volumes: Mapping[str | None, Object], defaults: RevisionDefaults
) -> None:
    resources = container.setdefault("resources", {})
    for what, amounts in (("requests", defaults.requests), ("limits", defaults.limits)):
        if amounts:
            resources[what] = {**amounts, **(resources.get(what) or {})}
    for mount in container.get("volumeMounts") or ():
        volume = volumes.get(mount.get("name")) or {}
        if not any(kind in volume for kind in _WRITABLE):
            mount["readOnly"] = True
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        for request in ("httpGet", "grpc"):
            if (asked := (container.get(probe) or {}).get(request)) is not None:
                asked.setdefault("port", 0)


def _name_containers(containers: Sequence[Object], taken: set[str], wanted: str) -> None:
    """Name the containers without a name; numbers keep names apart where there are several."""
    numbers = itertools.count()
    for container in containers:
        if container.get("name"):
            continue
        name = wanted
        while name in taken or (len(containers) > 1 and name == wanted):
            name = f"{wanted}-{next(numbers)}"
        container["name"] = name
        taken.add(name)
