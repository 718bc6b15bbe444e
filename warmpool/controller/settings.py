"""What an operator can tell the controller."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Settings:
    """Times and bounds of the control loop."""

    interval: timedelta = timedelta(seconds=15)
    """Time between two looks at every pool: what nobody announces (demand) is seen this late."""
    relook: timedelta = timedelta(minutes=2)
    """A pool about which nothing has changed is looked at again after this long, or up to twice as long."""
    resync: timedelta = timedelta(minutes=30)
    """Time between two full lists, in case a watch has lost something."""
    parallel: int = 16
    """Requests to the API at a time."""
    gather: timedelta = timedelta(milliseconds=50)
    """How long to collect what watches report before looking, so that one rollout is one look."""
    retry_first: timedelta = timedelta(seconds=1)
    """Time to the first retry after the API failed; it doubles each time."""
    retry_last: timedelta = timedelta(seconds=30)
    """The longest time between two retries."""
