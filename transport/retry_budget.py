"""Limits the retries to one target to a share of its requests, so that retries cannot keep an overload alive.

The same idea as the retry budgets of Finagle and Linkerd. A balance starts at a reserve, which lets a client
with few requests retry at all. Each request adds a fifth of a retry, each retry takes one. A balance is never
above the reserve.
"""

from __future__ import annotations

RATIO = 0.2
"""Retries that one request earns."""
RESERVE = 10.0
"""Retries that may be made in a burst."""
REFILL_S = 10.0
"""Seconds in which time alone earns one retry, so that a reserve that is spent comes back."""


class RetryBudget:
    """The balance of one target. Instants are seconds of one monotonic clock, given by the caller.

    Args:
        ratio: retries that one request earns.
        reserve: the balance at the start, and its upper bound.
        refill_s: seconds in which time alone earns one retry.
    """

    def __init__(self, *, ratio: float = RATIO, reserve: float = RESERVE, refill_s: float = REFILL_S) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self._refill_s = refill_s
        self._balance = reserve
        self._updated: float | None = None

    def add_request(self, now: float) -> None:
        """A request is made for the first time."""
        self._refill(now)
        self._balance = min(self._reserve, self._balance + self._ratio)

    def take_retry(self, now: float) -> bool:
        """Whether a request may be sent again now; if so, the retry is taken from the balance."""
        self._refill(now)
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True

    def _refill(self, now: float) -> None:
        if self._updated is not None:
            earned = max(0.0, now - self._updated) / self._refill_s
            self._balance = min(self._reserve, self._balance + earned)
        self._updated = now
