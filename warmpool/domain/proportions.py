"""Two shares of two samples compared, soundly for small samples.

* Fisher's exact test says whether one is higher by more than chance: exact for any sample, so that five
  answers may convict (R. A. Fisher, "The Design of Experiments", 1935).
* Newcombe's hybrid score interval bounds their difference, so that "not worse than by the margin" can be
  asserted, and a few answers without an error cannot acquit (R. G. Newcombe, "Interval estimation for the
  difference between independent proportions", Statistics in Medicine 17, 1998, method 10).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

_NEGLIGIBLE = 1e-18


@dataclass(frozen=True, slots=True)
class Proportion:
    """`hits` of `total`."""

    hits: int
    total: int

    @property
    def share(self) -> float:
        """Hits by total; 0 for an empty sample."""
        return self.hits / self.total if self.total else 0.0

    @property
    def rest(self) -> Proportion:
        """Those that are not hits."""
        return Proportion(self.total - self.hits, self.total)


def fisher_greater(first: Proportion, second: Proportion) -> float:
    """The probability of a difference at least as large as that of `first` over `second`, were they alike.

    One-sided: the hypergeometric tail of `first.hits` and more, given all margins.
    """
    hits, total = first.hits + second.hits, first.total + second.total
    most = min(hits, first.total)
    if not first.total or not second.total or not first.hits:
        return 1.0
    term = math.exp(
        _log_choose(first.total, first.hits)
        + _log_choose(second.total, second.hits)
        - _log_choose(total, hits)
    )
    tail = 0.0
    for count in range(first.hits, most + 1):
        tail += term
        if term < _NEGLIGIBLE * tail:
            break
        left = second.total - hits + count + 1
        term *= (first.total - count) * (hits - count) / ((count + 1) * left)
    return min(1.0, tail)


def newcombe(first: Proportion, second: Proportion, confidence: float) -> tuple[float, float]:
    """Bounds of `first.share - second.share`, each of them at `confidence` by itself (one-sided).

    From -1 to 1 for an empty sample: nothing is known.
    """
    if not first.total or not second.total:
        return -1.0, 1.0
    z = NormalDist().inv_cdf(confidence)
    low_1, high_1 = wilson(first, z)
    low_2, high_2 = wilson(second, z)
    difference = first.share - second.share
    below = math.hypot(first.share - low_1, high_2 - second.share)
    above = math.hypot(high_1 - first.share, second.share - low_2)
    return difference - below, difference + above


def wilson(sample: Proportion, z: float) -> tuple[float, float]:
    """The score interval of one share (E. B. Wilson, 1927), `z` standard deviations to each side."""
    n, p = sample.total, sample.share
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
