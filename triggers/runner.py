"""Keeps the dispatcher of one Trigger running: through its errors, and from one spec to the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from triggers import status
from triggers.delivery.health import Part
from triggers.delivery.loans import pauses
from triggers.dispatcher import Dispatcher, Options
from triggers.metrics import TriggerMetrics
from triggers.spec.trigger import TriggerSpec

log = logging.getLogger("triggers")

_PARTS: tuple[tuple[str, tuple[Part, ...]], ...] = (
    ("SourceReady", ("source",)),
    ("TargetReady", ("target",)),
    ("DestinationsReady", ("deadLetter", "reply")),
)


class TriggerRunner:
    """One Trigger with one spec."""

    def __init__(
        self,
        namespace: str,
        name: str,
        spec: TriggerSpec,
        options: Callable[[str, TriggerSpec], Awaitable[Options]],
        metrics: TriggerMetrics,
    ) -> None:
        """`options`, for a namespace and a spec, may take its time, as an embedded broker does to start."""
        self.spec = spec
        self._namespace = namespace
        self._name = name
        self._options = options
        self._metrics = metrics
        self._dispatcher: Dispatcher | None = None
        self._defect: str | None = None
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name=f"trigger {self._namespace}/{self._name}")

    async def stop(self) -> None:
        """Drain and end."""
        self._stop.set()
        if self._task is not None:
            await self._task

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set, then drain."""
        self.start()
        await stop.wait()
        await self.stop()

    @property
    def ready(self) -> bool:
        """The queue was reached, and nothing is wrong with it now."""
        dispatcher = self._dispatcher
        return (
            dispatcher is not None
            and dispatcher.snapshot.opened
            and dispatcher.health.trouble("source") is None
        )

    async def _run(self) -> None:
        waits = pauses()
        while not self._stop.is_set():
            try:
                options = await self._options(self._namespace, self.spec)
                self._dispatcher = Dispatcher(self._namespace, self._name, self.spec, options, self._metrics)
                await self._dispatcher.run(self._stop)
                self._defect = None
            except Exception as error:
                # What is in hand comes back by itself; other Triggers go on.
                self._defect = f"{type(error).__name__}: {error}"
                log.exception("trigger %s/%s: the dispatcher ended", self._namespace, self._name)
                try:
                    await asyncio.wait_for(self._stop.wait(), next(waits))
                except TimeoutError:
                    continue

    def conditions(self) -> list[status.Condition]:
        """Ready and its parts, without instants."""
        dispatcher = self._dispatcher
        if self._defect is not None:
            return [status.condition("Ready", ok=False, reason="InternalError", message=self._defect)]
        if dispatcher is None:
            return [status.condition("Ready", ok=None, reason="Starting")]
        found = []
        first: status.Condition | None = None
        for kind, parts in _PARTS:
            troubles = [trouble for part in parts if (trouble := dispatcher.health.trouble(part))]
            if troubles:
                trouble = troubles[0]
                bad = status.condition(kind, ok=False, reason=trouble.reason, message=trouble.message)
                first = first or {
                    **bad,
                    "type": "Ready",
                    "reason": f"{kind.removesuffix('Ready')}{trouble.reason}",
                }
                found.append(bad)
            else:
                found.append(status.condition(kind, ok=True, reason="Works"))
        if first is None and not dispatcher.snapshot.opened:
            first = status.condition("Ready", ok=None, reason="Connecting")
        if first is None:
            reason = "Paused" if self.spec.paused else "Running"
            first = status.condition("Ready", ok=True, reason=reason)
        return [first, *found]

    def status(self) -> dict[str, Any]:
        """The status without conditions and generation."""
        named = {"source": status.queue_name(self.spec), "target": str(self.spec.target)}
        if self._dispatcher is None:
            return named
        now = self._dispatcher.snapshot
        return named | status.numbers(
            backlog=now.backlog.messages,
            oldest_age_s=now.backlog.oldest_age_s,
            in_flight=now.in_flight,
            limit=now.limit,
            ended=now.ended,
        )
