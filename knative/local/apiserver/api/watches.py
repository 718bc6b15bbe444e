"""Watches: changes of the store as a stream of JSON lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from knative.client.resources import Object
from knative.local.apiserver import errors
from knative.local.apiserver.api.negotiation import Form
from knative.local.apiserver.api.selection import Selection
from knative.local.apiserver.api.tables import table
from knative.local.apiserver.kind_info import KindInfo
from knative.local.apiserver.records import Change, EventType, HistoryExpired, Record, StoreError
from knative.local.apiserver.store import Store

Renderer = Callable[[EventType, Record], bytes]
"""Makes one line of the stream."""

_BOOKMARK_SECONDS = 60.0
_QUEUE = 10_000
"""Events that a slow reader may be behind; one further behind must list again."""


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How a watch was asked for."""

    since: int | None
    """The resourceVersion to go on from; None: begin with the objects that exist."""
    bookmarks: bool
    initial_events: bool
    """Whether a bookmark says where the objects that exist end and the changes begin."""
    timeout_s: float
    render: Renderer


def renderer(info: KindInfo, form: Form, now: Callable[[], datetime], include: str) -> Renderer:
    """What renders events in this form; `include` is the query parameter `includeObject` of Tables."""
    if form is Form.OBJECT:
        return _object_event

    def table_event(kind: EventType, record: Record) -> bytes:
        metadata: Object = {"resourceVersion": str(record.version)}
        return _line(kind, table(info, [record], now(), include=include, metadata=metadata))

    return table_event


class WatchBroadcaster:
    """Hands each change of the store to all watches, which end when the platform stops."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queues: set[asyncio.Queue[Change | None]] = set()
        store.subscribe(self._changed)
        store.on_reset(self.end)

    def end(self) -> None:
        """End all watches; their clients list again."""
        for queue in self._queues:
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(None)

    async def stream(self, selection: Selection, options: WatchOptions) -> AsyncIterator[bytes]:
        """The lines of one watch.

        A version from before the history that the store keeps is answered as in Kubernetes: with an ERROR
        event that holds a Status of code 410, upon which clients list again.
        """
        queue: asyncio.Queue[Change | None] = asyncio.Queue(_QUEUE)
        backlog: Sequence[Change] = ()
        existing: list[Record] = []
        if options.since is None:
            found = self._store.list(selection.info.resource, selection.namespace)
            existing = [record for record in found if selection.has(record)]
        else:
            try:
                backlog = self._store.since(options.since)
            except HistoryExpired as problem:
                yield _expired(str(problem))
                return
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
            return  # changes that the disk refused are undone; the client lists again
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
        while (now := loop.time()) < end:
            if options.bookmarks and now >= next_bookmark:
                yield _bookmark(selection.info, position)
                next_bookmark = now + _BOOKMARK_SECONDS
            try:
                async with asyncio.timeout_at(min(end, next_bookmark) if options.bookmarks else end):
                    change = await queue.get()
            except TimeoutError:
                continue
            if change is None:
                return
            if queue.qsize() >= _QUEUE - 1:
                yield _expired("the watch fell too far behind")
                return
            position = change.version
            if (event := selection.event(change)) is not None:
                await self._store.durable(change.version)
                yield options.render(*event)

    def _changed(self, change: Change) -> None:
        for queue in self._queues:
            if not queue.full():  # its reader sees that it is full, and ends
                queue.put_nowait(change)


def _object_event(kind: EventType, record: Record) -> bytes:
    """From the bytes that the store keeps of the object."""
    return b'{"type":"' + kind.value.encode() + b'","object":' + record.raw + b"}\n"


def _bookmark(info: KindInfo, version: int, annotations: Object | None = None) -> bytes:
    res = info.resource
    metadata: Object = {"resourceVersion": str(version), "creationTimestamp": None}
    if annotations:
        metadata["annotations"] = annotations
    return _line("BOOKMARK", {"kind": res.kind, "apiVersion": res.api_version, "metadata": metadata})


def _expired(message: str) -> bytes:
    return _line("ERROR", errors.expired(message).status())


def _line(kind: str, obj: Object) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"
