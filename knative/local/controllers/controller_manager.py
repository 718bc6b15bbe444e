"""The reconcile loop: takes keys from the work queue and has each reconciled by the reconciler of its kind.

Level-triggered: a change of an object queues its key and those of the objects that depend on it; a reconcile
reads the present state and writes only differences. Nothing is remembered from one reconcile to the next, so
that a crash at any point is repaired by the next start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Protocol

from knative.client.resources import CONFIGURATION, Object, Resource
from knative.local.apiserver.records import Change, EventType, Key
from knative.local.apiserver.store import Store
from knative.local.controllers.dependencies import Dependencies
from knative.local.controllers.work_queue import WorkQueue

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_TURN_S = 0.002
"""Seconds for which the loop may reconcile before requests on the same event loop get their turn."""


class Reconciler(Protocol):
    """Brings one kind's objects to their desired state."""

    def reconcile(self, key: Key, obj: Object) -> None:
        """Reconcile an object that exists and is not being deleted."""

    def forget(self, key: Key) -> None:
        """The object is gone: undo what it caused outside of the API."""


class ControllerManager:
    """Runs all reconcilers.

    Args:
        store: whose changes are followed.
        queue: the keys to be reconciled.
        dependencies: which keys a change of an object concerns.
        reconcilers: by kind.
    """

    def __init__(
        self,
        store: Store,
        queue: WorkQueue,
        dependencies: Dependencies,
        reconcilers: Mapping[Resource, Reconciler],
    ) -> None:
        self._store = store
        self._queue = queue
        self._dependencies = dependencies
        self._reconcilers = reconcilers

    def start(self) -> None:
        """Follow the store from now on, and queue every object once."""
        self._store.subscribe(self._changed)
        self._store.on_reset(self._store_reset)
        self._queue_everything()

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            await self._queue.filled()
            self._turn()
            if self._queue:
                await asyncio.sleep(0)

    async def settle(self) -> None:
        """Reconcile until the queue is empty."""
        while self._queue:
            self._turn()
            await asyncio.sleep(0)

    def collect_revisions(self) -> None:
        """Look for Revisions to delete; they become due by time alone."""
        for record in self._store.list(CONFIGURATION):
            self._queue.add(record.key)

    def _store_reset(self) -> None:
        """The disk refused a change: start again, but not so soon that a full disk keeps the loop busy."""
        asyncio.get_running_loop().call_later(_RETRY_S, self._queue_everything)

    def _queue_everything(self) -> None:
        self._dependencies.rebuild()
        for resource in self._reconcilers:
            for record in self._store.list(resource):
                self._queue.add(record.key)

    def _changed(self, change: Change) -> None:
        key = change.record.key
        deleted = change.type is EventType.DELETED
        if key.resource in self._reconcilers and not deleted:
            self._queue.add(key)
        for dependent in self._dependencies.of(change):
            if dependent.resource in self._reconcilers:
                self._queue.add(dependent)
        if deleted and (reconciler := self._reconcilers.get(key.resource)) is not None:
            reconciler.forget(key)

    def _turn(self) -> None:
        until = time.monotonic() + _TURN_S
        while self._queue and time.monotonic() < until:
            self._reconcile(self._queue.take())

    def _reconcile(self, key: Key) -> None:
        record = self._store.get(key)
        if record is None or record.obj["metadata"].get("deletionTimestamp"):
            return
        try:
            self._reconcilers[key.resource].reconcile(key, record.obj)
        except Exception:  # one broken object must not stop the others; it is tried again
            log.exception("reconciling %s %s/%s failed", key.resource.kind, key.namespace, key.name)
            self._queue.add_after(key, _RETRY_S)
