"""What can be wrong with a run's place in the store."""

from __future__ import annotations

from typing import Final, Literal

Cause = Literal["away", "busy", "full", "read-only", "damaged", "version", "refused"]
PASSING: Final = frozenset({"away", "busy", "full"})
"""Causes that may be gone a moment later."""


class DatabaseError(Exception):
    """The database did not do what was asked; nothing of it was done.

    Args:
        cause: what is wrong with it.
        detail: one sentence for the user.
    """

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause

    @property
    def passing(self) -> bool:
        """Whether it may be gone a moment later."""
        return self.cause in PASSING


class SchemaVersionError(Exception):
    """The database was written by a newer version of this program."""


class LeaseLostError(Exception):
    """Another replica has the run, or somebody ended it: this one stops at once and writes nothing."""


class TooManyRunsError(Exception):
    """The caller has as many unfinished runs as it may have."""
