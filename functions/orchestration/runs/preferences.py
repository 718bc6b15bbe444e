"""What a request's `Prefer` field asks for (RFC 7240; pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MAX_WAIT_S: Final = 3600.0
_WAIT: Final = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True)
class Preferences:
    """The preferences that a stage knows; others are ignored, as the standard says."""

    respond_async: bool = False
    wait_s: float | None = None
    """Seconds for which the client waits for the answer itself."""


def parse_preferences(values: Iterable[str]) -> Preferences:
    """The preferences in all `Prefer` fields of a request; of one that stands twice the first counts."""
    found: dict[str, str] = {}
    for part in ",".join(values).split(","):
        name, _, value = part.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = found.get("wait", "")
    return Preferences(
        respond_async="respond-async" in found,
        wait_s=min(float(wait), MAX_WAIT_S) if _WAIT.fullmatch(wait) else None,
    )
