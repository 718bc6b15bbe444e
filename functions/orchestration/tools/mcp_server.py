"""A server of the Model Context Protocol over streamable HTTP, and its tools.

The official library speaks the protocol, with servers of today's revision (each call stands alone) and of
those before (a session). Here is what it leaves open: one connection for all calls, opened again when it is
lost; the list of tools, kept for a while; bounds of time and size; and which calls may be made again.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import math
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from functions.calls.failures import outcome_of
from functions.calls.retries import CallRetries
from functions.dialogue import MAX_TOOLS, FunctionSpec
from functions.orchestration.tools.config import McpConfig
from functions.orchestration.tools.http_calls import Caller, DeadlinePassedError, Destination, in_time
from functions.orchestration.tools.mcp_call_error import McpCallError, call_error
from functions.orchestration.tools.mcp_messages import may_repeat, result_of, spec_of, visible_name
from functions.orchestration.tools.results import ToolResult, failed
from functions.problems import ProblemError
from functions.settings import SettingsError
from functions.stage import RequestContext
from transport.retry_budget import RetryBudget

if TYPE_CHECKING:
    import mcp_types
    from mcp import Client

    from functions.orchestration.tools.mcp_connection import Connection

log = logging.getLogger(__name__)

R = TypeVar("R")

AGAIN_SECONDS = 10.0
"""After which a server that could not be asked for its tools is asked again."""
MAX_PAGES = 16
"""Of one list of tools."""
_CONNECTIONS = "functions.orchestration.tools.mcp_connection"
"""Imports the library."""
KEY_META = "pilotlight/idempotency-key"
"""Member of a call's `_meta` with what the header `Idempotency-Key` has too."""


class McpServer:
    """One server.

    Args:
        name: in the agent file.
        config: of the server.
        caller: of all tools.

    Raises:
        SettingsError: the library is not installed.
    """

    def __init__(self, name: str, config: McpConfig, caller: Caller) -> None:
        if importlib.util.find_spec("mcp") is None:
            raise SettingsError((f"tool {name}: MCP needs its library: pip install 'pilotlight[mcp]'",))
        self.name = name
        self._config = config
        self._caller = caller
        self._destination = Destination(name, config, caller)
        self._budget = RetryBudget(reserve=caller.policy.retry_reserve)
        self._connection: Connection | None = None
        self._tools: dict[str, mcp_types.Tool] = {}
        """By the name that the model sees."""
        self._specs: tuple[FunctionSpec, ...] = ()
        self._listed: float | None = None
        self._failure: tuple[float, ProblemError | None] = (0.0, None)
        """Of the last list: when, and why."""
        self._listing: asyncio.Task[None] | None = None

    async def specs(self, context: RequestContext) -> tuple[FunctionSpec, ...]:
        """See `ToolServer.specs`. Only the first list is waited for; it is used until a new one is there."""
        if self._listed is not None:
            if self._is_to_be_asked(context):
                self._begin_listing(context)
            return self._specs
        _, failure = self._failure
        if failure is not None and not self._is_to_be_asked(context):
            raise ProblemError.of(failure.problem)
        async with in_time(self.name, math.inf, context):
            # Shared by all who wait, so that it does not end with the first one's request.
            await asyncio.shield(self._begin_listing(context))
        return self._specs

    async def call(
        self, tool: str, arguments: dict[str, Any], context: RequestContext, *, idempotency_key: str
    ) -> ToolResult:
        """See `ToolServer.call`."""
        known = self._tools.get(tool)
        if known is None:
            return failed(f"{self.name} has no tool {tool!r} any more")

        async def call(client: Client) -> ToolResult:
            answer = await client.call_tool(known.name, arguments, meta=_meta(idempotency_key))
            return result_of(answer, self._config.answer_bytes)

        extra = {"Idempotency-Key": idempotency_key}
        try:
            async with in_time(self.name, self._config.timeout_seconds, context):
                return await self._retried(call, context, extra, repeats=may_repeat(known))
        except TimeoutError:
            return failed(f"{tool} did not answer within {self._config.timeout_seconds:g} s")
        except McpCallError as error:
            return failed(f"{tool}: {error.said}")
        except DeadlinePassedError:
            raise
        except ProblemError as error:
            # What the operator has to mend, such as a missing Secret, is no matter of the model's.
            self._warn("a tool cannot be called", str(error))
            return failed(f"{tool} cannot be called now")

    def prepare(self, context: RequestContext) -> None:
        """See `ToolServer.prepare`: the model is shown the tools with its first turn."""
        if self._is_to_be_asked(context):
            self._begin_listing(context)
        elif self._config.wakes == "request":
            self._destination.wake(context)

    def wake(self, context: RequestContext) -> None:
        """See `ToolServer.wake`."""
        if self._config.wakes != "never":
            self._destination.wake(context)

    async def close(self) -> None:
        """See `ToolServer.close`; ends the session."""
        if self._listing is not None:
            self._listing.cancel()
            await asyncio.wait({self._listing})
        if self._connection is not None:
            await self._connection.close()
        await self._destination.close()

    def _is_to_be_asked(self, context: RequestContext) -> bool:
        """Whether there is no list or an old one, and it has not just failed to give one."""
        failed_at, failure = self._failure
        if failure is not None and context.now() - failed_at < AGAIN_SECONDS:
            return False
        return self._listed is None or context.now() - self._listed > self._config.refresh_seconds

    def _begin_listing(self, context: RequestContext) -> asyncio.Task[None]:
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._list(context))
            # It may fail with nobody waiting.
            self._listing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._listing

    async def _list(self, context: RequestContext) -> None:
        """Ask for all tools.

        Raises:
            ProblemError: they cannot be had.
        """
        seconds = self._config.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                found = await self._retried(self._all_pages, context, {}, repeats=True)
        except TimeoutError:
            late = f"tool server {self.name} did not list its tools within {seconds:g} s"
            self._failure = (context.now(), ProblemError(504, late, stage=self.name))
        except ProblemError as error:
            self._failure = (context.now(), error)
        else:
            self._keep(found)
            self._listed, self._failure = context.now(), (0.0, None)
            return
        self._warn("tools cannot be listed", str(self._failure[1]))
        raise self._failure[1]

    def _keep(self, found: Sequence[mcp_types.Tool]) -> None:
        tools: dict[str, mcp_types.Tool] = {}
        specs: list[FunctionSpec] = []
        for tool in found:
            name = visible_name(self.name, tool.name)
            if name in tools or (self._config.only is not None and tool.name not in self._config.only):
                continue
            try:
                specs.append(spec_of(name, tool, self._config.strict))
            except ValidationError as error:
                self._warn("a tool cannot be shown", f"{name}: {error.errors()[0]['msg']}")
                continue
            tools[name] = tool
        absent = sorted(set(self._config.only or ()) - {tool.name for tool in tools.values()})
        if absent:
            self._warn("tools are not listed", ", ".join(absent))
        self._tools, self._specs = tools, tuple(specs)

    def _warn(self, message: str, reason: str) -> None:
        log.warning(message, extra={"target": self.name, "reason": reason})

    async def _all_pages(self, client: Client) -> list[mcp_types.Tool]:
        found: list[mcp_types.Tool] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor, cache_mode="bypass")
            found += page.tools
            cursor = page.next_cursor
            if cursor is None or len(found) >= MAX_TOOLS:
                break
        if len(found) > MAX_TOOLS or cursor is not None:
            self._warn("more tools than can be shown", str(MAX_TOOLS))
        return found[:MAX_TOOLS]

    async def _retried(
        self,
        do: Callable[[Client], Awaitable[R]],
        context: RequestContext,
        extra: dict[str, str],
        *,
        repeats: bool,
    ) -> R:
        """The result, after retries of what the server has not begun, or does not mind to do again."""
        retries = CallRetries(self._caller.policy, context, self._budget)
        done: list[R] = []
        async for attempt in retries.attempts():
            with attempt:
                began = context.now()
                context.waiting_for = self.name
                try:
                    with context.span("tool call", "client", **{"pilotlight.target": self.name}) as trace:
                        headers = self._destination.headers(context, trace) | extra
                        done.append(await self._once(do, headers, repeats=repeats))
                except ProblemError as error:
                    self._caller.observe(self.name, outcome_of(error), context.now() - began)
                    raise
                self._caller.observe(self.name, "ok", context.now() - began)
        return done[0]

    async def _once(
        self, do: Callable[[Client], Awaitable[R]], headers: dict[str, str], *, repeats: bool
    ) -> R:
        if _CONNECTIONS not in sys.modules:
            await asyncio.to_thread(importlib.import_module, _CONNECTIONS)
        from functions.orchestration.tools import mcp_connection, mcp_transport  # noqa: PLC0415

        exchange = mcp_transport.Exchange(headers)
        token = mcp_transport.current_exchange.set(exchange)
        was_open = self._connection is not None and not self._connection.ended
        connection = self._connection if was_open else None
        if connection is None:
            connection = self._connection = mcp_connection.Connection(self.name, self._destination.url)
        opened = False
        try:
            with connection.in_use():
                client = await connection.client()
                opened = True
                exchange.begun = False
                result = await do(client)
        except Exception as error:
            if exchange.status in {400, 404}:
                # The session may have been lost with a replica. Other calls on it come to their end.
                connection.retire()
            raise call_error(self.name, error, exchange, had_session=was_open, repeats=repeats) from error
        finally:
            mcp_transport.current_exchange.reset(token)
            if not opened:
                connection.retire()
        self._destination.answered()
        return result


def _meta(key: str) -> Any:
    return {KEY_META: key}
