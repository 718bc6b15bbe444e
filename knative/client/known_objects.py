"""What a watch remembers of the objects it has reported, to report the difference after a new list (pure)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Literal

from knative.client.resources import Object, Resource

WatchEventType = Literal["ADDED", "MODIFIED", "DELETED"]

_Key = tuple[str, str]
"""Namespace and name."""
_Version = tuple[str, str]
"""uid and resourceVersion."""


class KnownObjects:
    """The objects of one kind that a watch has reported: their keys and versions, not their content."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._known: dict[_Key, _Version] = {}
        self._missing: set[_Key] = set()

    def begin_list(self) -> None:
        """A new list begins; what it does not name has been deleted."""
        self._missing = set(self._known)

    def list_page(self, page: Sequence[Object]) -> Iterator[tuple[WatchEventType, Object]]:
        """The objects of a page of the list that are new, or of another version than the one reported."""
        for obj in page:
            key, version = _key(obj), _version(obj)
            self._missing.discard(key)
            before = self._known.get(key)
            self._known[key] = version
            if before is None:
                yield "ADDED", obj
            elif before[1] != version[1]:
                yield "MODIFIED", obj

    def end_list(self) -> Iterator[tuple[WatchEventType, Object]]:
        """The deletions that happened unseen: objects with metadata only, in their last known version."""
        for namespace, name in self._missing:
            uid, version = self._known.pop((namespace, name))
            meta = {"name": name, "uid": uid, "resourceVersion": version}
            if namespace:
                meta["namespace"] = namespace
            kind = self._resource
            yield "DELETED", {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta}
        self._missing = set()

    def change(self, kind: WatchEventType, obj: Object) -> None:
        """Remember an event of the watch itself."""
        if kind == "DELETED":
            self._known.pop(_key(obj), None)
        else:
            self._known[_key(obj)] = _version(obj)


def _key(obj: Object) -> _Key:
    meta = obj["metadata"]
    return sys.intern(meta.get("namespace", "")), sys.intern(meta["name"])


def _version(obj: Object) -> _Version:
    meta = obj["metadata"]
    return meta.get("uid", ""), meta.get("resourceVersion", "")
