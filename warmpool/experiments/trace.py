"""A trace of requests as arrays, and how long each request runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOST_REQUESTS: Final = 20_000_000
"""More than this in one trace is refused before it is drawn: it would take gigabytes."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row of a trace file that cannot be used: its line (from 1) and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests in the order of their arrival.

    Attributes:
        arrivals: (n,) seconds since the first request, ascending.
        functions: (n,) index of each request's function in `names`.
        names: the functions' names.
        service_s: (n,) measured service times in seconds; NaN where the trace has none.
        input_tokens: (n,) tokens of the prompt; NaN where the trace has none.
        output_tokens: (n,) generated tokens; NaN where the trace has none.
        start: the instant of the first request, where the trace says so.
        bad_rows: the rows that were skipped.
    """

    arrivals: Floats
    functions: Ints
    names: tuple[str, ...]
    service_s: Floats
    input_tokens: Floats
    output_tokens: Floats
    start: datetime | None = None
    bad_rows: tuple[BadRow, ...] = field(default=())

    def __len__(self) -> int:
        """The number of requests."""
        return len(self.arrivals)

    @property
    def duration_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return float(self.arrivals[-1]) if len(self) else 0.0

    def of_function(self, index: int) -> Trace:
        """The requests of one function; arrivals keep their origin."""
        mine = self.functions == index
        return Trace(
            arrivals=self.arrivals[mine],
            functions=np.zeros(int(mine.sum()), dtype=np.int64),
            names=(self.names[index],),
            service_s=self.service_s[mine],
            input_tokens=self.input_tokens[mine],
            output_tokens=self.output_tokens[mine],
            start=self.start,
        )


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """How long a request occupies its replica.

    Attributes:
        base_s: seconds for each request.
        input_token_s: seconds for each token of its prompt.
        output_token_s: seconds for each generated token.
        fixed_s: if given, every request takes this long, whatever the trace says.
    """

    base_s: float = 0.05
    input_token_s: float = 0.0002
    output_token_s: float = 0.025
    fixed_s: float | None = None

    def times(self, trace: Trace) -> Floats:
        """Service times in seconds, (n,): fixed, else from tokens, else as measured, else `base_s`."""
        if self.fixed_s is not None:
            return np.full(len(trace), self.fixed_s)
        tokens = (
            self.base_s
            + self.input_token_s * np.nan_to_num(trace.input_tokens)
            + self.output_token_s * np.nan_to_num(trace.output_tokens)
        )
        has_tokens = ~(np.isnan(trace.input_tokens) & np.isnan(trace.output_tokens))
        measured = ~np.isnan(trace.service_s)
        return np.where(has_tokens, tokens, np.where(measured, trace.service_s, self.base_s))


def varied(service_s: Floats, sigma: float, seed: int) -> Floats:
    """Service times (n,) that vary around the given ones by a log-normal factor with mean 1."""
    if not sigma:
        return service_s
    drawn = np.random.default_rng((seed, 2)).standard_normal(len(service_s))
    return np.asarray(service_s * np.exp(sigma * drawn - sigma * sigma / 2), dtype=np.float64)


def trace_of(
    times: Floats,
    *,
    functions: Ints | None = None,
    names: tuple[str, ...] = ("function",),
    service_s: Floats | None = None,
    input_tokens: Floats | None = None,
    output_tokens: Floats | None = None,
    start: datetime | None = None,
    bad_rows: tuple[BadRow, ...] = (),
) -> Trace:
    """A trace from unordered arrival times (seconds, any origin); sorts everything by them.

    `start` is the instant of time 0 of `times`' earliest entry.
    """
    order = np.argsort(times, kind="stable")
    origin = float(times[order[0]]) if len(times) else 0.0

    def sorted_or(values: Floats | None) -> Floats:
        return np.full(len(times), np.nan) if values is None else values[order]

    return Trace(
        arrivals=times[order] - origin,
        functions=np.zeros(len(times), dtype=np.int64) if functions is None else functions[order],
        names=names,
        service_s=sorted_or(service_s),
        input_tokens=sorted_or(input_tokens),
        output_tokens=sorted_or(output_tokens),
        start=start,
        bad_rows=bad_rows,
    )
