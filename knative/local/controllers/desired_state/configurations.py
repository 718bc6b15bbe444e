"""A Configuration: the Revision that its template asks for, and which Revisions are the latest (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from knative.client.resources import REVISION, Object
from knative.labels import (
    CONFIGURATION_GENERATION_LABEL,
    CONFIGURATION_LABEL,
    CONFIGURATION_UID_LABEL,
    CREATOR_ANNOTATION,
    LAST_MODIFIER_ANNOTATION,
    ROUTING_STATE_LABEL,
    ROUTING_STATE_MODIFIED_ANNOTATION,
    SERVICE_LABEL,
    SERVICE_UID_LABEL,
)
from knative.local import conditions, objects


def given_name(config: Mapping[str, Any]) -> str | None:
    """The name that the template gives its Revision; None: Knative names it."""
    return (config["spec"]["template"].get("metadata") or {}).get("name") or None


def revision_name(config: Mapping[str, Any]) -> str:
    """The Revision's name: the template's own, or Knative's `NAME-00001`."""
    return given_name(config) or f"{config['metadata']['name']}-{config['metadata']['generation']:05d}"


def revision(config: Mapping[str, Any], now: str) -> Object:
    """The Revision of the Configuration's present generation, created at `now` (RFC 3339)."""
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
    }
    if modifier := objects.annotations_of(config).get(LAST_MODIFIER_ANNOTATION):
        annotations[CREATOR_ANNOTATION] = modifier
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
    """The Configuration's generation for which a Revision was made."""
    return int(objects.labels_of(revision_obj).get(CONFIGURATION_GENERATION_LABEL, "0"))


def latest_created(
    config: Mapping[str, Any], revisions: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The Revision that stands for the present template, or None if it is still to be made.

    A template that names its Revision goes back to one of that name that it owns, if that was made from the
    same specification: this is how one rolls back (CheckNameAvailability of
    pkg/reconciler/configuration/configuration.go; annotations and labels are not compared).

    Args:
        config: the Configuration.
        revisions: those that it owns.
    """
    name = given_name(config)
    if name is not None:
        found = next((item for item in revisions if objects.name_of(item) == name), None)
        if found is not None and found["spec"] == config["spec"]["template"]["spec"]:
            return found
    wanted = config["metadata"]["generation"]
    return next(
        (item for item in revisions if generation(item) == wanted and name in (None, objects.name_of(item))),
        None,
    )


def status(
    config: Mapping[str, Any],
    revisions: Sequence[Mapping[str, Any]],
    now: str,
    *,
    problem: str | None = None,
) -> Object:
    """The Configuration's status; `problem` says why its Revision could not be made."""
    latest = latest_created(config, revisions)
    old = config.get("status") or {}
    result: Object = {}
    if latest is not None:
        result["latestCreatedRevisionName"] = objects.name_of(latest)
    elif old.get("latestCreatedRevisionName"):
        result["latestCreatedRevisionName"] = old["latestCreatedRevisionName"]
    ready_name = _latest_ready(latest, revisions, old.get("latestReadyRevisionName"))
    if ready_name is not None:
        result["latestReadyRevisionName"] = ready_name
    result["conditions"] = conditions.written([_ready(latest, problem)], conditions.before(config), now)
    result["observedGeneration"] = config["metadata"]["generation"]
    return result


def _latest_ready(
    latest: Mapping[str, Any] | None, revisions: Sequence[Mapping[str, Any]], before: str | None
) -> str | None:
    """The latest created Revision if it is ready, else the newest ready one that is not newer than it.

    The one `before` stays although it may be unready for a moment. One that is newer than the latest created
    was left behind by going back to an older name, and is not returned to.
    """
    if latest is not None:
        newest_allowed: int | None = generation(latest)
    elif before is not None:
        newest_allowed = -1  # the template's Revision could not be made: nothing moves
    else:
        newest_allowed = None
    candidates = [
        (generation(item), objects.name_of(item))
        for item in revisions
        if objects.name_of(item) == before
        or (
            objects.condition_status(item) == "True"
            and (newest_allowed is None or generation(item) <= newest_allowed)
        )
    ]
    if latest is not None and (generation(latest), objects.name_of(latest)) in candidates:
        return objects.name_of(latest)
    return max(candidates)[1] if candidates else None


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
