"""Two replays beside each other, arm by arm, with bootstrap intervals of the differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.replay_results import ReplayResults, RequestRecord

Floats = npt.NDArray[np.float64]

RESAMPLES: Final = 1000
_MOST_DRAWN: Final = 20_000_000
"""Numbers that one figure's resampling draws, at most."""
_ENDS: Final = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of one arm in two replays.

    Attributes:
        arm: its name.
        figure: what is compared; seconds, shares or GPU-seconds.
        first: in the first file.
        second: in the second.
        low: lower end of the 95 % interval of second - first; None for a figure that is a single sum.
        high: its upper end.
    """

    arm: str
    figure: str
    first: float
    second: float
    low: float | None = None
    high: float | None = None

    @property
    def change(self) -> float:
        """Second - first."""
        return self.second - self.first

    @property
    def certain(self) -> bool | None:
        """Whether the interval leaves out zero; None without one."""
        return None if self.low is None or self.high is None else self.low > 0 or self.high < 0


_Statistic = Callable[[Floats], Floats]
"""(samples, n) values to (samples,) figures."""


def _quantile(q: float) -> _Statistic:
    return lambda drawn: np.percentile(drawn, q, axis=1)


_FIGURES: Final[tuple[tuple[str, str, _Statistic], ...]] = (
    ("cold_rate", "cold", lambda drawn: drawn.mean(axis=1)),
    ("ttft_p50_s", "ttft_s", _quantile(50)),
    ("ttft_p95_s", "ttft_s", _quantile(95)),
    ("e2e_p50_s", "e2e_s", _quantile(50)),
    ("e2e_p95_s", "e2e_s", _quantile(95)),
)


def compare(first: ReplayResults, second: ReplayResults, *, seed: int = 0) -> list[Difference]:
    """The differences of the arms that both replays have; latencies count from when a request was due.

    Raises:
        ExperimentError: they have no arm in common.
    """
    common = [name for name in first.names if name in second.names]
    if not common:
        raise ExperimentError(
            f"no arm in common: {', '.join(first.names) or 'none'}; {', '.join(second.names) or 'none'}"
        )
    rng = np.random.default_rng(seed)
    found = []
    for arm in common:
        mine, other = first.of(arm), second.of(arm)
        for figure, attribute, statistic in _FIGURES:
            values, others = _values(mine, attribute), _values(other, attribute)
            if len(values) and len(others):
                found.append(_difference(arm, figure, statistic, (values, others), rng))
        gpu = [next((a.gpu for a in results.arms if a.arm == arm), None) for results in (first, second)]
        if gpu[0] is not None and gpu[1] is not None:
            found.append(Difference(arm, "gpu_s", gpu[0].total, gpu[1].total))
    return found


def _values(requests: Sequence[RequestRecord], attribute: str) -> Floats:
    values = [getattr(request, attribute) for request in requests if request.error is None]
    return np.array([value for value in values if value is not None], dtype=np.float64)


def _difference(
    arm: str, figure: str, statistic: _Statistic, values: tuple[Floats, Floats], rng: np.random.Generator
) -> Difference:
    first, second = (float(statistic(sample[np.newaxis])[0]) for sample in values)
    drawn = [_resampled(sample, statistic, rng) for sample in values]
    low, high = np.percentile(drawn[1] - drawn[0], _ENDS)
    return Difference(arm, figure, first, second, float(low), float(high))


def _resampled(values: Floats, statistic: _Statistic, rng: np.random.Generator) -> Floats:
    """The statistic of samples with replacement."""
    count = RESAMPLES
    pieces = []
    rows = max(1, min(count, _MOST_DRAWN // (10 * len(values)) or 1))
    for _ in range(0, count, rows):
        pieces.append(statistic(rng.choice(values, (rows, len(values)))))  # noqa: PERF401 - large arrays
    return np.concatenate(pieces)[:count]


def to_json(entry: Difference) -> dict[str, object]:
    """One difference as JSON."""
    names = ("arm", "figure", "first", "second", "change", "low", "high", "certain")
    return {name: getattr(entry, name) for name in names}
