"""Reading server-sent events from bytes that arrive in any pieces (the parser of WHATWG HTML, section 9.2).

Writing is one line (`functions.contract.encode_event`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Bytes of one event; a peer that sends more is broken."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event with its name (`message` without one) and its data."""

    name: str
    data: str


class EventParser:
    """Feed it bytes, get the events that they complete.

    Comments, ids and retry times are skipped. Lines end with a line feed, with or without a carriage return.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[ServerSentEvent]:
        """The events that are complete with this piece.

        Raises:
            ValueError: an event past `MAX_EVENT_BYTES`, or bytes that are not UTF-8.
        """
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        if self._size + len(self._rest) > MAX_EVENT_BYTES:
            raise ValueError(f"an event has more than {MAX_EVENT_BYTES} bytes")
        for raw in lines:
            line = raw.removesuffix(b"\r").decode()
            if not line:
                if self._data:
                    yield ServerSentEvent(self._name or "message", "\n".join(self._data))
                self._name, self._data, self._size = "", [], 0
                continue
            self._size += len(raw)
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                self._name = value
            elif field == "data":
                self._data.append(value)
