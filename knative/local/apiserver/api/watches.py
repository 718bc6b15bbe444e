"""WatchBroadcaster: the store's history and future as a stream of JSON lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from knative.client.resources import Object
from knative.local.apiserver import errors
from knative.local.apiserver.api.representations import Form, Representation, partial
from knative.local.apiserver.api.selectors import Predicate
from knative.local.apiserver.api.tables import table as make_table
from knative.local.apiserver.kinds import KindInfo
from knative.local.apiserver.store import Change, EventType, HistoryExpired, Record, Store, StoreError

_BOOKMARK_SECONDS = 60.0
_QUEUE = 10_000  # events a slow reader may be behind before it is sent away to list again


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects a list or watch is about."""

    info: KindInfo
    namespace: str | None
    matches: Predicate

    def has(self, record: Record | None) -> bool:
        """Whether the object belongs."""
        return (
            record is not None
            and record.key.resource == self.info.resource
            and (self.namespace is None or record.key.namespace == self.namespace)
            and self.matches(record.obj)
        )

    def event(self, change: Change) -> tuple[EventType, Record] | None:
        """What the change means to someone who sees only these objects."""
        now = change.type is not EventType.DELETED and self.has(change.record)
        before = self.has(change.before)
        if now:
            return (EventType.MODIFIED if before else EventType.ADDED), change.record
        if before:
            return EventType.DELETED, change.record
        return None


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How a watch was asked for."""

    since: int | None
    """The resourceVersion to go on from; None: begin with what exists."""
    bookmarks: bool
    initial_events: bool
    timeout_s: float
    render: Callable[[EventType, Record], bytes]


def renderer(
    info: KindInfo, view: Representation, now: Callable[[], datetime], include: str
) -> Callable[[EventType, Record], bytes]:
    """What makes a line of the stream in this view; `include` is the query parameter includeObject."""
    match view.form:
        case Form.OBJECT:
            return _object_event
        case Form.METADATA:
            return lambda kind, record: _line(kind.value, partial(record, view.version))
        case Form.TABLE:
            return lambda kind, record: _line(
                kind.value,
                make_table(
                    info,
                    [record],
                    now(),
                    include=include,
                    version=view.version,
                    metadata={"resourceVersion": str(record.version)},
                ),
            )


def _object_event(kind: EventType, record: Record) -> bytes:
    """From the object's stored bytes."""
    return b'{"type":"' + kind.value.encode() + b'","object":' + record.raw + b"}\n"


class WatchBroadcaster:
    """All open watches, so that they can be ended when the platform stops."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queues: set[asyncio.Queue[Change | None]] = set()
        store.subscribe(self._changed)
        store.on_reset(self.end)

    def _changed(self, change: Change) -> None:
        for queue in self._queues:
            if queue.full():
                continue  # its reader finds the gap and sends the client to list again
            queue.put_nowait(change)

    def end(self) -> None:
        """End all watches; their clients come back."""
        for queue in self._queues:
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(None)

    async def stream(self, selection: Selection, options: WatchOptions) -> AsyncIterator[bytes]:
        """The lines of one watch.

        Raises:
            ApiError: 410, before the first line, when `since` is too long ago.
        """
        queue: asyncio.Queue[Change | None] = asyncio.Queue(_QUEUE)
        try:
            backlog: Sequence[Change] = self._store.since(options.since) if options.since is not None else ()
        except HistoryExpired as problem:
            raise errors.expired(str(problem)) from problem
        existing = (
            [
                record
                for record in self._store.list(selection.info.resource, selection.namespace)
                if selection.has(record)
            ]
            if options.since is None
            else []
        )
        position = self._store.version
        self._queues.add(queue)
        try:
            await self._store.durable(position)
            for record in existing:
                yield options.render(EventType.ADDED, record)
            for change in backlog:
                if (event := selection.event(change)) is not None:
                    yield options.render(*event)
            if options.initial_events:
                yield _bookmark(selection.info, position, {"k8s.io/initial-events-end": "true"})
            async for line in self._follow(queue, selection, options, position):
                yield line
        except StoreError:
            return  # what was not yet told is undone; the client lists again
        finally:
            self._queues.discard(queue)

    async def _follow(
        self,
        queue: asyncio.Queue[Change | None],
        selection: Selection,
        options: WatchOptions,
        position: int,
    ) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        end = loop.time() + options.timeout_s
        next_bookmark = loop.time() + _BOOKMARK_SECONDS
        while True:
            now = loop.time()
            if now >= end:
                return
            if options.bookmarks and now >= next_bookmark:
                yield _bookmark(selection.info, position)
                next_bookmark = now + _BOOKMARK_SECONDS
            wake_at = min(end, next_bookmark) if options.bookmarks else end
            try:
                async with asyncio.timeout_at(wake_at):
                    change = await queue.get()
            except TimeoutError:
                continue
            if change is None:
                return
            if queue.qsize() >= _QUEUE - 1:
                yield _line("ERROR", errors.expired("the watch fell too far behind").status())
                return
            position = change.version
            if (event := selection.event(change)) is not None:
                await self._store.durable(change.version)
                yield options.render(*event)


def _bookmark(info: KindInfo, version: int, annotations: Object | None = None) -> bytes:
    res = info.resource
    metadata: Object = {"resourceVersion": str(version), "creationTimestamp": None}
    if annotations:
        metadata["annotations"] = annotations
    return _line("BOOKMARK", {"kind": res.kind, "apiVersion": res.api_version, "metadata": metadata})


def _line(kind: str, obj: Object) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"
