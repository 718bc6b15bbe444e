"""Whether a response of OpenAI's API declines to answer: by its members, else by how its text begins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from functions.text.refusals import OPENING, declines

LONGEST = 16_384
"""Bytes of a response's beginning that are looked at."""


class Beginning:
    """The first bytes of a response that passes in pieces."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        """Take over what is needed of the next piece."""
        if len(self._data) < LONGEST:
            self._data += data[:LONGEST]

    @property
    def refused(self) -> bool:
        """Whether the response declines, as far as it has come."""
        return refused(bytes(self._data))


def refused(beginning: bytes) -> bool:
    """Whether the first choice declines.

    Args:
        beginning: a JSON body, or the first `LONGEST` bytes of a stream of events; anything else does not.
    """
    text = ""
    for value in _objects(beginning[:LONGEST]):
        choices = value.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            continue
        message = choice.get("message") or choice.get("delta") or {}
        message = message if isinstance(message, dict) else {}
        if choice.get("finish_reason") == "content_filter" or message.get("refusal"):
            return True
        text += str(choice.get("text") or message.get("content") or "")
        if len(text) >= OPENING:
            break
    return declines(text)


def _objects(data: bytes) -> Iterator[dict[str, Any]]:
    lines = [data] if data.lstrip()[:1] == b"{" else data.splitlines()
    for line in lines:
        try:
            value = json.loads(line.removeprefix(b"data:"))
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value
