"""What is called for a stage's reply: the stage behind HTTP, or in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

from functions.calls.failures import Outcome
from functions.calls.replies import StageAnswer
from functions.contract import StageEvent, StageRequest
from functions.stage import RequestContext

ObserveCall: TypeAlias = Callable[[str, Outcome, float], None]
"""Called after each attempt: the stage's name, how it ended, and the seconds up to the response's head."""

ANSWER_SECONDS = 0.05
"""A call ends so long before its request's deadline, which leaves time to say which stage was late."""


class CalledStage(Protocol):
    """One stage as another one calls it."""

    @property
    def name(self) -> str:
        """In the agent file."""
        ...

    @property
    def kind(self) -> str:
        """ingest, generate, postprocess, container."""
        ...

    async def call(
        self, request: StageRequest, context: RequestContext, *, idempotency_key: str | None = None
    ) -> StageAnswer:
        """The stage's whole reply.

        Args:
            request: what is asked.
            context: on whose behalf, and until when.
            idempotency_key: the same for each attempt of one step; a stage that honours it acts once.

        Raises:
            ProblemError: the stage's own problem, or one about it; `stage` names it.
        """
        ...

    def stream(
        self, request: StageRequest, context: RequestContext
    ) -> AbstractAsyncContextManager[AsyncGenerator[StageEvent, None]]:
        """The stage's events, ending in `Final` (with the caller's timing added) or `Failure`.

        Leaving the block makes the stage stop.

        Raises:
            ProblemError: on entering, as `call`; after that a failure is an event.
        """
        ...

    def wake(self, headers: Mapping[str, str], *, idle_seconds: float, patience_seconds: float) -> None:
        """Start it in the background if it is cold, unless it answered `idle_seconds` ago or less."""
        ...

    async def close(self) -> None:
        """End what runs in the background."""
        ...
