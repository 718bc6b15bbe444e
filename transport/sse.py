"""Server-sent events (WHATWG HTML, section 9.2): reading them from bytes cut anywhere, and writing."""

from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Bytes of one event at most, so that a peer cannot make its reader collect without end."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event."""

    name: str
    """Its `event` field; `message` without one."""
    data: str
    """Its `data` fields, one line each; empty for a block that has none (see `EventParser`)."""
    raw: bytes = field(default=b"", compare=False)
    """The bytes as they came, with the blank line behind them; for passing the event on."""


class EventParser:
    """Takes the pieces of a stream and gives the events that they complete.

    Lines end with a line feed, with or without a carriage return. Each byte is looked at once or twice,
    however small the pieces are.

    Args:
        with_comments: give a block of comments alone as an event without data, too. Servers send such blocks
            to keep connections open, and a proxy passes them on.
    """

    def __init__(self, *, with_comments: bool = False) -> None:
        self._with_comments = with_comments
        self._unfinished: list[bytes] = []
        """Pieces of the line whose end has not come."""
        self._lines: list[bytes] = []
        """Complete lines of the event whose end has not come, line feeds included."""
        self._size = 0
        """Bytes of both."""

    def feed(self, piece: bytes) -> Iterator[ServerSentEvent]:
        """The events that are complete with this piece.

        Raises:
            ValueError: an event of more than `MAX_EVENT_BYTES`, or bytes that are not UTF-8.
        """
        begin = 0
        while end := piece.find(b"\n", begin) + 1:
            self._unfinished.append(piece[begin:end])
            line = b"".join(self._unfinished)
            self._unfinished.clear()
            self._add(end - begin)
            self._lines.append(line)
            begin = end
            if line in (b"\n", b"\r\n"):
                lines, self._lines, self._size = self._lines, [], 0
                event = _event(lines)
                if event is not None:
                    yield event
                elif self._with_comments and len(lines) > 1:
                    yield ServerSentEvent("message", "", b"".join(lines))
        if begin < len(piece):
            self._unfinished.append(piece[begin:])
            self._add(len(piece) - begin)

    def _add(self, size: int) -> None:
        self._size += size
        if self._size > MAX_EVENT_BYTES:
            raise ValueError(f"an event has more than {MAX_EVENT_BYTES} bytes")


def encode_event(data: bytes, name: str | None = None) -> bytes:
    """One event with the blank line behind it. The data is one line, as JSON is."""
    head = b"" if name is None else b"event: %b\n" % name.encode()
    return b"%bdata: %b\n\n" % (head, data)


def _event(lines: list[bytes]) -> ServerSentEvent | None:
    """The event of these lines; None without data."""
    name = ""
    data: list[str] = []
    for raw in lines:
        field_name, _, value = raw.removesuffix(b"\n").removesuffix(b"\r").decode().partition(":")
        if field_name == "event":
            name = value.removeprefix(" ")
        elif field_name == "data":
            data.append(value.removeprefix(" "))
    return ServerSentEvent(name or "message", "\n".join(data), b"".join(lines)) if data else None
