"""A Revision: its PodAutoscaler, its pods, and what they say about it (pure).

Which observation becomes which condition follows pkg/reconciler/revision/reconcile_resources.go and
pkg/apis/serving/v1/revision_lifecycle.go.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from knative.autoscaling import annotations as vocabulary
from knative.autoscaling.config import DEFAULT_CONFIG, Config
from knative.client.resources import POD, POD_AUTOSCALER, Object
from knative.config_maps import ConfigError, Reader
from knative.labels import (
    CONFIGURATION_LABEL,
    LAST_PINNED_ANNOTATION,
    NO_GC_ANNOTATION,
    PROGRESS_DEADLINE_ANNOTATION,
    REVISION_LABEL,
    REVISION_UID_LABEL,
    ROUTES_ANNOTATION,
    ROUTING_STATE_LABEL,
    ROUTING_STATE_MODIFIED_ANNOTATION,
    SERVICE_LABEL,
)
from knative.literals import format_duration, parse_duration, read_duration
from knative.local import containers, objects
from knative.local.controllers.reconcilers import conditions
from knative.local.controllers.reconcilers.conditions import Condition
from knative.local.routing import RevisionKey, RevisionSpec

PROGRESS_DEADLINE_S = 600.0
CONTAINER = "user-container"
_DEPLOYING = "Deploying"
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
        ConfigError: Knative refuses it, with its text.
    """
    read = Reader(data)
    seconds = read("progressDeadline", read_duration, Fraction(PROGRESS_DEADLINE_S))  # as it once was called
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
    """How long the Revision may take to its first readiness."""
    text = objects.annotations_of(revision).get(PROGRESS_DEADLINE_ANNOTATION)
    seconds = parse_duration(text) if text else None
    return default if seconds is None else float(seconds)


def is_reachable(revision: Mapping[str, Any]) -> bool:
    """Whether requests can reach it; infrastructure that failed counts as not."""
    for kind in ("ResourcesAvailable", "ContainerHealthy"):
        if objects.condition_status(revision, kind) == "False":
            return False
    return objects.labels_of(revision).get(ROUTING_STATE_LABEL) != "reserve"


def routing_spec(
    revision: Mapping[str, Any],
    annotations: Mapping[str, str],
    config: Config = DEFAULT_CONFIG,
    deadline_s: float = PROGRESS_DEADLINE_S,
) -> RevisionSpec:
    """What the data path and the autoscaler need to know.

    Args:
        revision: the Revision.
        annotations: its PodAutoscaler's.
        config: what counts where they say nothing.
        deadline_s: the progress deadline where the Revision names none.
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
        autoscaling=vocabulary.parse(annotations, config, admitted=True),
        scaling_config=config,
        reachable=is_reachable(revision),
        progress_deadline_s=progress_deadline_s(revision, deadline_s),
    )


def pod_autoscaler(
    revision: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
    config: Config = DEFAULT_CONFIG,
) -> Object:
    """The PodAutoscaler that a Revision wants; it follows the Revision's annotations.

    Class and metric are filled in when it is made (`before` is the one that is there) and then stay,
    whatever becomes of the default class: after PodAutoscaler.SetDefaults and syncAnnotationsForKPA.
    Class hpa becomes kpa, the one autoscaler of this platform.
    """
    marks = for_autoscaler(objects.annotations_of(revision))
    kept = objects.annotations_of(before) if before is not None else {}
    marks.setdefault(vocabulary.CLASS, kept.get(vocabulary.CLASS, config.pod_autoscaler_class))
    marks = vocabulary.by_kpa(marks)
    metric = "concurrency" if marks[vocabulary.CLASS] == vocabulary.KPA else ""
    marks.setdefault(vocabulary.METRIC, kept.get(vocabulary.METRIC, metric))
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
                "annotations": marks,
                "ownerReferences": [objects.owner_reference(revision)],
            },
            "spec": spec,
        },
    )


def for_autoscaler(annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations of a Revision that its PodAutoscaler has too."""
    return {key: value for key, value in annotations.items() if key not in _OF_THE_REVISION_ALONE}


def _for_pods(annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations of a Revision that its pods have too: none that configures the autoscaler."""
    return {
        key: value
        for key, value in for_autoscaler(annotations).items()
        if not key.startswith(vocabulary.GROUP)
    }


def first_replicas(annotations: Mapping[str, str], config: Config) -> int:
    """What a Revision's Deployment begins with: an initial scale of zero counts here whatever is allowed."""
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
    told = [
        {"name": "K_REVISION", "value": meta["name"]},
        {"name": "K_CONFIGURATION", "value": labels.get(CONFIGURATION_LABEL, "")},
        {"name": "K_SERVICE", "value": labels.get(SERVICE_LABEL, "")},
    ]
    contained = objects.clone(spec["containers"])
    for container in contained:
        container["name"] = container.get("name") or CONTAINER
        container["env"] = [*(container.get("env") or []), *told]
    pod_spec: Object = {"containers": contained, "restartPolicy": "Always"}
    if spec.get("initContainers"):  # which are told nothing of Knative
        pod_spec["initContainers"] = objects.clone(spec["initContainers"])
    for key in ("volumes", "serviceAccountName"):
        if spec.get(key):
            pod_spec[key] = objects.clone(spec[key])
    pod_spec["terminationGracePeriodSeconds"] = int(spec.get("timeoutSeconds") or 300)
    # A ReplicaSet's name in the middle, as on a cluster; long names are cut the way Kubernetes cuts them.
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


def status(
    revision: Mapping[str, Any],
    autoscaler: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
    now: str,
    *,
    problem: Condition | None = None,
) -> Object:
    """The Revision's status; `problem` says that it can't run on this platform at all."""
    seen = _observed(revision, autoscaler, pods) if problem is None else [problem]
    by_type = {condition.type: condition for condition in seen}
    for kind in ("ContainerHealthy", "ResourcesAvailable"):
        by_type.setdefault(kind, conditions.unknown(kind, _DEPLOYING))
    by_type.setdefault("Active", conditions.unknown("Active", _DEPLOYING, severity="Info"))
    # The order says which reason Ready shows when several are False.
    ordered = [by_type[kind] for kind in ("ContainerHealthy", "ResourcesAvailable", "Active")]
    result: Object = {
        "conditions": conditions.written(conditions.with_ready(ordered), conditions.before(revision), now),
        "containerStatuses": _images(revision["spec"]["containers"]),
        "observedGeneration": revision["metadata"]["generation"],
    }
    if initial := revision["spec"].get("initContainers"):
        result["initContainerStatuses"] = _images(initial)
    scale = (autoscaler or {}).get("status") or {}
    for field, source in (("actualReplicas", "actualScale"), ("desiredReplicas", "desiredScale")):
        if scale.get(source) is not None:
            result[field] = scale[source]
    return result


def _images(listed: Sequence[Mapping[str, Any]]) -> list[Object]:
    """What runs in each container. Nothing is pulled here, so a tag is never resolved to a digest."""
    return [
        {
            "name": container.get("name") or CONTAINER,
            **({"imageDigest": container["image"]} if "@sha256:" in str(container.get("image")) else {}),
        }
        for container in listed
    ]


def _observed(
    revision: Mapping[str, Any],
    autoscaler: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
) -> list[Condition]:
    found: dict[str, Condition] = {}
    for kind in ("ContainerHealthy", "ResourcesAvailable"):
        known = conditions.named(revision, kind)
        if known is not None:
            found[kind] = known
    living = [item for item in pods if not item["metadata"].get("deletionTimestamp")]
    available = any(objects.condition_status(item) == "True" for item in living)
    if living and not available:
        for condition in _pod_problems(living[0]):
            found[condition.type] = condition
    elif available:
        if objects.condition_status(revision, "ContainerHealthy") == "False":
            found["ContainerHealthy"] = conditions.true("ContainerHealthy")
        if objects.condition_status(revision, "ResourcesAvailable") == "False":
            found["ResourcesAvailable"] = conditions.true("ResourcesAvailable")
    found |= _from_autoscaler(autoscaler, found)
    return list(found.values())


def _pod_problems(pod_obj: Mapping[str, Any]) -> list[Condition]:
    """What one replica that isn't ready tells about all."""
    problems: list[Condition] = []
    scheduled = conditions.named(pod_obj, "PodScheduled")
    if scheduled is not None and scheduled.status == "False":
        problems.append(conditions.false("ResourcesAvailable", scheduled.reason, scheduled.message))
    elif scheduled is not None:
        problems.append(conditions.unknown("ResourcesAvailable", _DEPLOYING))
    state = pod_obj.get("status") or {}
    # Knative looks at the init containers never, and says nothing until its deadline.
    initial = [item for item in state.get("initContainerStatuses") or () if not item.get("ready")]
    for container in (*initial, *(state.get("containerStatuses") or ())):
        terminated = (container.get("lastState") or {}).get("terminated")
        waiting = (container.get("state") or {}).get("waiting") or {}
        if terminated:
            said = terminated.get("message") or (
                "" if terminated["exitCode"] else "container exited with no error"
            )
            reason = f"ExitCode{terminated['exitCode']}"
            problems.append(conditions.false("ContainerHealthy", reason, f"Container failed with: {said}"))
            break
        if waiting.get("reason") in ("CreateContainerConfigError", "CreateContainerError"):
            problems.append(
                conditions.false("ContainerHealthy", waiting["reason"], waiting.get("message", ""))
            )
            break
    return problems


def _from_autoscaler(
    autoscaler: Mapping[str, Any] | None, found: Mapping[str, Condition]
) -> dict[str, Condition]:
    ready = conditions.named(autoscaler)
    if autoscaler is None or ready is None:
        return {"Active": conditions.unknown("Active", _DEPLOYING, severity="Info")}
    result: dict[str, Condition] = {}
    unavailable = any(
        (known := found.get(kind)) is not None and known.status == "False"
        for kind in ("ResourcesAvailable", "ContainerHealthy")
    )
    initialized = objects.condition_status(autoscaler, "ScaleTargetInitialized") == "True"
    active = conditions.named(autoscaler, "Active")
    if initialized and not unavailable:
        result["ResourcesAvailable"] = conditions.true("ResourcesAvailable")
        result["ContainerHealthy"] = conditions.true("ContainerHealthy")
    elif not initialized and not unavailable and active is not None and active.status == "False":
        result["ResourcesAvailable"] = conditions.false(
            "ResourcesAvailable", "ProgressDeadlineExceeded", "Initial scale was never achieved"
        )
    result["Active"] = Condition("Active", ready.status, ready.reason, ready.message, "Info")
    return result
