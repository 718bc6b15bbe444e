"""The port through which an agent's loop reaches what has tools."""

from __future__ import annotations

from typing import Any, Protocol

from functions.dialogue import FunctionSpec
from functions.orchestration.tools.results import ToolResult
from functions.stage import RequestContext


class ToolServer(Protocol):
    """Something that has tools: a function behind a URL, or an MCP server with several."""

    @property
    def name(self) -> str:
        """As in the agent file."""
        ...

    async def specs(self, context: RequestContext) -> tuple[FunctionSpec, ...]:
        """Its tools, by the names that the model sees.

        Raises:
            ProblemError: they cannot be had.
        """
        ...

    async def call(
        self, tool: str, arguments: dict[str, Any], context: RequestContext, *, idempotency_key: str
    ) -> ToolResult:
        """The result of one call; what goes wrong with it is a result too, which tells the model.

        Args:
            tool: one of the names of `specs`.
            arguments: checked.
            context: on whose behalf, and until when.
            idempotency_key: the same for each attempt.

        Raises:
            ProblemError: the request's deadline has passed.
        """
        ...

    def prepare(self, context: RequestContext) -> None:
        """A request has arrived that may call it: begin in the background what that needs."""
        ...

    def wake(self, context: RequestContext) -> None:
        """The model begins to call it: start it in the background, if it may be at zero."""
        ...

    async def close(self) -> None:
        """End what runs in the background, and its connections."""
        ...
