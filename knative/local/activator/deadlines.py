"""The three limits that a Revision may set on a request, as Knative keeps them (pkg/http/handler/timeout.go).

`timeoutSeconds` is for the whole exchange, a stream's end and an upgraded connection included;
`responseStartTimeoutSeconds` for its beginning; `idleTimeoutSeconds` for each pause in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from knative.local.routing import RevisionSpec


class Deadlines:
    """The timers of one request: when one is over, `expired` says which and the task is cancelled."""

    __slots__ = ("_idle", "_loop", "_moved", "_spec", "_start", "_task", "_total", "expired")

    def __init__(self, spec: RevisionSpec, task: asyncio.Task[None]) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._spec = spec
        self._task = task
        self._moved = 0.0
        self.expired: str | None = None
        self._total = loop.call_later(spec.timeout_s, self._end, "timeoutSeconds", spec.timeout_s)
        self._start = self._timer(spec.response_start_timeout_s, self._not_begun)
        self._idle = self._timer(spec.idle_timeout_s, self._not_moved)

    @property
    def watches_pauses(self) -> bool:
        """`moved` is to be called for every piece."""
        return self._idle is not None

    def begun(self) -> None:
        """The response has begun."""
        self._moved = self._loop.time()
        if self._start is not None:
            self._start.cancel()

    def moved(self) -> None:
        """A piece of the response came."""
        self._moved = self._loop.time()

    def stop(self) -> None:
        """The exchange is over."""
        for timer in (self._total, self._start, self._idle):
            if timer is not None:
                timer.cancel()

    def _timer(self, seconds: float | None, callback: Callable[[float], None]) -> asyncio.TimerHandle | None:
        return None if seconds is None else self._loop.call_later(seconds, callback, seconds)

    def _end(self, name: str, seconds: float) -> None:
        self.expired = f"the {seconds:g} s that the Service allows ({name})"
        self._task.cancel()

    def _not_begun(self, seconds: float) -> None:
        self._end("responseStartTimeoutSeconds", seconds)

    def _not_moved(self, seconds: float) -> None:
        left = self._moved + seconds - self._loop.time()
        if self._moved and left > 0:
            self._idle = self._loop.call_later(left, self._not_moved, seconds)
        else:
            self._end("idleTimeoutSeconds", seconds)
