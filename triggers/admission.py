"""Validating admission of Triggers: what the schema cannot say (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from triggers.spec.field_types import SpecError
from triggers.spec.trigger import TriggerSpec


def review_trigger(
    obj: Mapping[str, Any], old: Mapping[str, Any] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is wrong with a Trigger that is created, or updated from `old`, and what is probably not meant.

    An update that leaves the spec as it is passes: a Trigger that was stored before a rule existed must still
    get its status and metadata.
    """
    spec = obj.get("spec")
    if old is not None and old.get("spec") == spec:
        return (), ()
    try:
        parsed = TriggerSpec.parse(spec)
    except SpecError as error:
        return tuple(error.problems), ()
    if parsed.dead_letter is None:
        return (), ("spec.deadLetter is not set: messages that are given up stay in the queue",)
    return (), ()
