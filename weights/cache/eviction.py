"""Which cached files to give up. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A cached file. `last_used` in seconds of the file system's clock; `in_use` by a living process."""

    name: str
    size: int
    last_used: float
    in_use: bool


def least_recently_used(candidates: Iterable[Candidate], quota: int) -> tuple[Candidate, ...]:
    """The candidates to remove so that the rest takes at most `quota` bytes, longest unused first.

    What is in use is never among them, even if the rest is then larger than the quota.

    Args:
        candidates: all cached files.
        quota: in bytes, from 0.
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
