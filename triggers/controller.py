"""Runs a dispatcher for every Trigger in a Kubernetes API, and writes their statuses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.client.resources import TRIGGER, Object
from triggers import status
from triggers.dispatcher import Options
from triggers.metrics import TriggerMetrics
from triggers.runner import TriggerRunner
from triggers.spec.field_types import SpecError
from triggers.spec.trigger import TriggerSpec

log = logging.getLogger("triggers")

STATUS_S: Final = 2.0
"""Between two looks at what the statuses should be."""
Key = tuple[str, str]


@dataclass
class _Entry:
    """A Trigger as the API has it, and what runs for it."""

    obj: Object
    runner: TriggerRunner | None = None
    problem: str | None = None
    written: dict[str, Any] = field(default_factory=dict)


class TriggerController:
    """The Triggers of a cluster, of one namespace, or a single one."""

    def __init__(
        self,
        cluster: Cluster,
        options: Callable[[str, TriggerSpec], Awaitable[Options]],
        metrics: TriggerMetrics,
        *,
        namespace: str | None = None,
        only: str | None = None,
    ) -> None:
        """`namespace` None: all of them; `only`: the name of the single Trigger to run."""
        self._cluster = cluster
        self._options = options
        self._metrics = metrics
        self._namespace = namespace
        self._only = only
        self._entries: dict[Key, _Entry] = {}
        self._draining: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Every Trigger that is not broken reaches its queue."""
        runners = [entry.runner for entry in self._entries.values() if entry.runner is not None]
        return (bool(runners) or self._only is None) and all(runner.ready for runner in runners)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; every dispatcher has drained when this returns.

        Raises:
            ClusterError: Triggers may not be watched, or the API does not know the kind.
        """
        tasks = [
            asyncio.create_task(stop.wait()),
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._write_statuses()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            runners = [entry.runner for entry in self._entries.values() if entry.runner is not None]
            await asyncio.gather(*(runner.stop() for runner in runners), *self._draining)

    async def _watch(self) -> None:
        async for event, obj in self._cluster.watch(TRIGGER, self._namespace):
            meta = obj["metadata"]
            if self._only is not None and meta["name"] != self._only:
                continue
            key = (meta["namespace"], meta["name"])
            if event == "DELETED" or meta.get("deletionTimestamp"):
                self._remove(key)
            else:
                self._put(key, obj)

    def _put(self, key: Key, obj: Object) -> None:
        entry = self._entries.get(key)
        if entry is not None and entry.obj.get("spec") == obj.get("spec"):
            entry.obj = obj
            return
        if entry is None:
            entry = self._entries[key] = _Entry(obj)
        entry.obj = obj
        self._drain(entry)
        try:
            spec = TriggerSpec.parse(obj.get("spec"))
        except SpecError as error:
            entry.problem = str(error)
            log.warning("trigger %s/%s: %s", *key, error)
            return
        entry.problem = None
        entry.runner = TriggerRunner(*key, spec, self._options, self._metrics)
        entry.runner.start()

    def _remove(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._drain(entry)
            self._metrics.forget(*key)

    def _drain(self, entry: _Entry) -> None:
        """Stop what runs. It may finish its requests beside its successor, which takes other messages."""
        if entry.runner is not None:
            task = asyncio.create_task(entry.runner.stop())
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
            entry.runner = None

    async def _write_statuses(self) -> None:
        while True:
            for key, entry in tuple(self._entries.items()):
                await self._write_status(key, entry)
            await asyncio.sleep(STATUS_S)

    async def _write_status(self, key: Key, entry: _Entry) -> None:
        if entry.runner is None:
            problem = entry.problem or ""
            new = [status.condition("Ready", ok=False, reason="InvalidSpec", message=problem)]
            body: dict[str, Any] = {}
        else:
            new, body = entry.runner.conditions(), entry.runner.status()
        generation = entry.obj["metadata"].get("generation")
        old = entry.written or entry.obj.get("status") or {}
        body |= {
            "observedGeneration": generation,
            "conditions": status.conditions(new, old.get("conditions", ()), generation, datetime.now(UTC)),
        }
        if body == entry.written:
            return
        try:
            await self._cluster.patch(TRIGGER, key[1], key[0], {"status": body}, subresource="status")
        except ClusterError as error:
            log.debug("status of trigger %s/%s: %s", *key, error)  # the next round tries again
        else:
            entry.written = body
