"""How long replicas take to start, as distributions to draw from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class ColdStarts(Protocol):
    """A distribution of start times."""

    def draw(self, count: int, rng: np.random.Generator) -> Floats:
        """(count,) seconds from the order to readiness."""

    @property
    def p95_s(self) -> float:
        """The 95th percentile, s: the lead time of a window."""


@dataclass(frozen=True, slots=True)
class Constant:
    """Every start takes the same time."""

    seconds: float

    def draw(self, count: int, rng: np.random.Generator) -> Floats:  # noqa: ARG002 - nothing is random
        """(count,) seconds."""
        return np.full(count, self.seconds)

    @property
    def p95_s(self) -> float:
        """The same."""
        return self.seconds


@dataclass(frozen=True, slots=True)
class LogNormal:
    """A log-normal, given by its median and the standard deviation of its logarithm."""

    median_s: float
    sigma: float

    def draw(self, count: int, rng: np.random.Generator) -> Floats:
        """(count,) seconds."""
        return self.median_s * np.exp(self.sigma * rng.standard_normal(count))

    @property
    def p95_s(self) -> float:
        """The 95th percentile, s."""
        return float(self.median_s * np.exp(1.6448536269514722 * self.sigma))


@dataclass(frozen=True, slots=True)
class Empirical:
    """Starts as they were measured, drawn with replacement."""

    seconds: tuple[float, ...]

    def draw(self, count: int, rng: np.random.Generator) -> Floats:
        """(count,) seconds."""
        return rng.choice(np.array(self.seconds), count)

    @property
    def p95_s(self) -> float:
        """The 95th percentile, s."""
        return float(np.quantile(np.array(self.seconds), 0.95))
