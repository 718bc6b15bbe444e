"""Counts of a Revision's responses by status code and latency, as Knative's activator keeps them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

BUCKETS_MS = (
    5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 150.0, 200.0, 250.0, 300.0, 350.0, 400.0, 450.0, 500.0, 600.0,
    700.0, 800.0, 900.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 50000.0, 100000.0,
)  # fmt: skip
"""Upper bounds of the histogram's buckets in milliseconds (pkg/activator/handler/metrics.go)."""


class ResponseCounts:
    """One Revision's responses since the platform started."""

    __slots__ = ("_buckets", "_sums_ms")

    def __init__(self) -> None:
        self._buckets: dict[int, list[int]] = {}
        self._sums_ms: dict[int, float] = {}

    def add(self, status: int, seconds: float) -> None:
        """Count one response, and the seconds from the request's arrival to the response's end."""
        milliseconds = seconds * 1000.0
        counts = self._buckets.get(status)
        if counts is None:
            counts = self._buckets[status] = [0] * (len(BUCKETS_MS) + 1)
            self._sums_ms[status] = 0.0
        counts[bisect_left(BUCKETS_MS, milliseconds)] += 1
        self._sums_ms[status] += milliseconds

    def items(self) -> Iterator[tuple[int, list[int], float]]:
        """For each status code: responses in each bucket (the last one is unbounded), milliseconds in all."""
        for status, counts in self._buckets.items():
            yield status, counts, self._sums_ms[status]
