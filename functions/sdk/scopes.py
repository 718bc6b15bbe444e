"""Values of dependencies while they live: with the replica, or with one request.

A synchronous function cannot be stopped. Where its request ends early, what it still uses stays open until it
has returned.
"""

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self

from functions.sdk.dependencies import Dependency, Lifetime, Needs
from functions.sdk.values import Call, Config


class Threads:
    """Where synchronous functions run, and what is still open because one of them has not returned.

    Args:
        most: functions that run at the same time; further ones wait.
    """

    def __init__(self, most: int) -> None:
        self._executor = ThreadPoolExecutor(most, thread_name_prefix="function")
        self._closing: set[asyncio.Task[None]] = set()

    async def run(self, function: Callable[[], Any], left: set[asyncio.Future[Any]] | None = None) -> Any:
        """Call a function in a thread.

        Args:
            function: synchronous.
            left: gets the call if this is cancelled while the function runs.
        """
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._executor, partial(context.run, function))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            if not running.done():
                running.add_done_callback(_observed)
                if left is not None:
                    left.add(running)
            raise

    def close_after(self, left: set[asyncio.Future[Any]], close: Callable[[], Awaitable[object]]) -> None:
        """Call `close` in the background once all of `left` have returned."""

        async def closing() -> None:
            await asyncio.wait(left)
            await close()

        task = asyncio.create_task(closing())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self, seconds: float) -> None:
        """Wait for what is left, at most so long, and take no more."""
        if self._closing:
            await asyncio.wait(self._closing, timeout=seconds)

    def shutdown(self) -> None:
        """Take no more; what runs is not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class Scope:
    """The values of one lifetime, made on demand, each once; closed in the reverse order.

    Args:
        lifetime: of the dependencies that are made here.
        threads: run what is synchronous.
        configs: the settings by class.
        outer: the replica's, for a request's.
        call: of the request.
        replaced: providers that stand in for others, for tests.
    """

    def __init__(
        self,
        lifetime: Lifetime,
        threads: Threads,
        configs: Mapping[type[Config], Config],
        *,
        outer: "Scope | None" = None,
        call: Call | None = None,
        replaced: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
    ) -> None:
        self._lifetime = lifetime
        self._threads = threads
        self._configs = configs
        self._outer = outer
        self._call = call
        self._replaced = replaced or {}
        self._values: dict[Callable[..., Any], Any] = {}
        self._stack = AsyncExitStack()
        self._left: set[asyncio.Future[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._left:
            await self._stack.__aexit__(kind, error, trace)
            return
        self._threads.close_after(self._left, partial(self._stack.__aexit__, kind, error, trace))

    async def fill(self, needs: Needs) -> dict[str, Any]:
        """The parameters that a function needs, by name."""
        values: dict[str, Any] = dict.fromkeys(needs.calls, self._call)
        values |= {name: self._configs[kind] for name, kind in needs.configs.items()}
        for name, dependency in needs.dependencies.items():
            values[name] = await self._value(dependency)
        return values

    async def make_all(self, needs: Needs) -> None:
        """Make every value of this lifetime that a function needs, also by way of other dependencies."""
        for dependency in needs.dependencies.values():
            if dependency.lifetime == self._lifetime:
                await self._value(dependency)
            else:
                await self.make_all(dependency.needs)

    async def run(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Call a function, a synchronous one in a thread."""
        if inspect.iscoroutinefunction(function):
            return await function(**arguments)
        result = await self._in_thread(partial(function, **arguments))
        return await result if inspect.isawaitable(result) else result

    async def _value(self, dependency: Dependency) -> Any:
        if dependency.lifetime != self._lifetime:
            assert self._outer is not None, "what lives with the replica asks for nothing of a request"
            return await self._outer._value(dependency)  # noqa: SLF001 - the same class
        if dependency.provider not in self._values:
            arguments = {} if dependency.provider in self._replaced else await self.fill(dependency.needs)
            provider = self._replaced.get(dependency.provider, dependency.provider)
            self._values[dependency.provider] = await self._enter(provider, arguments)
        return self._values[dependency.provider]

    async def _enter(self, provider: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        if inspect.isasyncgenfunction(provider):
            return await self._stack.enter_async_context(asynccontextmanager(provider)(**arguments))
        if not inspect.isgeneratorfunction(provider):
            return await self.run(provider, arguments)
        manager = contextmanager(provider)(**arguments)
        value = await self._in_thread(manager.__enter__)

        async def leave(
            kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> bool | None:
            swallowed: bool | None = await self._in_thread(partial(manager.__exit__, kind, error, trace))
            return swallowed

        self._stack.push_async_exit(leave)
        return value

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        return await self._threads.run(function, self._left)


def _observed(running: asyncio.Future[Any]) -> None:
    """Nobody waits for the result any more."""
    if not running.cancelled():
        running.exception()
