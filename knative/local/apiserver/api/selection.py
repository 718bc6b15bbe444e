"""Which objects a list or a watch is about (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from knative.local.apiserver.api import selectors
from knative.local.apiserver.api.request_info import RequestInfo
from knative.local.apiserver.api.selectors import Predicate
from knative.local.apiserver.kind_info import KindInfo
from knative.local.apiserver.records import Change, EventType, Record


@dataclass(frozen=True, slots=True)
class Selection:
    """A kind, a namespace (None: all of them) and the predicate of the selectors."""

    info: KindInfo
    namespace: str | None
    matches: Predicate

    @classmethod
    def of(cls, parameters: Mapping[str, str], target: RequestInfo) -> Selection:
        """The selection that the query parameters of a request on a collection make.

        Raises:
            ApiError: 400, a selector can't be read.
        """
        by_label = selectors.labels(parameters.get("labelSelector"))
        by_field = selectors.fields(parameters.get("fieldSelector"), target.info.resource.plural)
        return cls(target.info, target.namespace, lambda obj: by_label(obj) and by_field(obj))

    def has(self, record: Record | None) -> bool:
        """Whether the object belongs to the selection."""
        return (
            record is not None
            and record.key.resource == self.info.resource
            and (self.namespace is None or record.key.namespace == self.namespace)
            and self.matches(record.obj)
        )

    def event(self, change: Change) -> tuple[EventType, Record] | None:
        """What a change means to a watch that sees only these objects; None: nothing.

        An object that begins to match is ADDED, and one that no longer matches is DELETED.
        """
        now = change.type is not EventType.DELETED and self.has(change.record)
        before = self.has(change.before)
        if now:
            return (EventType.MODIFIED if before else EventType.ADDED), change.record
        return (EventType.DELETED, change.record) if before else None
