"""Validation of probes, by the role of their container (pure).

After knative.dev/serving, `pkg/apis/serving/k8s_validation.go`, in its words.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from knative.local.apiserver.admission import field_errors
from knative.local.apiserver.admission.field_errors import Errors

PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_HANDLERS = ("httpGet", "tcpSocket", "exec", "grpc")


class ContainerRole(Enum):
    """The role of a container, by which its rules differ."""

    SERVING = auto()
    SIDECAR = auto()


def sidecar_probe_errors(probe: Mapping[str, Any]) -> Errors:
    """A sidecar may have a probe only if the feature flag is set."""
    yield from (field_errors.disallowed(key) for key, value in probe.items() if value is not None)


def probe_errors(  # noqa: C901  # one branch for each rule
    probe: Mapping[str, Any], which: str, role: ContainerRole
) -> Errors:
    """All errors of a probe; `which` is its field, such as `readinessProbe`."""
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
    if role is ContainerRole.SIDECAR:
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
