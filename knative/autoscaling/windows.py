"""Averages and maxima over sliding windows of time, as Knative's autoscaler computes them.

After pkg/autoscaler/aggregation/bucketing.go and pkg/autoscaler/aggregation/max/window.go (the ascending
minima algorithm). Instants are seconds on any clock that only moves forward; a bucket is one second wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

MIN_SMOOTHING = 0.2
"""The smallest smoothing coefficient, however long the window."""
UNWEIGHTED_SHARE = 1e-4
"""The share of the total weight that values before the window may have."""


def _round_half_up(value: float, digits: int = 6) -> float:
    scale = float(10**digits)
    return math.copysign(math.floor(abs(value) * scale + 0.5), value) / scale


def smoothing_coefficient(buckets: int) -> float:
    """The weight of the newest of `buckets` values in the weighted-exponential average."""
    return max(1.0 - math.pow(UNWEIGHTED_SHARE, 1.0 / buckets), MIN_SMOOTHING)


class LinearWindow:
    """The mean over a window, or over the age of the series while it is younger than the window.

    Seconds without a value count as zeros between values, and shorten the divisor after the last one. After a
    whole window without a value the series starts anew.
    """

    __slots__ = ("_buckets", "_first", "_last", "_total")

    def __init__(self, window_s: float) -> None:
        self._buckets = [0.0] * math.ceil(window_s)
        self._first: int | None = None
        self._last: int | None = None
        self._total = 0.0

    @property
    def window_s(self) -> int:
        """The window's length in seconds."""
        return len(self._buckets)

    def record(self, now: float, value: float) -> None:
        """Add `value` to the second of `now`; ignored if that is older than the window."""
        second = math.floor(now)
        size = len(self._buckets)
        if self._last is None or second >= self._last + size:
            self._buckets = [0.0] * size
            self._total = 0.0
            self._first = self._last = second
        elif second <= self._last - size:
            return
        else:
            for gap in range(self._last + 1, second + 1):
                self._total -= self._buckets[gap % size]
                self._buckets[gap % size] = 0.0
            self._last = max(self._last, second)
            self._first = second if self._first is None else min(self._first, second)
        self._buckets[second % size] += value
        self._total += value

    def record_zeros(self, first: int, last: int) -> None:
        """Add 0 to each second from `first`, which comes after all recorded ones, to `last`."""
        if last < first:
            return
        size = len(self._buckets)
        if self._last is None or first >= self._last + size:
            self._buckets = [0.0] * size
            self._total = 0.0
            self._first = first
        else:
            for gap in range(self._last + 1, min(last, self._last + size) + 1):
                self._total -= self._buckets[gap % size]
                self._buckets[gap % size] = 0.0
        self._last = last

    def stays(self, now: float, level: Callable[[float], float], until: float = math.inf) -> float:
        """The first instant at which `level` of the average has another value, while each second adds 0.

        Args:
            now: a whole second, which has been recorded.
            level: does not fall when its argument rises.
            until: later instants do not matter.
        """
        second = math.floor(now)
        if self._first is None or self._last != second or second != now:
            return now
        size = len(self._buckets)
        total = self._total
        value = level(_round_half_up(total / min(second - self._first + 1, size)))
        end = second + size + 1
        if until != math.inf:
            end = min(end, math.ceil(until))
        for later in range(second + 1, end):
            gone = self._buckets[later % size]
            if not gone and later - self._first >= size:
                continue  # the average is that of the second before
            total -= gone
            if level(_round_half_up(total / min(later - self._first + 1, size))) != value:
                return float(later)
        return math.inf

    def is_empty(self, now: float) -> bool:
        """No value was recorded for longer than the window."""
        return self._last is None or math.floor(now) - self._last > len(self._buckets)

    def average(self, now: float) -> float:
        """The mean per second at `now`; 0 after a whole window without a value."""
        if self._last is None or self._first is None:
            return 0.0
        size = len(self._buckets)
        silent = max(0, math.floor(now) - self._last)
        if silent >= size:
            return 0.0
        total = self._total
        for gap in range(self._last + 1, self._last + silent + 1):
            total -= self._buckets[gap % size]
        return _round_half_up(total / min(self._last - self._first + 1, size - silent))

    def resize(self, window_s: float, now: float) -> None:
        """Change the window's length, keeping the newest values that fit."""
        old, size = self._buckets, math.ceil(window_s)
        if size == len(old):
            return
        fresh = [0.0] * size
        if self._last is not None and not self.is_empty(now):
            for second in range(self._last, self._last - min(size, len(old)), -1):
                fresh[second % size] = old[second % len(old)]
            self._first = self._last - (len(old) - 1)
        else:
            self._first = self._last = None
        self._buckets = fresh
        self._total = sum(fresh)


class WeightedWindow(LinearWindow):
    """The weighted-exponential average: the newest value weighs most and the weights are not normalised."""

    __slots__ = ()

    def average(self, now: float) -> float:
        """The weighted average at `now`: a constant 2 reads twice the coefficient after its first second."""
        if self._last is None or self.is_empty(now):
            return 0.0
        size = len(self._buckets)
        smoothing = smoothing_coefficient(size)
        silent = max(0, math.floor(now) - self._last)
        weight = smoothing * (1.0 - smoothing) ** silent
        average = 0.0
        for age in range(size - silent):
            average += self._buckets[(self._last - age) % size] * weight
            weight *= 1.0 - smoothing
        return average

    def stays(
        self,
        now: float,
        level: Callable[[float], float],
        until: float = math.inf,  # noqa: ARG002 - as in `LinearWindow`
    ) -> float:
        """As in `LinearWindow`; a weighted average is not foretold."""
        return math.inf if level(self.average(now)) == level(0.0) else now


@dataclass(frozen=True, slots=True)
class MaxWindow:
    """The largest of the values recorded at the last `size` indexes. A value: `record` returns the next one.

    Indexes must not decrease. Entries leave when a later one is recorded, not when time passes.
    """

    size: int
    maxima: tuple[tuple[int, int], ...] = ()
    """(index, value), indexes ascending, values strictly descending."""

    def record(self, index: int, value: int) -> MaxWindow:
        """The window after `value` was seen at `index`."""
        kept = [(at, other) for at, other in self.maxima if other > value and index - at < self.size]
        if kept and kept[-1][0] == index:  # several values at one index: the largest stays
            return MaxWindow(self.size, tuple(kept))
        return MaxWindow(self.size, (*kept, (index, value)))

    @property
    def current(self) -> int | None:
        """The largest value in the window; None before the first record."""
        return self.maxima[0][1] if self.maxima else None
