"""A Configuration: the Revision its latest template wants, and which Revision is newest and ready (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from knative.client.resources import REVISION, Object
from knative.config_maps import ConfigError, Reader
from knative.labels import (
    CONFIGURATION_GENERATION_LABEL,
    CONFIGURATION_LABEL,
    CONFIGURATION_UID_LABEL,
    CREATOR_ANNOTATION,
    LAST_MODIFIER_ANNOTATION,
    NO_GC_ANNOTATION,
    ROUTING_STATE_LABEL,
    ROUTING_STATE_MODIFIED_ANNOTATION,
    SERVICE_LABEL,
    SERVICE_UID_LABEL,
)
from knative.literals import LiteralError, read_duration, read_integer, read_unsigned
from knative.local import objects
from knative.local.apiserver.metadata import USER
from knative.local.controllers.reconcilers import conditions

_T = TypeVar("_T")


def revision_name(config: Mapping[str, Any]) -> str:
    """The template's own name for the Revision, or Knative's `NAME-00001`."""
    given = (config["spec"]["template"].get("metadata") or {}).get("name")
    return str(given or f"{config['metadata']['name']}-{config['metadata']['generation']:05d}")


def revision(config: Mapping[str, Any], now: str) -> Object:
    """The Revision of the Configuration's present generation."""
    meta, template = config["metadata"], config["spec"]["template"]
    template_meta = template.get("metadata") or {}
    owner_labels = objects.labels_of(config)
    labels = {
        **(template_meta.get("labels") or {}),
        CONFIGURATION_LABEL: meta["name"],
        CONFIGURATION_GENERATION_LABEL: str(meta["generation"]),
        CONFIGURATION_UID_LABEL: meta["uid"],
        ROUTING_STATE_LABEL: "pending",
    }
    for key in (SERVICE_LABEL, SERVICE_UID_LABEL):
        if key in owner_labels:
            labels[key] = owner_labels[key]
    annotations = {
        **(template_meta.get("annotations") or {}),
        ROUTING_STATE_MODIFIED_ANNOTATION: now,
        CREATOR_ANNOTATION: objects.annotations_of(config).get(LAST_MODIFIER_ANNOTATION, USER),
    }
    return objects.typed(
        REVISION,
        {
            "metadata": {
                "name": revision_name(config),
                "namespace": meta["namespace"],
                "labels": labels,
                "annotations": annotations,
                "ownerReferences": [objects.owner_reference(config)],
            },
            "spec": objects.clone(template["spec"]),
        },
    )


def generation(revision_obj: Mapping[str, Any]) -> int:
    """The Configuration's generation that a Revision was made for."""
    return int(objects.labels_of(revision_obj).get(CONFIGURATION_GENERATION_LABEL, "0"))


def of_generation(
    config: Mapping[str, Any], revisions: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The Revision that stands for the Configuration's present generation."""
    wanted = config["metadata"]["generation"]
    return next((item for item in revisions if generation(item) == wanted), None)


def status(
    config: Mapping[str, Any],
    revisions: Sequence[Mapping[str, Any]],
    now: str,
    *,
    problem: str | None = None,
) -> Object:
    """The Configuration's status; `problem` says why its Revision could not be made."""
    latest = of_generation(config, revisions)
    old = config.get("status") or {}
    result: Object = {}
    if latest is not None:
        result["latestCreatedRevisionName"] = objects.name_of(latest)
    elif old.get("latestCreatedRevisionName"):
        result["latestCreatedRevisionName"] = old["latestCreatedRevisionName"]
    ready_name = _latest_ready(revisions, old.get("latestReadyRevisionName"))
    if ready_name is not None:
        result["latestReadyRevisionName"] = ready_name
    result["conditions"] = conditions.written([_ready(latest, problem)], conditions.before(config), now)
    result["observedGeneration"] = config["metadata"]["generation"]
    return result


@dataclass(frozen=True, slots=True)
class Retention:
    """How long Revisions are kept that no route leads to: `config-gc`, with Knative's defaults."""

    since_create: timedelta | None = timedelta(hours=48)
    """None: disabled, age alone keeps none."""
    since_last_active: timedelta | None = timedelta(hours=15)
    min_non_active: int = 20
    max_non_active: int | None = 1000
    """None: disabled, however many there are."""


def parse_retention(data: Mapping[str, str]) -> Retention:
    """The settings of `config-gc`, after pkg/gc/config.go of Knative Serving.

    Raises:
        ConfigError: Knative refuses them, with its text.
    """
    default = Retention()
    least = Reader(data, "failed to parse data: ")(
        "min-non-active-revisions", read_integer, default.min_non_active
    )

    def read(key: str, convert: Callable[[str], _T], fallback: _T | None) -> _T | None:
        text = data.get(key, "").strip()
        if text == "":
            return fallback
        if text.lower() == "disabled":
            return None
        try:
            return convert(text)
        except LiteralError as problem:
            raise ConfigError(f"failed to parse {key}: {problem}") from problem

    retention = Retention(
        read("retain-since-create-time", _duration, default.since_create),
        read("retain-since-last-active-time", _duration, default.since_last_active),
        least,
        read("max-non-active-revisions", read_unsigned, default.max_non_active),
    )
    most = retention.max_non_active
    if least < 0:
        raise ConfigError(f"min-non-active-revisions must be non-negative, was: {least}")
    if most is not None and least > most:
        raise ConfigError(f"min-non-active-revisions({least}) must be <= max-non-active-revisions({most})")
    return retention


def _duration(text: str) -> timedelta:
    seconds = read_duration(text)
    if seconds < 0:
        raise LiteralError("must be non-negative")
    return timedelta(seconds=float(seconds))


def collectable(
    config: Mapping[str, Any],
    revisions: Sequence[Mapping[str, Any]],
    now: datetime,
    retention: Retention = Retention(),  # frozen
) -> list[str]:
    """Names of the Revisions that may go: not routed, not the latest, old, and more than are always kept.

    After pkg/reconciler/gc/gc.go of Knative Serving: first those out of use for long, then the oldest above
    the greatest number.
    """
    ready = (config.get("status") or {}).get("latestReadyRevisionName")
    idle = sorted(
        (
            item
            for item in revisions
            if objects.labels_of(item).get(ROUTING_STATE_LABEL) == "reserve"
            and objects.name_of(item) != ready
            and objects.annotations_of(item).get(NO_GC_ANNOTATION, "").lower() != "true"
        ),
        key=_last_active,
    )
    spare = len(idle) - retention.min_non_active
    if spare <= 0:
        return []
    gone = [objects.name_of(item) for item in idle if _is_stale(item, now, retention)][:spare]
    if len(gone) == spare or retention.max_non_active is None:
        return gone
    left = [name for item in idle if (name := objects.name_of(item)) not in gone]
    return gone + left[: max(0, len(left) - retention.max_non_active)]


def _is_stale(revision_obj: Mapping[str, Any], now: datetime, retention: Retention) -> bool:
    created = objects.parse_timestamp(revision_obj["metadata"]["creationTimestamp"])
    limits = ((created, retention.since_create), (_last_active(revision_obj), retention.since_last_active))
    # Where both are disabled nothing is ever stale.
    counting = [(since, limit) for since, limit in limits if limit is not None]
    return bool(counting) and all(now - since >= limit for since, limit in counting)


def _last_active(revision_obj: Mapping[str, Any]) -> datetime:
    """When its routing state last changed, else when it was made."""
    text = objects.annotations_of(revision_obj).get(ROUTING_STATE_MODIFIED_ANNOTATION)
    return objects.parse_timestamp(text or revision_obj["metadata"]["creationTimestamp"])


def _latest_ready(revisions: Sequence[Mapping[str, Any]], before: str | None) -> str | None:
    """The newest Revision that is ready, never older than the one before (which may be away for a moment)."""
    best: tuple[int, str] | None = None
    for item in revisions:
        if objects.condition_status(item) == "True" or objects.name_of(item) == before:
            candidate = (generation(item), objects.name_of(item))
            best = candidate if best is None else max(best, candidate)
    return None if best is None else best[1]


def _ready(latest: Mapping[str, Any] | None, problem: str | None) -> conditions.Condition:
    if problem is not None:
        return conditions.false("Ready", "RevisionFailed", problem)
    found = conditions.named(latest)
    if latest is None or found is None:
        return conditions.unknown("Ready")
    if found.status == "False":
        message = f'Revision "{objects.name_of(latest)}" failed with message: {found.message}.'
        return conditions.false("Ready", "RevisionFailed", message)
    if found.status == "Unknown":
        return conditions.unknown("Ready")
    return conditions.true("Ready")
