"""What the store holds: addresses, versions and changes of objects."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from knative.client.resources import Object, Resource


class StoreError(Exception):
    """The disk did not take a change; nothing of it was kept."""


class HistoryExpired(Exception):  # noqa: N818  # an answer, not a failure
    """The changes since that resourceVersion are no longer known."""


class VersionConflict(Exception):  # noqa: N818  # an answer, not a failure
    """The object is not at the resourceVersion that the change was based on."""


class Key(NamedTuple):
    """An object's address."""

    resource: Resource
    namespace: str
    name: str


class EventType(StrEnum):
    """What happened to an object, in a watch's words."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Record:
    """One version of one object. `obj` is shared: never change it, `objects.clone` it."""

    key: Key
    version: int
    obj: Object
    raw: bytes
    """`obj` as JSON, so that lists and watches need not encode it again."""


@dataclass(frozen=True, slots=True)
class Change:
    """One step of the store's history; `before` is what the object was."""

    type: EventType
    record: Record
    before: Record | None

    @property
    def version(self) -> int:
        """The resourceVersion that this change made."""
        return self.record.version
