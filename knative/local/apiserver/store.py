"""The objects of the local platform: read from memory, kept in SQLite.

The state is small (a few kilobytes per object) and one process owns it. Every read comes from memory, and
every change is made there first, under the next resourceVersion. A thread writes the changes to disk, many in
one transaction (WAL, `synchronous=FULL`), so that the disk never delays the event loop, which also carries
requests. The API waits for `durable()` before it acknowledges a change: what was acknowledged is on disk.

If the disk refuses a change (full, read-only, locked), memory returns to what the disk holds, everybody who
waits gets a `StoreError`, and watches end so that their clients list again. The next change tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from knative.client.resources import Object, Resource
from knative.local import objects
from knative.local.apiserver.database import Database
from knative.local.apiserver.records import (
    Change,
    EventType,
    HistoryExpired,
    Key,
    Record,
    StoreError,
    VersionConflict,
)

log = logging.getLogger(__name__)

_HISTORY = 4_000
"""Changes kept for watches that resume; a watch further behind must list again."""


class Store:
    """All objects. Every method but `close` is for the event loop that `open` was called with."""

    def __init__(self, path: Path, *, busy_s: float = 5.0) -> None:
        """`busy_s`: seconds that a write waits for another program that has locked the file."""
        self._database = Database(path, busy_s=busy_s)
        self._by_resource: dict[Resource, dict[tuple[str, str], Record]] = {}
        self._by_owner: dict[str, dict[Key, None]] = {}
        self._version = 0
        self._oldest = 0  # the history begins after this version
        self._history: deque[Change] = deque()
        self._listeners: list[Callable[[Change], None]] = []
        self._reset_listeners: list[Callable[[], None]] = []
        self._durable = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._epoch = 0  # counts how often memory returned to what the disk holds
        self._writes: queue.SimpleQueue[tuple[int, Change] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read all objects and start the thread that writes.

        Raises:
            StoreError: the file can't be opened, is of another format, or is damaged.
        """
        try:
            connection = self._database.connect()
            self._load(connection)
        except (sqlite3.Error, OSError, ValueError) as problem:
            raise StoreError(f"cannot read the state in {self._database.path}: {problem}") from problem
        self._loop = loop
        self._thread = threading.Thread(
            target=self._write_behind, args=(connection,), name="pilotlight-store", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Write what is still in the queue and close the file. Blocking."""
        if self._thread is not None:
            self._writes.put(None)
            self._thread.join()
            self._thread = None

    @property
    def version(self) -> int:
        """The newest resourceVersion."""
        return self._version

    def get(self, key: Key) -> Record | None:
        """One object, or None."""
        return self._by_resource.get(key.resource, {}).get((key.namespace, key.name))

    def list(self, resource: Resource, namespace: str | None = None) -> Sequence[Record]:
        """All objects of a kind (in one namespace, if given) in the order of namespace and name."""
        found = self._by_resource.get(resource, {})
        keys = sorted(found) if namespace is None else sorted(key for key in found if key[0] == namespace)
        return [found[key] for key in keys]

    def owned(self, uid: str) -> Iterator[Record]:
        """All objects with an owner reference to `uid`."""
        for key in tuple(self._by_owner.get(uid, ())):
            record = self.get(key)
            if record is not None:
                yield record

    def in_namespace(self, namespace: str) -> Iterator[Record]:
        """All objects in a namespace."""
        for records in tuple(self._by_resource.values()):
            for (where, _), record in tuple(records.items()):
                if where == namespace:
                    yield record

    def since(self, version: int) -> Sequence[Change]:
        """All changes after `version`, oldest first.

        Raises:
            HistoryExpired: they are no longer kept, or the version lies in the future.
        """
        if version < self._oldest:
            raise HistoryExpired(f"too old resource version: {version} ({self._oldest})")
        if version > self._version:  # of another state folder, perhaps
            raise HistoryExpired(f"too large resource version: {version}, current: {self._version}")
        changes: list[Change] = []
        for change in reversed(self._history):
            if change.version <= version:
                break
            changes.append(change)
        changes.reverse()
        return changes

    def put(self, key: Key, obj: Object, *, expect: int | None = None) -> Record:
        """Store `obj` (which the store takes over) under the next resourceVersion.

        Raises:
            VersionConflict: the object's version is not `expect` (0: there must be no object).
        """
        before = self.get(key)
        if expect is not None and expect != (before.version if before else 0):
            raise VersionConflict(str(key))
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        record = Record(key, self._version, obj, json.dumps(obj, separators=(",", ":")).encode())
        self._index(record, before)
        self._changed(Change(EventType.MODIFIED if before else EventType.ADDED, record, before))
        return record

    def remove(self, key: Key) -> Record:
        """Remove an object; returns its last state under the resourceVersion of the deletion.

        Raises:
            KeyError: there is no such object.
        """
        before = self._by_resource.get(key.resource, {}).get((key.namespace, key.name))
        if before is None:
            raise KeyError(key)
        self._version += 1
        obj = {**before.obj, "metadata": {**before.obj["metadata"], "resourceVersion": str(self._version)}}
        record = Record(key, self._version, obj, json.dumps(obj, separators=(",", ":")).encode())
        self._unindex(before)
        self._changed(Change(EventType.DELETED, record, before))
        return record

    async def durable(self, version: int | None = None) -> None:
        """Wait until all changes up to `version` (None: all) are on disk.

        Raises:
            StoreError: the disk refused, and the changes are undone.
        """
        wanted = self._version if version is None else version
        if wanted <= self._durable:
            return
        if self._loop is None:
            raise StoreError("the store is not open")
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((wanted, future))
        await future

    def subscribe(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Call `listener` for each change, as soon as it is made; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def on_reset(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after memory has returned to what the disk holds; returns what ends that."""
        self._reset_listeners.append(listener)
        return lambda: self._reset_listeners.remove(listener)

    def read_meta(self, key: str) -> str | None:
        """A value that the platform keeps beside the objects, or None."""
        return self._database.read_meta(key)

    def write_meta(self, key: str, value: str) -> str:
        """Keep a value beside the objects and return it. Blocking, so only before requests are served."""
        return self._database.write_meta(key, value)

    def _load(self, connection: sqlite3.Connection) -> None:
        self._by_resource, self._by_owner = {}, {}
        with (
            _without_collector()
        ):  # a collection while objects are read finds nothing and takes as long as reading them
            records, newest = self._database.load(connection)
            for record in records:
                self._index(record, None)
        self._version = max(newest, self._version)
        self._durable = self._oldest = self._version
        self._history.clear()

    def _index(self, record: Record, before: Record | None) -> None:
        if before is not None:
            self._unindex(before)
        key = record.key
        self._by_resource.setdefault(key.resource, {})[key.namespace, key.name] = record
        for uid in objects.owner_uids(record.obj):
            self._by_owner.setdefault(uid, {})[key] = None

    def _unindex(self, record: Record) -> None:
        key = record.key
        del self._by_resource[key.resource][key.namespace, key.name]
        for uid in objects.owner_uids(record.obj):
            owned = self._by_owner.get(uid, {})
            owned.pop(key, None)
            if not owned:
                self._by_owner.pop(uid, None)

    def _changed(self, change: Change) -> None:
        self._history.append(change)
        if len(self._history) > _HISTORY:
            self._oldest = self._history.popleft().version
        self._writes.put((self._epoch, change))
        for listener in tuple(self._listeners):
            try:
                listener(change)
            except Exception:  # one listener must not keep the change from the others
                log.exception("a listener failed at a change of %s", change.record.key)

    def _write_behind(self, connection: sqlite3.Connection) -> None:
        """The thread that writes: each transaction takes all changes in the queue."""
        failed_epoch = -1
        closing = False
        while not closing:
            batch = [self._writes.get()]
            while not self._writes.empty():
                batch.append(self._writes.get())
            closing = None in batch
            changes = [
                change
                for item in batch
                if item is not None
                for epoch, change in [item]
                if epoch > failed_epoch
            ]
            if not changes:
                continue
            try:
                self._database.write(connection, changes)
            except Exception as problem:  # noqa: BLE001  # whatever it is, those who wait must get an answer
                failed_epoch = max(item[0] for item in batch if item is not None)
                self._call_on_loop(self._failed, connection, problem)
            else:
                self._call_on_loop(self._written, changes[-1].version)
        connection.close()

    def _call_on_loop(self, function: Callable[..., None], *values: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *values)

    def _written(self, version: int) -> None:
        self._durable = max(self._durable, version)
        still: deque[tuple[int, asyncio.Future[None]]] = deque()
        for wanted, future in self._waiting:
            if wanted > self._durable:
                still.append((wanted, future))
            elif not future.done():
                future.set_result(None)
        self._waiting = still

    def _failed(self, connection: sqlite3.Connection, problem: Exception) -> None:
        """Return memory to what the disk holds; no resourceVersion is ever given out twice."""
        self._epoch += 1
        self._load(connection)
        waiting, self._waiting = self._waiting, deque()
        for _, future in waiting:
            if not future.done():
                future.set_exception(
                    StoreError(f"cannot write the state to {self._database.path}: {problem}")
                )
        for listener in tuple(self._reset_listeners):
            listener()


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Pause the collector of reference cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
