"""Whether the parts of a trigger work: one log line when a part stops working and one when it works again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

log = logging.getLogger("triggers")

Part: TypeAlias = Literal["source", "target", "deadLetter", "reply"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a part does not work."""

    reason: str
    """One word for a condition."""
    message: str


class Health:
    """The state of the parts of one trigger; a part that has not been used yet is in no trouble."""

    def __init__(self, trigger: str, changed: Callable[[Part, bool], None]) -> None:
        """`changed` is told of every failure and every recovery."""
        self._trigger = trigger
        self._changed = changed
        self._troubles: dict[Part, Trouble] = {}

    def trouble(self, part: Part) -> Trouble | None:
        """None: it works, or was not used yet."""
        return self._troubles.get(part)

    def works(self, part: Part) -> None:
        """It did what it should."""
        if self._troubles.pop(part, None) is not None:
            log.info("trigger %s: the %s works again", self._trigger, _NAMES[part])
            self._changed(part, True)

    def fails(self, part: Part, reason: str, message: str) -> None:
        """It did not. Only another reason than the last one is logged."""
        before, now = self._troubles.get(part), Trouble(reason, message)
        self._troubles[part] = now
        self._changed(part, False)
        if before is None or before.reason != reason:
            log.warning("trigger %s: %s: %s", self._trigger, _NAMES[part], message)


_NAMES: dict[Part, str] = {
    "source": "queue",
    "target": "target",
    "deadLetter": "dead-letter queue",
    "reply": "reply queue",
}
