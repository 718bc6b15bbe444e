"""The timeouts that a Revision sets on each request, after pkg/http/handler/timeout.go of Knative Serving.

`timeoutSeconds` bounds the whole exchange: the wait for a replica, a streamed response to its end, and an
upgraded connection. `responseStartTimeoutSeconds` bounds the time to the response's first byte, and
`idleTimeoutSeconds` each pause between two pieces of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from knative.local.routing import RevisionSpec


class RequestTimeouts:
    """The timers of one request. When one expires, `expired` names it and the request's task is cancelled."""

    __slots__ = ("_idle", "_last_piece", "_loop", "_start", "_task", "_total", "expired")

    def __init__(self, spec: RevisionSpec, task: asyncio.Task[None]) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._task = task
        self._last_piece = 0.0
        self.expired: str | None = None
        self._total = loop.call_later(spec.timeout_s, self._expire, "timeoutSeconds", spec.timeout_s)
        self._start = self._timer(spec.response_start_timeout_s, self._start_expired)
        self._idle = self._timer(spec.idle_timeout_s, self._idle_expired)

    @property
    def watches_pauses(self) -> bool:
        """Whether `piece_arrived` is to be called for each piece of the response."""
        return self._idle is not None

    def response_started(self) -> None:
        """The response's head has arrived."""
        self._last_piece = self._loop.time()
        if self._start is not None:
            self._start.cancel()

    def piece_arrived(self) -> None:
        """A piece of the response's body has arrived."""
        self._last_piece = self._loop.time()

    def connection_upgraded(self) -> None:
        """The connection now carries another protocol, whose pauses are its own affair."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def stop(self) -> None:
        """The exchange is over."""
        for timer in (self._total, self._start, self._idle):
            if timer is not None:
                timer.cancel()

    def _timer(self, seconds: float | None, callback: Callable[[float], None]) -> asyncio.TimerHandle | None:
        return None if seconds is None else self._loop.call_later(seconds, callback, seconds)

    def _expire(self, field: str, seconds: float) -> None:
        self.expired = f"the {seconds:g} s that the Service allows ({field})"
        self._task.cancel()

    def _start_expired(self, seconds: float) -> None:
        self._expire("responseStartTimeoutSeconds", seconds)

    def _idle_expired(self, seconds: float) -> None:
        left = self._last_piece + seconds - self._loop.time()
        if self._last_piece and left > 0:
            self._idle = self._loop.call_later(left, self._idle_expired, seconds)
        else:
            self._expire("idleTimeoutSeconds", seconds)
