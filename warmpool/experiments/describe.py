"""What a trace looks like: its rate, its bursts, its rhythm, and how many replicas it needs at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from warmpool.experiments.trace import Trace

Floats = npt.NDArray[np.float64]
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Description:
    """A trace in figures; None where the trace is too short to tell.

    Attributes:
        requests: how many.
        functions: how many.
        duration_s: from the first arrival to the last.
        rate: requests per second.
        gap_variation: coefficient of variation of the gaps between arrivals; 1 for independent requests.
        dispersion: variance over mean of the requests per minute; 1 for independent requests.
        autocorrelation: of the requests per ten minutes, by lag in seconds: ten minutes, an hour, a day and a
            week.
        service_mean_s: mean service time.
        load: mean requests at once.
        concurrency: requests at once at the 50th, 90th and 99th percentile of time, and the most.
        idle_share: the share of time without any request.
    """

    requests: int
    functions: int
    duration_s: float
    rate: float | None
    gap_variation: float | None
    dispersion: float | None
    autocorrelation: dict[int, float | None]
    service_mean_s: float
    load: float | None
    concurrency: tuple[int, int, int, int]
    idle_share: float


def describe(trace: Trace, service_s: Floats) -> Description:
    """The figures of a trace with its service times (n,)."""
    arrivals = trace.arrivals
    duration = trace.duration_s
    gaps = np.diff(arrivals)
    per_minute = np.histogram(arrivals, np.arange(0, duration + 60, 60))[0] if duration >= 120 else None
    levels, idle = _concurrency(arrivals, service_s)
    return Description(
        requests=len(trace),
        functions=len(trace.names),
        duration_s=duration,
        rate=len(trace) / duration if duration else None,
        gap_variation=float(gaps.std() / gaps.mean()) if len(gaps) > 1 and gaps.mean() else None,
        dispersion=float(per_minute.var() / per_minute.mean())
        if per_minute is not None and per_minute.mean()
        else None,
        autocorrelation={
            lag: _autocorrelation(arrivals, duration, lag) for lag in (600, 3600, _DAY_S, 7 * _DAY_S)
        },
        service_mean_s=float(service_s.mean()),
        load=float(service_s.sum() / duration) if duration else None,
        concurrency=levels,
        idle_share=idle,
    )


def _concurrency(arrivals: Floats, service_s: Floats) -> tuple[tuple[int, int, int, int], float]:
    """Percentiles of the requests at once, weighted by time, and the share of time without any."""
    instants = np.concatenate([arrivals, arrivals + service_s])
    steps = np.concatenate([np.ones(len(arrivals)), -np.ones(len(arrivals))])
    order = np.lexsort((steps, instants))
    level = np.cumsum(steps[order])[:-1]
    held = np.diff(instants[order])
    total = held.sum()
    if not total:
        return (1, 1, 1, 1), 0.0
    by_level = np.argsort(level, kind="stable")
    share = np.cumsum(held[by_level]) / total

    def at(q: float) -> int:
        return int(level[by_level][min(len(share) - 1, int(np.searchsorted(share, q)))])

    return (at(0.5), at(0.9), at(0.99), int(level.max())), float(held[level == 0].sum() / total)


def _autocorrelation(arrivals: Floats, duration: float, lag_s: int) -> float | None:
    width = 600.0
    lag = round(lag_s / width)
    series = np.histogram(arrivals, np.arange(0, duration + width, width))[0].astype(np.float64)
    if len(series) < 2 * lag + 2 or not series.var():
        return None
    series -= series.mean()
    return float((series[lag:] * series[:-lag]).mean() / series.var())
