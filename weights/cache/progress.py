"""What the caller of a pull is told, and how it steers one that is under way."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

from weights import processors


def default_concurrency() -> int:
    """Ranged reads at a time: eight for each processor that may be used, between 16 and 64."""
    return min(64, max(16, int(8 * processors.available())))


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a pull is, in bytes and seconds."""

    done_bytes: int
    total_bytes: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class TransferControl:
    """One caller's request to transfer files, through all its attempts."""

    progress: Callable[[Progress], None] | None = None
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    """Set to give up at once."""
    until: threading.Event = dataclasses.field(default_factory=threading.Event)
    """Set to fetch nothing more; files that are complete by then are still verified and published."""
    started: float = dataclasses.field(default_factory=time.monotonic)
    concurrency: int = dataclasses.field(default_factory=default_concurrency)

    @property
    def seconds(self) -> float:
        """Seconds since the request was made."""
        return time.monotonic() - self.started
