"""Traces made on this machine, each from a seed: for experiments without a recording, and for tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from warmpool.domain.field_types import Duration, StrictModel
from warmpool.experiments.trace import MOST_REQUESTS, Trace, trace_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_HOUR: Final = 3600.0
_OFFICE: Final = (
    0.05, 0.04, 0.04, 0.04, 0.05, 0.08, 0.20, 0.50, 0.90, 1.00, 0.98, 0.95,
    0.80, 0.88, 0.96, 0.94, 0.85, 0.65, 0.42, 0.30, 0.22, 0.16, 0.11, 0.07,
)  # fmt: skip
"""The shape of a working day, hour by hour, as a share of its busiest hour."""

Rate = Annotated[float, Field(gt=0, le=10_000)]


class _Generator(StrictModel):
    duration: Duration
    """How long the trace lasts."""
    functions: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How many functions they are for: the second gets half as many as the first, the third a third."""


class Poisson(_Generator):
    """Independent requests at a constant rate."""

    kind: Literal["poisson"]
    rate: Rate
    """Requests per second."""


class Diurnal(_Generator):
    """Independent requests whose rate follows the hour and the day of the week."""

    kind: Literal["diurnal"]
    peak: Rate
    """Requests per second in the busiest hour."""
    weekend: Annotated[float, Field(ge=0, le=10)] = 0.15
    """Saturday and Sunday, as a share of a working day."""
    hours: Annotated[tuple[float, ...], Field(strict=False, min_length=24, max_length=24)] = _OFFICE


class Bursts(_Generator):
    """Gamma-distributed gaps: the larger the coefficient of variation, the more requests come in bursts."""

    kind: Literal["bursts"]
    rate: Rate
    variation: Annotated[float, Field(ge=0.05, le=30)] = 4.0


class OnOff(_Generator):
    """Poisson while on, silent while off; both last exponentially long."""

    kind: Literal["on-off"]
    rate: Rate
    on: Duration
    off: Duration


class Spikes(_Generator):
    """A low rate with spikes at random instants."""

    kind: Literal["spikes"]
    rate: Rate
    spikes: Annotated[int, Field(ge=1, le=100_000)]
    height: Rate
    """Requests per second in a spike."""
    length: Duration


Generator = Annotated[Poisson | Diurnal | Bursts | OnOff | Spikes, Field(discriminator="kind")]


class TooLargeError(ValueError):
    """A generator would make more requests than `MOST_REQUESTS`."""


def generate(what: Poisson | Diurnal | Bursts | OnOff | Spikes, start: datetime, seed: int) -> Trace:
    """A trace that begins at `start`; the same seed gives the same trace.

    Raises:
        TooLargeError: it would have more than `MOST_REQUESTS` requests.
    """
    rng = np.random.default_rng(seed)
    seconds = what.duration.total_seconds()
    _bound(what, seconds)
    match what:
        case Poisson():
            times = _poisson(rng, what.rate, 0.0, seconds)
        case Diurnal():
            times = _diurnal(rng, what, start, seconds)
        case Bursts():
            shape = 1 / what.variation**2
            count = int(what.rate * seconds * 1.2 + 50 * what.variation**2)
            times = np.cumsum(rng.gamma(shape, 1 / (what.rate * shape), count))
        case OnOff():
            times = _on_off(rng, what, seconds)
        case Spikes():
            spikes = [
                _poisson(rng, what.height, begin, min(seconds, begin + what.length.total_seconds()))
                for begin in rng.random(what.spikes) * seconds
            ]
            times = np.concatenate([_poisson(rng, what.rate, 0.0, seconds), *spikes])
    times = np.sort(times[times < seconds])
    if not len(times):
        return trace_of(times)
    return trace_of(
        times,
        functions=_functions(rng, what.functions, len(times)),
        names=tuple(f"function-{number}" for number in range(1, what.functions + 1)),
        start=start + timedelta(seconds=float(times[0])),
    )


def _functions(rng: np.random.Generator, functions: int, requests: int) -> Ints:
    """Whose request each is."""
    shares = 1 / np.arange(1, functions + 1)
    return np.asarray(rng.choice(functions, requests, p=shares / shares.sum()), dtype=np.int64)


def _bound(what: Poisson | Diurnal | Bursts | OnOff | Spikes, seconds: float) -> None:
    rate = what.peak if isinstance(what, Diurnal) else what.rate
    expected = rate * seconds
    if isinstance(what, Spikes):
        expected += what.spikes * what.height * what.length.total_seconds()
    if expected > MOST_REQUESTS:
        raise TooLargeError(
            f"{what.kind}: would make about {expected:,.0f} requests, must be at most {MOST_REQUESTS:,}; "
            "lower the rate or the duration"
        )


def _poisson(rng: np.random.Generator, rate: float, begin: float, end: float) -> Floats:
    count = rng.poisson(rate * max(0.0, end - begin))
    return begin + np.sort(rng.random(count)) * max(0.0, end - begin)


def _diurnal(rng: np.random.Generator, what: Diurnal, start: datetime, seconds: float) -> Floats:
    pieces: list[Floats] = []
    hour = start.replace(minute=0, second=0, microsecond=0)
    while (begin := (hour - start).total_seconds()) < seconds:
        share = what.hours[hour.hour] * (what.weekend if hour.weekday() >= 5 else 1.0)
        pieces.append(_poisson(rng, what.peak * share, max(0.0, begin), min(seconds, begin + _HOUR)))
        hour += timedelta(hours=1)
    return np.concatenate(pieces)


def _on_off(rng: np.random.Generator, what: OnOff, seconds: float) -> Floats:
    pieces: list[Floats] = [np.empty(0)]
    now = 0.0
    means: Sequence[float] = (what.on.total_seconds(), what.off.total_seconds())
    while now < seconds:
        on = rng.exponential(means[0])
        pieces.append(_poisson(rng, what.rate, now, min(seconds, now + on)))
        now += on + rng.exponential(means[1])
    return np.concatenate(pieces)
