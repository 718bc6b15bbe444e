"""What replicas use in a window, from two readings of what they have used, for `kubectl top`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

K = TypeVar("K", bound=Hashable)


class Used(Protocol):
    """What a replica uses."""

    @property
    def cpu_s(self) -> float:
        """CPU seconds since its start."""

    @property
    def memory_bytes(self) -> int:
        """Memory now."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A replica's use in a window that ended at `at` (seconds)."""

    at: float
    window_s: float
    cpu_cores: float
    """On average over the window."""
    memory_bytes: int
    """At its end."""


class Meter(Generic[K]):
    """Makes use in a window of two readings of CPU seconds since the start, as metrics-server does."""

    def __init__(self) -> None:
        self._before: dict[K, tuple[float, float]] = {}
        self.measured: dict[K, Measured] = {}
        """By replica; who was read only once is not in it."""

    def read(self, now: float, used: Mapping[K, Used]) -> None:
        """Take a reading of all replicas; one that is not in it, or has started anew, begins afresh."""
        measured = {}
        for pod, use in used.items():
            before = self._before.get(pod)
            if before is not None and before[0] < now and before[1] <= use.cpu_s:
                window = now - before[0]
                measured[pod] = Measured(now, window, (use.cpu_s - before[1]) / window, use.memory_bytes)
        self._before = {pod: (now, use.cpu_s) for pod, use in used.items()}
        self.measured = measured
