"""Traffic targets of Services and Routes: defaults and validation (pure).

After knative.dev/serving, `pkg/apis/serving/v1/route_{defaults,validation}.go`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from knative.autoscaling.annotations import FieldError
from knative.client.resources import Object
from knative.labels import ROLLOUT_DURATION_ANNOTATIONS
from knative.literals import parse_duration
from knative.local.apiserver.admission import field_errors
from knative.local.apiserver.admission.field_errors import Errors


def fill_traffic(traffic: Sequence[Object]) -> None:
    """Let targets without a Revision's name follow the newest Revision, in place."""
    for entry in traffic:
        if "latestRevision" not in entry:
            entry["latestRevision"] = not entry.get("revisionName")


def traffic_errors(traffic: Sequence[Mapping[str, Any]], *, of_service: bool) -> Errors:
    """All errors in the targets of a Service or a Route; paths begin with `traffic`."""
    total = 0
    tags: dict[str, int] = {}
    for index, entry in enumerate(traffic):
        yield from field_errors.via(f"traffic[{index}]", _entry(entry, of_service=of_service))
        total += entry.get("percent") or 0
        tag = entry.get("tag")
        if tag:
            if tag in tags:
                yield FieldError(
                    f'Multiple definitions for "{tag}"',
                    (f"traffic[{tags[tag]}].tag", f"traffic[{index}].tag"),
                )
            tags.setdefault(tag, index)
    if total != 100:
        yield FieldError(f"Traffic targets sum to {total}, want 100", ("traffic",))


def _entry(entry: Mapping[str, Any], *, of_service: bool) -> Errors:
    latest, revision = entry.get("latestRevision"), entry.get("revisionName")
    configuration = entry.get("configurationName")
    if of_service and configuration:
        yield field_errors.disallowed("configurationName")
    elif not of_service:
        if revision and configuration:
            yield field_errors.several_of("revisionName", "configurationName")
        elif not revision and not configuration:
            yield field_errors.none_of("revisionName", "configurationName")
    if latest is not None and bool(latest) is bool(revision):
        yield field_errors.invalid(latest, "latestRevision")
    percent = entry.get("percent")
    if percent is not None and not 0 <= percent <= 100:
        yield field_errors.out_of_bounds(percent, 0, 100, "percent")
    if entry.get("url"):
        yield field_errors.disallowed("url")
    if entry.get("tag") and not field_errors.LABEL_1035.fullmatch(str(entry["tag"])):
        yield FieldError(field_errors.NOT_LABEL_1035, ("tag",))


def rollout_duration_errors(annotations: Mapping[str, str]) -> Errors:
    """Errors in the annotation for gradual rollouts (`pkg/apis/serving/metadata_validation.go`)."""
    key = next((key for key in ROLLOUT_DURATION_ANNOTATIONS if annotations.get(key)), None)
    if key is None:
        return
    text = annotations[key]
    seconds = parse_duration(text)
    if seconds is None:
        yield field_errors.invalid(text, key)
    elif seconds.denominator != 1:
        yield FieldError(f"rollout-duration={text} is not at second precision", (key,))
    elif seconds < 0:
        yield FieldError(f"rollout-duration={text} must be positive", (key,))
