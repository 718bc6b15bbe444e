"""Which cached files to evict: least recently used first. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class EvictionCandidate:
    """A cached file that could be evicted. `last_used` is in seconds of the file system's clock."""

    name: str
    size: int
    last_used: float
    in_use: bool
    """Whether a living process uses it."""


def least_recently_used(candidates: Iterable[EvictionCandidate], quota: int) -> tuple[EvictionCandidate, ...]:
    """The candidates to evict so that the others take at most `quota` bytes, those unused for longest first.

    What is in use is never among them, even if the others then exceed the quota.

    Args:
        candidates: all cached files.
        quota: in bytes, at least 0.
    """
    ordered = sorted(candidates, key=lambda candidate: (candidate.last_used, candidate.name))
    excess = sum(candidate.size for candidate in ordered) - quota
    chosen = []
    for candidate in ordered:
        if excess <= 0:
            break
        if not candidate.in_use:
            chosen.append(candidate)
            excess -= candidate.size
    return tuple(chosen)
