"""Which Revisions may be deleted because nothing uses them, after pkg/gc and pkg/reconciler/gc of Knative."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from knative.config_maps import ConfigError, ConfigMapReader
from knative.labels import NO_GC_ANNOTATION, ROUTING_STATE_LABEL, ROUTING_STATE_MODIFIED_ANNOTATION
from knative.literals import LiteralError, read_duration, read_integer, read_unsigned
from knative.local import objects

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Retention:
    """How long Revisions are kept to which no Route sends requests: `config-gc`, with Knative's defaults."""

    since_create: timedelta | None = timedelta(hours=48)
    """None: disabled, a Revision's age alone does not keep it."""
    since_last_active: timedelta | None = timedelta(hours=15)
    """None: disabled."""
    min_non_active: int = 20
    max_non_active: int | None = 1000
    """None: disabled, there may be any number of them."""


def parse_retention(data: Mapping[str, str]) -> Retention:
    """The settings in the data of `config-gc`, after pkg/gc/config.go of Knative Serving.

    Raises:
        ConfigError: a value that Knative refuses, with Knative's message.
    """
    default = Retention()
    least = ConfigMapReader(data, "failed to parse data: ")(
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
    """Names of the Revisions that may be deleted, the least recently active first.

    Never those that a Route names, the latest ready one, those annotated with `no-gc`, and the
    `min_non_active` most recently active ones. Of the others, those that are stale; beyond `max_non_active`
    also those that are not.

    Args:
        config: the Configuration.
        revisions: its Revisions.
        now: the present instant.
        retention: what to keep.
    """
    ready = (config.get("status") or {}).get("latestReadyRevisionName")
    unused = sorted(
        (
            item
            for item in revisions
            if objects.labels_of(item).get(ROUTING_STATE_LABEL) == "reserve"
            and objects.name_of(item) != ready
            and objects.annotations_of(item).get(NO_GC_ANNOTATION, "").lower() != "true"
        ),
        key=_last_active,
    )
    spare = len(unused) - retention.min_non_active
    if spare <= 0:
        return []
    chosen = [objects.name_of(item) for item in unused if _is_stale(item, now, retention)][:spare]
    if len(chosen) == spare or retention.max_non_active is None:
        return chosen
    left = [name for item in unused if (name := objects.name_of(item)) not in chosen]
    return chosen + left[: max(0, len(left) - retention.max_non_active)]


def _is_stale(revision: Mapping[str, Any], now: datetime, retention: Retention) -> bool:
    created = objects.parse_timestamp(revision["metadata"]["creationTimestamp"])
    limits = ((created, retention.since_create), (_last_active(revision), retention.since_last_active))
    enabled = [(since, limit) for since, limit in limits if limit is not None]
    # With both disabled, nothing is ever stale.
    return bool(enabled) and all(now - since >= limit for since, limit in enabled)


def _last_active(revision: Mapping[str, Any]) -> datetime:
    """When its routing state last changed, else when it was created."""
    text = objects.annotations_of(revision).get(ROUTING_STATE_MODIFIED_ANNOTATION)
    return objects.parse_timestamp(text or revision["metadata"]["creationTimestamp"])
