"""The work on one request, and what may end it before it has answered.

    async with WorkScope(receive, context, active):
        ...                                   the body has been read; here the answer is made and sent

The block is cancelled when the deadline passes, the client disconnects, or the replica stops. It runs in the
server's task, not in one of its own: every switch between tasks is time before the first token.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

from functions.contract import Problem
from functions.http.request_body import ClientDisconnectedError
from functions.problems import ProblemError
from functions.stage import RequestContext


class ActiveWork:
    """All requests that a replica works on now."""

    def __init__(self) -> None:
        self._scopes: set[WorkScope] = set()

    def add(self, scope: WorkScope) -> None:
        """A block begins."""
        self._scopes.add(scope)

    def discard(self, scope: WorkScope) -> None:
        """A block has ended."""
        self._scopes.discard(scope)

    def abort(self, problem: Problem) -> None:
        """End the work on every request; each client is told `problem`."""
        for scope in tuple(self._scopes):
            scope.abort(problem)


class WorkScope:
    """An asynchronous context manager around the work on one request.

    Leaving it raises what ended the block early:

    - TimeoutError: the deadline passed.
    - ClientDisconnectedError: there is nobody to answer.
    - ProblemError: `abort`.

    Args:
        receive: of the request; what it still gives of the body is ignored.
        context: of the request; has the deadline, and may get another one while the block runs.
        active: where the scope is listed while the block runs.
    """

    __slots__ = ("_active", "_context", "_receive", "_stopped", "_timeout", "_watcher")

    def __init__(self, receive: Receive, context: RequestContext, active: ActiveWork) -> None:
        self._receive = receive
        self._context = context
        self._active = active
        self._timeout = asyncio.timeout(context.remaining())
        self._stopped: Exception | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._context.on_deadline(self._reschedule)
        self._watcher = asyncio.create_task(self._watch())
        self._active.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active.discard(self)
        assert self._watcher is not None
        self._watcher.cancel()
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            if self._stopped is not None:
                raise self._stopped from None
            raise

    def abort(self, problem: Problem) -> None:
        """Cancel the block; leaving it raises `problem`."""
        self._stop(ProblemError.of(problem))

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._stop(ClientDisconnectedError())

    def _stop(self, reason: Exception) -> None:
        if self._stopped is None and not self._timeout.expired():
            self._stopped = reason
            self._timeout.reschedule(asyncio.get_running_loop().time())

    def _reschedule(self, seconds: float) -> None:
        if self._stopped is None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + seconds)
