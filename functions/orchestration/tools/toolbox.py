"""All tools of one agent: what the model is shown, and what becomes of its calls."""

from __future__ import annotations

import asyncio
import json
import logging
import operator
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from functions.dialogue import MAX_TOOLS, FunctionSpec, Tool, ToolCall
from functions.orchestration.tools.arguments import ArgumentsError, ArgumentsSchema
from functions.orchestration.tools.config import FunctionToolConfig, ToolConfig
from functions.orchestration.tools.function_tool import FunctionTool
from functions.orchestration.tools.http_calls import Caller, DeadlinePassedError
from functions.orchestration.tools.mcp_server import McpServer
from functions.orchestration.tools.port import ToolServer
from functions.orchestration.tools.results import ToolResult, failed
from functions.problems import ProblemError
from functions.stage import RequestContext

log = logging.getLogger(__name__)

_LONG = 4_000
"""Characters of a schema that is compiled in a thread."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a model may call.

    Attributes:
        tools: in the order of the agent file.
        missing: why the tools of a server are not among them, by the server's name.
    """

    tools: tuple[Tool, ...]
    missing: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Known:
    server: ToolServer
    spec: FunctionSpec
    schema: ArgumentsSchema


class Toolbox:
    """The tools of one agent.

    Args:
        servers: in the order of the agent file.
    """

    def __init__(self, servers: Sequence[ToolServer]) -> None:
        self._servers = tuple(servers)
        self._known: dict[str, _Known] = {}
        self._found: list[tuple[FunctionSpec, ...] | ProblemError] = []
        self._offer: Offer | None = None
        self._schemas: dict[str, ArgumentsSchema | ValueError] = {}

    async def offer(self, context: RequestContext) -> Offer:
        """The tools as they are now. A server that cannot be asked is left out, and named.

        Raises:
            ProblemError: the request's deadline has passed.
        """
        found = await asyncio.gather(*(self._specs(server, context) for server in self._servers))
        if self._offer is not None and all(map(operator.is_, found, self._found)):
            return self._offer
        known: dict[str, _Known] = {}
        missing: dict[str, str] = {}
        schemas: dict[str, ArgumentsSchema | ValueError] = {}
        for server, specs in zip(self._servers, found, strict=True):
            if isinstance(specs, ProblemError):
                missing[server.name] = str(specs)
                log.warning("tools are missing", extra={"target": server.name, "reason": str(specs)})
                continue
            for spec in specs[: MAX_TOOLS - len(known)]:
                key = json.dumps(spec.parameters, sort_keys=True)
                schema = schemas[key] = self._schemas.get(key) or await _compiled(spec, key)
                if isinstance(schema, ValueError):
                    missing[spec.name] = f"parameters: {schema}"
                elif spec.name not in known:
                    known[spec.name] = _Known(server, spec, schema)
        self._known, self._found, self._schemas = known, found, schemas
        self._offer = Offer(tuple(Tool(function=entry.spec) for entry in known.values()), missing)
        return self._offer

    async def call(
        self, call: ToolCall, context: RequestContext, *, idempotency_key: str | None = None
    ) -> ToolResult:
        """The result of a model's call, an error that the model is told included.

        Args:
            call: as the model asks for it.
            context: on whose behalf, and until when.
            idempotency_key: the same whenever this call is made again; None: it never is.

        Raises:
            ProblemError: the request's deadline has passed.
        """
        name = call.function.name
        if name not in self._known:
            # A request that is taken up by another replica calls before the tools were asked for there.
            await self.offer(context)
        known = self._known.get(name)
        if known is None:
            there = ", ".join(self._known) or "none"
            return failed(f"there is no tool {name!r}; those that there are: {there}")
        try:
            arguments = await known.schema.parse(call.function.arguments)
        except ArgumentsError as error:
            return failed(str(error))
        key = idempotency_key or uuid.uuid4().hex
        return await known.server.call(name, arguments, context, idempotency_key=key)

    def prepare(self, context: RequestContext) -> None:
        """A request has arrived: begin in the background what its calls will need."""
        for server in self._servers:
            server.prepare(context)

    def wake(self, name: str, context: RequestContext) -> None:
        """The model begins to call this tool: start it in the background."""
        known = self._known.get(name)
        if known is not None:
            known.server.wake(context)

    async def close(self) -> None:
        """End what runs in the background."""
        await asyncio.gather(*(server.close() for server in self._servers))

    async def _specs(
        self, server: ToolServer, context: RequestContext
    ) -> tuple[FunctionSpec, ...] | ProblemError:
        try:
            return await server.specs(context)
        except ProblemError as error:
            if isinstance(error, DeadlinePassedError):
                raise
            return error


async def _compiled(spec: FunctionSpec, text: str) -> ArgumentsSchema | ValueError:
    """The compiled schema, or what is wrong with it; a long one is checked in a thread."""
    try:
        if len(text) > _LONG:
            return await asyncio.to_thread(ArgumentsSchema, spec.parameters)
        return ArgumentsSchema(spec.parameters)
    except ValueError as error:
        log.warning("a tool's schema is none", extra={"target": spec.name, "reason": str(error)})
        return error


def open_toolbox(tools: Mapping[str, ToolConfig], caller: Caller) -> Toolbox:
    """The toolbox of an agent.

    Args:
        tools: by name, as the agent file names them.
        caller: of all tools.
    """
    return Toolbox(
        [
            FunctionTool(name, config, caller)
            if isinstance(config, FunctionToolConfig)
            else McpServer(name, config, caller)
            for name, config in tools.items()
        ]
    )
