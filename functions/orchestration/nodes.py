"""What stands at a place in a graph: a stage, or something else that answers like one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from functions.calls.port import CalledStage
from functions.calls.streaming import Events, at_the_end, by_segments, from_model
from functions.contract import StageReply, StageRequest, StageTiming
from functions.orchestration.steps import Steps
from functions.stage import RequestContext


@dataclass(frozen=True, slots=True)
class Patience:
    """How nodes wait and wake.

    Attributes:
        segment_s: least seconds from one segment of a stream to the next.
        wake_idle_s: seconds after its last answer for which a stage counts as awake.
        start_s: how long a start is waited for.
    """

    segment_s: float
    wake_idle_s: float
    start_s: float


class Node(Protocol):
    """One place of a graph."""

    @property
    def name(self) -> str:
        """Unique in the graph."""
        ...

    @property
    def kind(self) -> str:
        """As in the agent file."""
        ...

    async def run(
        self, request: StageRequest, context: RequestContext, steps: Steps, step: str
    ) -> StageReply:
        """The whole reply.

        Args:
            request: what it is asked.
            context: on whose behalf.
            steps: records it.
            step: the step's name; a node of several steps begins their names with it and a slash.

        Raises:
            ProblemError: its own, or one about it.
        """
        ...

    def stream(self, request: StageRequest, context: RequestContext, unfinished: list[StageTiming]) -> Events:
        """The reply as events; its `data` is an object with the node's under its name.

        Args:
            request: with `stream`.
            context: on whose behalf.
            unfinished: gets the timing if the stream is closed before its end.
        """
        ...

    def wake(self, context: RequestContext) -> None:
        """Start in the background what it needs."""
        ...

    async def close(self) -> None:
        """End what runs in the background."""
        ...


class StageNode:
    """A stage.

    Args:
        client: calls it.
        patience: how it is waited for.
    """

    def __init__(self, client: CalledStage, patience: Patience) -> None:
        self.client = client
        self._patience = patience

    @property
    def name(self) -> str:
        """The stage's."""
        return self.client.name

    @property
    def kind(self) -> str:
        """The stage's."""
        return self.client.kind

    async def run(
        self, request: StageRequest, context: RequestContext, steps: Steps, step: str
    ) -> StageReply:
        """See `Node.run`; one step."""

        async def call(key: str) -> StageReply:
            called = await self.client.call(request, context, idempotency_key=key or None)
            context.record(self.name, called.timing.seconds)
            return called.reply

        return await steps.run(step, call)

    def stream(self, request: StageRequest, context: RequestContext, unfinished: list[StageTiming]) -> Events:
        """See `Node.stream`."""
        return from_model(self.client, request, context, unfinished)

    def through(self, events: Events, request: StageRequest, context: RequestContext) -> Events:
        """The events of the node before, as they are behind this one.

        A stage of kind postprocess takes a stream segment by segment, another one the whole text at its end.
        """
        if self.kind == "postprocess":
            return by_segments(self.client, events, request, context, pause=self._patience.segment_s)
        return at_the_end(self.client, events, request, context)

    def wake(self, context: RequestContext) -> None:
        """See `Node.wake`: ask for its readiness."""
        self.client.wake(
            context.headers(),
            idle_seconds=self._patience.wake_idle_s,
            patience_seconds=self._patience.start_s,
        )

    async def close(self) -> None:
        """See `Node.close`."""
        await self.client.close()
