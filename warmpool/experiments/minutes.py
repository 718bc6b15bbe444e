"""Traces from demand by the minute, as a controller or a Prometheus remembers it.

Minutes hold no arrival times: these are drawn with a seed, uniformly within each. What a request takes is, by
Little's law, the mean number in flight over the arrival rate: one figure for all of them, and with the waits
for cold starts in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from warmpool.experiments.errors import TraceError
from warmpool.experiments.trace import MOST_REQUESTS, Trace, trace_of


@dataclass(frozen=True, slots=True)
class Minute:
    """The demand of one minute.

    Attributes:
        at: its beginning.
        arrivals: requests that arrived.
        concurrency: requests in flight, the mean.
    """

    at: datetime
    arrivals: float
    concurrency: float


def trace_of_minutes(minutes: Sequence[Minute], function: str, *, seed: int = 0) -> Trace:
    """The trace of one function.

    Raises:
        TraceError: nothing arrived in these minutes, or far too much.
    """
    total = sum(minute.arrivals for minute in minutes)
    if total < 1:
        raise TraceError(
            f"{function}: no requests are recorded"
            if not any(minute.concurrency for minute in minutes)
            else f"{function}: requests were in flight, but their source counts no arrivals"
        )
    if total > MOST_REQUESTS:
        raise TraceError(f"{function}: {total:,.0f} requests are too many: at most {MOST_REQUESTS:,}")
    rng = np.random.default_rng(seed)
    begins = np.array([minute.at.timestamp() for minute in minutes])
    # What is counted across a scrape is a fraction of a request: whole ones are made of the running sum.
    arrived = np.floor(np.cumsum([minute.arrivals for minute in minutes]) + 1e-6).astype(np.int64)
    counts = np.diff(arrived, prepend=0)
    times = np.repeat(begins, counts) + rng.random(int(counts.sum())) * 60
    in_flight = sum(minute.concurrency for minute in minutes) * 60
    service_s = np.full(len(times), in_flight / total if in_flight else np.nan)
    return trace_of(
        times,
        names=(function,),
        service_s=service_s,
        start=datetime.fromtimestamp(float(times.min()), minutes[0].at.tzinfo),
    )
