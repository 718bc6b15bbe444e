"""Servers and loops that run until the platform stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Coroutine
from typing import Any

import uvicorn

from knative.local.platform.config import PlatformError

log = logging.getLogger(__name__)


async def serve(
    server: uvicorn.Server, listeners: list[socket.socket], stack: contextlib.AsyncExitStack
) -> None:
    """Run a server until the stack closes; returns when it answers.

    Raises:
        PlatformError: it ended before it answered.
    """
    # Signals are handled by the program that runs the platform.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    task = asyncio.get_running_loop().create_task(server.serve(sockets=listeners), name="server")

    async def stop() -> None:
        server.should_exit = True
        await task

    stack.push_async_callback(stop)
    while not server.started:
        if task.done():
            task.result()
            raise PlatformError("a server ended before it answered")
        await asyncio.sleep(0.01)


def run(loop: Coroutine[Any, Any, None], name: str, stack: contextlib.AsyncExitStack) -> None:
    """Run a coroutine until the stack closes, and log it if it fails."""
    task = asyncio.get_running_loop().create_task(loop, name=name)
    task.add_done_callback(_log_failure)

    async def stop() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(stop)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (problem := task.exception()) is not None:
        log.critical("the platform's %s has failed", task.get_name(), exc_info=problem)
