"""The keys that are to be reconciled."""

from __future__ import annotations

import asyncio

from knative.autoscaling.revision_autoscaler import ScaleDecision
from knative.client.resources import POD_AUTOSCALER
from knative.local.apiserver.records import Key
from knative.local.routing import RevisionKey


class WorkQueue:
    """Keys in the order in which they were added; a key that is in the queue already is not added again.

    Must be used on one event loop. It stands between the autoscaler and the controllers, so that neither
    needs the other.
    """

    def __init__(self) -> None:
        self._keys: dict[Key, None] = {}
        self._filled = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._keys)

    def add(self, key: Key) -> None:
        """Have a key reconciled."""
        self._keys[key] = None
        self._filled.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Have a key reconciled after a delay."""
        asyncio.get_running_loop().call_later(seconds, self.add, key)

    def add_scaled(self, key: RevisionKey, decision: ScaleDecision) -> None:  # noqa: ARG002  # read when reconciled
        """Have a PodAutoscaler reconciled because its autoscaler decided anew."""
        self.add(Key(POD_AUTOSCALER, key.namespace, key.name))

    def take(self) -> Key:
        """Remove and return the key that was added first.

        Raises:
            StopIteration: the queue is empty.
        """
        key = next(iter(self._keys))
        del self._keys[key]
        if not self._keys:
            self._filled.clear()
        return key

    async def filled(self) -> None:
        """Wait until there is a key."""
        await self._filled.wait()
