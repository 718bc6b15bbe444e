"""A Revision: its PodAutoscaler, its pods, and what activator and autoscaler need to know of it (pure)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from knative.autoscaling import annotations as vocabulary
from knative.autoscaling.config import DEFAULT_CONFIG, AutoscalerConfig
from knative.client.resources import POD, POD_AUTOSCALER, Object
from knative.config_maps import ConfigError, ConfigMapReader
from knative.labels import (
    ALLOWED_ORIGINS_ANNOTATION,
    CONFIGURATION_LABEL,
    LAST_PINNED_ANNOTATION,
    NO_GC_ANNOTATION,
    PILOTLIGHT,
    PROGRESS_DEADLINE_ANNOTATION,
    REVISION_LABEL,
    REVISION_UID_LABEL,
    ROUTES_ANNOTATION,
    ROUTING_STATE_LABEL,
    ROUTING_STATE_MODIFIED_ANNOTATION,
    SERVICE_LABEL,
    STAGE_LABEL,
)
from knative.literals import format_duration, parse_duration, read_duration
from knative.local import containers, objects
from knative.local.routing import RevisionKey, RevisionSpec

PROGRESS_DEADLINE_S = 600.0
"""The progress deadline where nothing sets one, in seconds."""
CONTAINER = "user-container"
"""The name of a container that has none."""
_OF_THE_REVISION_ALONE = frozenset(
    {ROUTING_STATE_MODIFIED_ANNOTATION, ROUTES_ANNOTATION, NO_GC_ANNOTATION, LAST_PINNED_ANNOTATION}
)
"""Annotations that Knative does not copy from a Revision to its PodAutoscaler and its pods."""


def key_of(obj: Mapping[str, Any]) -> RevisionKey:
    """The key of a Revision or its PodAutoscaler, which share a name."""
    return RevisionKey(objects.namespace_of(obj), objects.name_of(obj))


def parse_progress_deadline(data: Mapping[str, str]) -> float:
    """The progress deadline in the data of `config-deployment`, in seconds (pkg/deployment/config.go).

    Raises:
        ConfigError: a value that Knative refuses, with Knative's message.
    """
    read = ConfigMapReader(data)
    seconds = read("progressDeadline", read_duration, Fraction(PROGRESS_DEADLINE_S))  # its former name
    seconds = read("progress-deadline", read_duration, seconds)
    if seconds <= 0:
        raise ConfigError(
            f"progress-deadline cannot be a non-positive duration, was {format_duration(seconds)}"
        )
    if seconds.denominator != 1:
        raise ConfigError(
            f"progress-deadline must be rounded to a whole second, was: {format_duration(seconds)}"
        )
    return float(seconds)


def progress_deadline_s(revision: Mapping[str, Any], default: float = PROGRESS_DEADLINE_S) -> float:
    """Seconds that the Revision may take until it is ready for the first time."""
    text = objects.annotations_of(revision).get(PROGRESS_DEADLINE_ANNOTATION)
    seconds = parse_duration(text) if text else None
    return default if seconds is None else float(seconds)


def is_reachable(revision: Mapping[str, Any]) -> bool:
    """Whether requests can reach the Revision; not if its containers or its resources failed."""
    for kind in ("ResourcesAvailable", "ContainerHealthy"):
        if objects.condition_status(revision, kind) == "False":
            return False
    return objects.labels_of(revision).get(ROUTING_STATE_LABEL) != "reserve"


def routing_spec(
    revision: Mapping[str, Any],
    annotations: Mapping[str, str],
    config: AutoscalerConfig = DEFAULT_CONFIG,
    deadline_s: float = PROGRESS_DEADLINE_S,
) -> RevisionSpec:
    """What the activator and the autoscaler need to know.

    Args:
        revision: the Revision.
        annotations: its PodAutoscaler's.
        config: `config-autoscaler`, for what the annotations leave out.
        deadline_s: the progress deadline in seconds where the Revision sets none.
    """
    spec = revision["spec"]
    labels = objects.labels_of(revision)
    return RevisionSpec(
        key=key_of(revision),
        service=labels.get(SERVICE_LABEL) or labels.get(CONFIGURATION_LABEL, ""),
        container_concurrency=int(spec.get("containerConcurrency") or 0),
        timeout_s=float(spec.get("timeoutSeconds") or 300),
        response_start_timeout_s=spec.get("responseStartTimeoutSeconds") or None,
        idle_timeout_s=spec.get("idleTimeoutSeconds") or None,
        allowed_origins=_allowed_origins(revision),
        answers_health=labels.get(STAGE_LABEL) == "generate",
        autoscaling=vocabulary.parse(annotations, config, admitted=True),
        scaling_config=config,
        reachable=is_reachable(revision),
        progress_deadline_s=progress_deadline_s(revision, deadline_s),
    )


def _allowed_origins(revision: Mapping[str, Any]) -> frozenset[str] | None:
    text = objects.annotations_of(revision).get(ALLOWED_ORIGINS_ANNOTATION)
    if text is None:
        return None
    return frozenset(origin.strip().lower() for origin in text.split(",") if origin.strip())


def pod_autoscaler(
    revision: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
    config: AutoscalerConfig = DEFAULT_CONFIG,
) -> Object:
    """The PodAutoscaler of a Revision, with the Revision's annotations.

    Class and metric are set when it is made (`before` is the present one, if any) and then stay, whatever the
    default class becomes: after PodAutoscaler.SetDefaults and syncAnnotationsForKPA of Knative Serving. Class
    hpa becomes kpa, the only autoscaler of this platform.
    """
    annotations = for_autoscaler(objects.annotations_of(revision))
    kept = objects.annotations_of(before) if before is not None else {}
    annotations.setdefault(vocabulary.CLASS, kept.get(vocabulary.CLASS, config.pod_autoscaler_class))
    annotations = vocabulary.by_kpa(annotations)
    metric = "concurrency" if annotations[vocabulary.CLASS] == vocabulary.KPA else ""
    annotations.setdefault(vocabulary.METRIC, kept.get(vocabulary.METRIC, metric))
    meta, labels = revision["metadata"], objects.labels_of(revision)
    state = labels.get(ROUTING_STATE_LABEL)
    reachability = "Unreachable" if not is_reachable(revision) else "Reachable" if state == "active" else ""
    spec: Object = {
        "containerConcurrency": int(revision["spec"].get("containerConcurrency") or 0),
        "protocolType": "h2c" if containers.port_name(revision["spec"]) == "h2c" else "http1",
        "scaleTargetRef": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": f"{meta['name']}-deployment",
        },
    }
    if reachability:
        spec["reachability"] = reachability
    return objects.typed(
        POD_AUTOSCALER,
        {
            "metadata": {
                "name": meta["name"],
                "namespace": meta["namespace"],
                "labels": _child_labels(revision),
                "annotations": annotations,
                "ownerReferences": [objects.owner_reference(revision)],
            },
            "spec": spec,
        },
    )


def for_autoscaler(annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations of a Revision that its PodAutoscaler has too."""
    return {key: value for key, value in annotations.items() if key not in _OF_THE_REVISION_ALONE}


def _for_pods(annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations of a Revision that its pods have too.

    None that configures the autoscaler, and none of those that the platform itself writes on pods: who reads
    `pilotlight.dev/port` must not be led elsewhere by a Revision.
    """
    return {
        key: value
        for key, value in for_autoscaler(annotations).items()
        if not key.startswith((vocabulary.GROUP, f"{PILOTLIGHT}/"))
    }


def initial_replicas(annotations: Mapping[str, str], config: AutoscalerConfig) -> int:
    """The replicas that a Revision's Deployment is made with, an initial scale of zero included."""
    found = vocabulary.lookup(annotations, vocabulary.INITIAL_SCALE)
    return config.initial_scale if found is None else int(found[1])


def _child_labels(revision: Mapping[str, Any]) -> dict[str, str]:
    meta = revision["metadata"]
    kept = {key: value for key, value in objects.labels_of(revision).items() if key != ROUTING_STATE_LABEL}
    return {
        **kept,
        "app": meta["name"],
        REVISION_LABEL: meta["name"],
        REVISION_UID_LABEL: meta["uid"],
    }


def pod(revision: Mapping[str, Any], suffix: str) -> Object:
    """A new replica of a Revision; `suffix` makes its name unique."""
    meta, spec = revision["metadata"], revision["spec"]
    template = hashlib.sha256(meta["uid"].encode()).hexdigest()[:10]
    labels = objects.labels_of(revision)
    identity = [
        {"name": "K_REVISION", "value": meta["name"]},
        {"name": "K_CONFIGURATION", "value": labels.get(CONFIGURATION_LABEL, "")},
        {"name": "K_SERVICE", "value": labels.get(SERVICE_LABEL, "")},
    ]
    own_containers = objects.clone(spec["containers"])
    for container in own_containers:
        container["name"] = container.get("name") or CONTAINER
        container["env"] = [*(container.get("env") or []), *identity]
    pod_spec: Object = {"containers": own_containers, "restartPolicy": "Always"}
    for key in ("volumes", "serviceAccountName"):
        if spec.get(key):
            pod_spec[key] = objects.clone(spec[key])
    pod_spec["terminationGracePeriodSeconds"] = int(spec.get("timeoutSeconds") or 300)
    # Like a ReplicaSet's pod on a cluster, and shortened as Kubernetes shortens it.
    base = f"{meta['name']}-deployment-{template}"[: 63 - len(suffix) - 1]
    return objects.typed(
        POD,
        {
            "metadata": {
                "name": f"{re.sub(r'[^a-z0-9]+$', '', base)}-{suffix}",
                "namespace": meta["namespace"],
                "labels": _child_labels(revision),
                "annotations": _for_pods(objects.annotations_of(revision)),
                "ownerReferences": [objects.owner_reference(revision)],
            },
            "spec": pod_spec,
            "status": {"phase": "Pending", "conditions": []},
        },
    )
