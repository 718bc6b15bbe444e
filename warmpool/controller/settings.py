"""What an operator can configure about the control loop."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Settings:
    """Intervals and bounds of the control loop."""

    interval: timedelta = timedelta(seconds=15)
    """Time between two passes over every pool: what no watch announces (demand) is noticed this late."""
    recheck: timedelta = timedelta(minutes=2)
    """A pool about which nothing has changed is reconciled again after this long, or up to twice as long."""
    resync: timedelta = timedelta(minutes=30)
    """Time between two complete lists, in case a watch has missed something."""
    parallel: int = 16
    """Concurrent requests to the API."""
    gather: timedelta = timedelta(milliseconds=50)
    """How long watch events are collected before a pass, so that one rollout is one pass."""
    retry_first: timedelta = timedelta(seconds=1)
    """Time to the first retry after the API failed; it doubles each time."""
    retry_last: timedelta = timedelta(seconds=30)
    """The longest time between two retries."""
