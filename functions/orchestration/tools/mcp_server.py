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
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from functions.calls.failures import outcome_of
from functions.calls.retries import CallRetries
from functions.dialogue import MAX_TOOLS, FunctionSpec
from functions.orchestration.tools.config import McpConfig
from functions.orchestration.tools.http_calls import Caller, Destination, in_time
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

MAX_PAGES = 16
"""Of one list of tools."""
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
        self._listed: float | None = None
        self._listing: asyncio.Task[None] | None = None

    async def specs(self, context: RequestContext) -> tuple[FunctionSpec, ...]:
        """See `ToolServer.specs`; the last list stays while the server cannot be asked."""
        if self._is_stale(context):
            try:
                # Shared by all who wait, so that it does not end with the first one's request.
                await asyncio.shield(self._begin_listing(context))
            except ProblemError as error:
                if self._listed is None:
                    raise
                log.warning("tools cannot be listed", extra={"target": self.name, "reason": str(error)})
        return tuple(spec_of(name, tool) for name, tool in self._tools.items())

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

    def prepare(self, context: RequestContext) -> None:
        """See `ToolServer.prepare`: the model is shown the tools with its first turn."""
        if self._is_stale(context):
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

    def _is_stale(self, context: RequestContext) -> bool:
        return self._listed is None or context.now() - self._listed > self._config.refresh_seconds

    def _begin_listing(self, context: RequestContext) -> asyncio.Task[None]:
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._list(context))
            # It may fail with nobody waiting.
            self._listing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._listing

    async def _list(self, context: RequestContext) -> None:
        try:
            async with in_time(self.name, self._config.timeout_seconds, context):
                found = await self._retried(self._all_pages, context, {}, repeats=True)
        except TimeoutError:
            late = f"tool server {self.name} did not list its tools within {self._config.timeout_seconds:g} s"
            raise ProblemError(504, late, stage=self.name) from None
        tools: dict[str, mcp_types.Tool] = {}
        for tool in found:
            name = visible_name(self.name, tool.name)
            if self._config.only is None or tool.name in self._config.only:
                tools.setdefault(name, tool)
        absent = sorted(set(self._config.only or ()) - {tool.name for tool in tools.values()})
        if absent:
            log.warning("tools are not listed", extra={"target": self.name, "reason": ", ".join(absent)})
        self._tools = tools
        self._listed = context.now()

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
            log.warning("more tools than can be shown", extra={"target": self.name, "reason": str(MAX_TOOLS)})
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
        await asyncio.to_thread(importlib.import_module, "functions.orchestration.tools.mcp_connection")
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
