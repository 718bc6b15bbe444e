"""What a consumer group has done of a partition, kept in the metadata of its committed offset (pure).

Kafka remembers one number for each partition: where to read on. Messages behind one that waits for its retry
are done earlier than it; they, and the attempts of those that are not done, are written beside that number,
so that neither is forgotten by a restart or by another consumer of the group.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Self

MAX_SPAN: Final = 4096
"""Offsets from the first one that is not done to the last one that is: a bit for each fits the metadata."""
MAX_ATTEMPTS: Final = 150
"""Messages of one partition with attempts of which the metadata tells."""
_VERSION: Final = 1


class PartitionProgress:
    """Offsets of one partition: fetched, done, and how often those that are not done were tried."""

    def __init__(self, done: set[int] | None = None, attempts: Mapping[int, int] | None = None) -> None:
        self._outstanding: dict[int, None] = {}
        self._next: int | None = None
        self._done = set(done or ())
        self._attempts = dict(attempts or {})

    @classmethod
    def from_metadata(cls, offset: int, text: str | None) -> Self:
        """What an earlier consumer wrote at its committed offset; anything else counts as nothing done."""
        try:
            found: Any = json.loads(text or "{}")
            if not isinstance(found, dict) or found.get("v") != _VERSION:
                return cls()
            bits = int(found["d"], 16)
            attempts = {offset + int(at): int(count) for at, count in found["a"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()
        done = {offset + at for at in range(min(bits.bit_length(), MAX_SPAN + 1)) if bits >> at & 1}
        return cls(done, attempts)

    def metadata(self) -> str:
        """To be committed with `position`; at most 3 kB, of the 4 kB that a broker takes by default."""
        position = self.position or 0
        bits = 0
        for offset in self._done:
            if offset >= position:
                bits |= 1 << (offset - position)
        kept = sorted(self._attempts.items(), key=lambda item: -item[1])[:MAX_ATTEMPTS]
        attempts = {str(offset - position): count for offset, count in sorted(kept) if offset >= position}
        return json.dumps({"v": _VERSION, "d": f"{bits:x}", "a": attempts}, separators=(",", ":"))

    @property
    def position(self) -> int | None:
        """The first offset that is not done. None: nothing was fetched yet."""
        return next(iter(self._outstanding), self._next)

    @property
    def full(self) -> bool:
        """So much lies behind a message that is not done that the metadata could not hold more."""
        position = self.position
        if position is None or self._next is None:
            return False
        return self._next - position >= MAX_SPAN - 512 or len(self._attempts) >= MAX_ATTEMPTS - 10

    @property
    def outstanding(self) -> int:
        """Messages that were fetched and are not done."""
        return len(self._outstanding)

    @property
    def done_ahead(self) -> int:
        """Messages that are done, behind one that is not."""
        return len(self._done)

    def fetched(self, offset: int) -> bool:
        """Note a message in the order of the partition; False for one that is done already."""
        self._next = offset + 1
        if offset in self._done:
            self._prune()
            return False
        self._outstanding[offset] = None
        return True

    def attempts(self, offset: int) -> int:
        """Attempts that were noted of a message."""
        return self._attempts.get(offset, 0)

    def note_attempt(self, offset: int, attempt: int) -> bool:
        """Note that an attempt began; False if that is known."""
        if offset not in self._outstanding or self._attempts.get(offset, 0) >= attempt:
            return False
        self._attempts[offset] = attempt
        return True

    def finish(self, offset: int) -> None:
        """The message is done."""
        if offset in self._outstanding:
            del self._outstanding[offset]
            self._done.add(offset)
            self._attempts.pop(offset, None)
            self._prune()

    def _prune(self) -> None:
        position = self.position or 0
        if self._done and min(self._done) < position:
            self._done = {offset for offset in self._done if offset >= position}
        if self._attempts and min(self._attempts) < position:
            self._attempts = {offset: n for offset, n in self._attempts.items() if offset >= position}
