"""What the store holds: keys, versions and changes of objects."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from knative.client.resources import Object, Resource


class StoreError(Exception):
    """The disk refused a change, which was undone."""


class HistoryExpired(Exception):  # noqa: N818  # an answer, not a failure
    """The changes since that resourceVersion are no longer kept (or it lies in the future)."""


class VersionConflict(Exception):  # noqa: N818  # an answer, not a failure
    """The object is not at the resourceVersion that the change was based on."""


class Key(NamedTuple):
    """Under which the store keeps an object."""

    resource: Resource
    namespace: str
    """Empty for a cluster-wide kind."""
    name: str


class EventType(StrEnum):
    """What happened to an object, in the words of a watch."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Record:
    """One version of one object. `obj` is shared: copy it with `objects.clone` before a change."""

    key: Key
    version: int
    obj: Object
    raw: bytes
    """`obj` as JSON, so that lists and watches need not encode it again."""


@dataclass(frozen=True, slots=True)
class Change:
    """One step of the store's history; `before` is the object's previous version, if it had one."""

    type: EventType
    record: Record
    before: Record | None

    @property
    def version(self) -> int:
        """The resourceVersion that this change made."""
        return self.record.version
