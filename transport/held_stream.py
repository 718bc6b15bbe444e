"""A response that speaks before it has anything to say: a stream whose request waits for a start.

The head of the stream is sent, then comments, which every reader of server-sent events skips, so that no load
balancer takes the connection for dead:

    : warming phase=weights 62% elapsed=4.1s

What the application answers then follows. A stream is passed on, its `Server-Timing` as a comment, since the
head is gone. Anything else becomes an `error` event of the dialect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from transport.headers import Field
from transport.stream_dialects import Dialect, error_event

PROGRESS = b"x-pilotlight-progress"
"""Request field; `off` asks for no comments, and so for the status and the head of the answer itself."""
OFF = b"off"
BEGIN_S = 0.25
"""A start that is done sooner is answered with its own head."""
_MAX_ERROR_BYTES = 64 * 1024

Send = Callable[[Any], Awaitable[None]]
"""ASGI's `send`; servers differ in the type of the message, which is a mapping."""


class HeldStream:
    """ASGI's `send` of one request.

    Args:
        send: the server's.
        dialect: of the stream that the request asks for.
        head: further fields of the head.
        timing: what the comment says about times; None for the answer's own `Server-Timing`.
        on_begin: called before the head is sent.
        on_end: called with the length of the last piece before that is sent.
    """

    def __init__(
        self,
        send: Send,
        dialect: Dialect,
        *,
        head: Sequence[Field] = (),
        timing: Callable[[], str] | None = None,
        on_begin: Callable[[], None] = lambda: None,
        on_end: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._send = send
        self._dialect = dialect
        self._head = [*STREAM_HEADERS, *head]
        self._timing = timing
        self._on_begin = on_begin
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None
        self._error: bytearray | None = None
        self.begun = False
        """Whether the head was sent before there was an answer."""
        self.answered = False
        """Whether the answer has begun."""
        self.status: int | None = None
        """That of the answer."""

    def speak(self, describe: Callable[[], str], *, every_s: float, after_s: float = BEGIN_S) -> None:
        """Send the head after a while, and then comments, until the answer begins or `stop`."""
        if self._task is None and not self.answered:
            self._task = asyncio.create_task(self._speak(describe, every_s, after_s))

    def stop(self) -> None:
        """Send no more comments."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """A message of the application's answer."""
        if message["type"] == "http.response.start":
            self.stop()
            self.answered = True
            self.status = int(message["status"])
            if not self.begun:
                await self._send(message)
            elif _is_stream(message):
                await self._comment_timing(message.get("headers", ()))
            else:
                self._error = bytearray()
        elif self._error is None:
            if self.begun and not message.get("more_body", False):
                self._on_end(len(message.get("body", b"")))
            await self._send(message)
        else:
            await self._collect(self._error, message)

    async def _speak(self, describe: Callable[[], str], every_s: float, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.begun = True
        self._on_begin()
        await self._send({"type": "http.response.start", "status": 200, "headers": self._head})
        while True:
            await self._comment(describe())
            await asyncio.sleep(every_s)

    async def _comment(self, text: str) -> None:
        line = b": " + text.encode("latin-1", "replace").replace(b"\n", b" ").replace(b"\r", b" ")
        await self._send({"type": "http.response.body", "body": line + b"\n\n", "more_body": True})

    async def _comment_timing(self, headers: list[Field]) -> None:
        found = ", ".join(value.decode("latin-1") for name, value in headers if name == b"server-timing")
        timing = found if self._timing is None else self._timing()
        if timing:
            await self._comment(f"server-timing {timing}")

    async def _collect(self, error: bytearray, message: MutableMapping[str, Any]) -> None:
        body = message.get("body", b"")
        error += body[: max(0, _MAX_ERROR_BYTES - len(error))]
        if message.get("more_body", False):
            return
        status = self.status or 500
        if status < 400:
            status, content = 502, b'{"detail": "the answer is no stream of events", "retryable": false}'
        else:
            content = bytes(error)
        event = error_event(self._dialect, status, content)
        self._on_end(len(event))
        await self._send({"type": "http.response.body", "body": event, "more_body": False})


def progress_text(phase: str, elapsed_s: float, usual_s: float | None) -> str:
    """A comment's text.

    Args:
        phase: what the start is doing.
        elapsed_s: seconds since the request arrived.
        usual_s: seconds that the last such start took; None where none is known, and then there is no share.
    """
    share = "" if not usual_s else f" {min(99, int(100 * elapsed_s / usual_s))}%"
    return f"warming phase={phase}{share} elapsed={elapsed_s:.1f}s"


STREAM_HEADERS: tuple[Field, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Some proxies would otherwise collect a stream before they pass it on.
    (b"x-accel-buffering", b"no"),
)
"""Fields of a stream's head."""


def _is_stream(message: MutableMapping[str, Any]) -> bool:
    if message["status"] != 200:
        return False
    types = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
    return bool(types) and types[0].startswith(b"text/event-stream")
