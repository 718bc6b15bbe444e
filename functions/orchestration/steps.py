"""The steps of a request: the port through which stages and tools are called.

A step has a name that is unique in its request and the same each time that the request is worked on. That is
what makes a step's record its own, and its idempotency key the same for each attempt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from functions.problems import ProblemError

R = TypeVar("R")


class StepRefusedError(ProblemError):
    """A person has refused the step; whoever asked for it may go on without."""


class Steps(Protocol):
    """Runs the steps of one request."""

    async def run(self, name: str, call: Callable[[str], Awaitable[R]]) -> R:
        """The result of a step.

        Args:
            name: of the step, such as `ingest` or `loop/3/tool/calculator/0`.
            call: does it; gets the step's idempotency key.
        """
        ...


class PlainSteps:
    """Calls each step and keeps nothing."""

    async def run(self, name: str, call: Callable[[str], Awaitable[R]]) -> R:  # noqa: ARG002 - the port
        """The result of the call, whose idempotency key is empty: nobody will repeat it."""
        return await call("")
