"""Renders a Knative Service object from plain values (pure).

The caller decides names and numbers; this module knows where each belongs in a `serving.knative.dev/v1`
Service and in which form the admission webhook accepts it (annotation values are strings; autoscaling
annotations belong to the template, never to the Service).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from knative.autoscaling.annotations import GROUP
from knative.labels import PROGRESS_DEADLINE_ANNOTATION

FIRST_BYTE_TIMEOUT_S = 300
"""Knative's default of `responseStartTimeoutSeconds`. With a longer `timeoutSeconds` it has to be set as
well, or a cold start of more than this many seconds ends in a 504."""


@dataclass(frozen=True)
class Container:
    """The one container of a Service.

    Attributes:
        image: image reference; the local platform records it but runs the command instead.
        command: replaces the image's entry point; required by the local platform.
        args: its arguments.
        env: plain environment variables.
        env_from: `envFrom` entries as Kubernetes writes them.
        requests: resource requests, e.g. `{"cpu": "500m"}`.
        limits: resource limits, e.g. `{"nvidia.com/gpu": "1"}`.
        ready_path: path of the HTTP readiness probe; None leaves Knative's TCP probe.
        liveness_probe: as Kubernetes writes it; a port left out is the container's.
        volume_mounts: entries of `volumeMounts` as Kubernetes writes them.
        security_context: of the container, as Kubernetes writes it.
    """

    image: str
    command: Sequence[str] = ()
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    env_from: Sequence[Mapping[str, Any]] = ()
    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    ready_path: str | None = None
    liveness_probe: Mapping[str, Any] | None = None
    volume_mounts: Sequence[Mapping[str, Any]] = ()
    security_context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Autoscaling:
    """The autoscaling annotations of a Revision; None keeps Knative's default.

    Durations are Go durations such as `90s`.
    """

    min_scale: int | None = None
    max_scale: int | None = None
    initial_scale: int | None = None
    activation_scale: int | None = None
    metric: str | None = None
    target: float | None = None
    target_utilization_percentage: int | None = None
    window: str | None = None
    scale_down_delay: str | None = None
    scale_to_zero_pod_retention_period: str | None = None

    def annotations(self) -> dict[str, str]:
        """The annotations for the template's metadata."""
        values = {
            "min-scale": self.min_scale,
            "max-scale": self.max_scale,
            "initial-scale": self.initial_scale,
            "activation-scale": self.activation_scale,
            "metric": self.metric,
            "target": None if self.target is None else f"{self.target:g}",
            "target-utilization-percentage": self.target_utilization_percentage,
            "window": self.window,
            "scale-down-delay": self.scale_down_delay,
            "scale-to-zero-pod-retention-period": self.scale_to_zero_pod_retention_period,
        }
        return {f"{GROUP}/{key}": str(value) for key, value in values.items() if value is not None}


def service(
    *,
    name: str,
    namespace: str,
    container: Container,
    autoscaling: Autoscaling,
    container_concurrency: int | None = None,
    timeout_seconds: int | None = None,
    response_start_timeout_seconds: int | None = None,
    progress_deadline: str | None = None,
    labels: Mapping[str, str] | None = None,
    service_labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    pod: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A `serving.knative.dev/v1` Service as a JSON object.

    `labels` and `annotations` are for the Service and its template, `service_labels` for the Service alone;
    `pod` has further fields of the template's spec, as Kubernetes writes them.
    """
    template_annotations = {**(annotations or {}), **autoscaling.annotations()}
    if progress_deadline is not None:
        template_annotations[PROGRESS_DEADLINE_ANNOTATION] = progress_deadline
    spec: dict[str, Any] = {"containers": [_container(container)], **(pod or {})}
    if container_concurrency is not None:
        spec["containerConcurrency"] = container_concurrency
    if timeout_seconds is not None:
        spec["timeoutSeconds"] = timeout_seconds
        if response_start_timeout_seconds is None and timeout_seconds > FIRST_BYTE_TIMEOUT_S:
            response_start_timeout_seconds = timeout_seconds
    if response_start_timeout_seconds is not None:
        spec["responseStartTimeoutSeconds"] = response_start_timeout_seconds
    template_metadata: dict[str, Any] = {}
    if labels:
        template_metadata["labels"] = dict(labels)
    if template_annotations:
        template_metadata["annotations"] = template_annotations
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if labels or service_labels:
        metadata["labels"] = {**(labels or {}), **(service_labels or {})}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"template": {"metadata": template_metadata, "spec": spec}},
    }


def _container(container: Container) -> dict[str, Any]:
    resources = {"requests": dict(container.requests), "limits": dict(container.limits)}
    fields: dict[str, Any] = {
        "command": list(container.command),
        "args": list(container.args),
        "env": [{"name": key, "value": value} for key, value in container.env.items()],
        "envFrom": [dict(entry) for entry in container.env_from],
        "resources": {key: value for key, value in resources.items() if value},
        "readinessProbe": container.ready_path and {"httpGet": {"path": container.ready_path}},
        "livenessProbe": container.liveness_probe and dict(container.liveness_probe),
        "volumeMounts": [dict(mount) for mount in container.volume_mounts],
        "securityContext": dict(container.security_context),
    }
    return {"image": container.image} | {key: value for key, value in fields.items() if value}
