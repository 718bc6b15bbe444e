"""How often and after which waits a failed read is repeated. Pure."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ReadRetryPolicy:
    """Attempts, back-off and time-outs of a reader. All durations in seconds."""

    attempts: int = 8
    """Consecutive attempts without a single byte after which a read fails."""
    connect_attempts: int = 3
    """The same for failed connections: an endpoint that is not there usually stays away."""
    first_wait: float = 0.1
    longest_wait: float = 5.0
    connect_timeout: float = 5.0
    read_timeout: float = 15.0
    """A connection that delivers nothing for this long is dropped and the read resumed on another one."""

    def wait(self, failures: int, jitter: float) -> float:
        """Seconds before the next attempt.

        Exponential back-off with full jitter (https://aws.amazon.com/blogs/architecture/
        exponential-backoff-and-jitter/), but at least a quarter of the exponential value.

        Args:
            failures: consecutive failures so far, from 1.
            jitter: uniform in [0, 1).
        """
        ceiling = min(self.longest_wait, self.first_wait * 2.0 ** (failures - 1))
        return ceiling * (0.25 + 0.75 * jitter)
